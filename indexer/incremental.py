"""The cheap reindex: the files of the serving index, with what changed since written beside them."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from encoder.dataset import rows_of
from encoder.runtime import Model
from indexer.arrays import IntArray
from indexer.building import ItemTower
from indexer.index import Index
from indexer.parts import DELTA_FILES, Change, write_delta
from store.artifact import DamagedArtifactError, build, new_id, pointed
from store.export import Export
from store.home import Home

log = logging.getLogger(__name__)

DELTA_SHARE = 0.05  # of the main part; beyond it the exact search beside FAISS would be felt
GONE_SHARE = 0.1
ALWAYS = 1_000  # changes that any index may carry


@dataclass(frozen=True)
class Difference:
    """What an index lacks of some items, by their position in a table, and what it has too much.

    Shapes:
        changed: (c,) int64 positions of items that are new, or differ; encoded: (c,) whether the vector must
        be made anew; removed: item ids that the index has and the table lacks.
    """

    changed: IntArray
    encoded: npt.NDArray[np.bool_]
    removed: list[str]


def difference(index: Index, hashes: pa.Table, model: Model) -> Difference:
    """Return how the available items differ from those of an index.

    Args:
        index: of the model.
        hashes: item_id, content, facts, blank of the available items, each once.
        model: items without text and id vector never have a vector, and are no difference.
    """
    ids = hashes.column("item_id")
    new_content, new_facts = hashes_array(hashes, "content"), hashes_array(hashes, "facts")
    main = rows_of(ids.cast(pa.large_string()), index.main.ids.column)
    late = {change.item_id: change for change in index.delta.changes()}
    rows = np.where(index.delta.now.there(main), main, -1)
    content, facts = (
        np.where((rows >= 0)[:, None], hashes_array(index.main.table, name)[rows], np.uint8(0))
        if len(index.main) else np.zeros_like(new_content)
        for name in ("content", "facts")
    )  # fmt: skip
    places = rows_of(pa.array(list(late), pa.string()), ids.combine_chunks())
    for place, change in zip(places.tolist(), late.values(), strict=True):
        if place >= 0:
            content[place] = np.frombuffer(change.content, np.uint8)
            facts[place] = np.frombuffer(change.facts, np.uint8)
    there = rows >= 0
    there[places[places >= 0]] = True
    encoded = ~there | (content != new_content).any(axis=1)
    known = rows_of(ids, model.item_ids)
    named = np.where(known >= 0, np.any(model.id_vectors, axis=1)[known], False)
    encodable = there | named | ~np.asarray(hashes.column("blank"))
    changed = np.flatnonzero((encoded | (facts != new_facts).any(axis=1)) & encodable)
    lost = np.ones(len(index.main), dtype=bool)
    lost[rows[rows >= 0]] = False
    lost &= index.delta.now.there(np.arange(len(lost)))
    removed = index.main.ids.of_rows(np.flatnonzero(lost))
    removed += [item_id for item_id, place in zip(late, places.tolist(), strict=True) if place < 0]
    return Difference(changed, encoded[changed], removed)


def changes_of(
    index: Index, items: pa.Table, hashes: pa.Table, encoded: npt.NDArray[np.bool_], tower: ItemTower
) -> list[Change]:
    """Return items as changes to an index; vectors that need not be made anew are taken from it.

    Args:
        index: of the model of the tower.
        tower: encodes the others.
        items: item_id, title, text, kind, attributes, of n items.
        hashes: item_id, content, facts of the same items in the same order.
        encoded: (n,) whether the vector must be made anew.
    """
    rows = rows_of(items.column("item_id"), tower.model.item_ids)
    vectors = np.empty((len(rows), tower.model.dim), dtype=np.float32)
    anew = np.flatnonzero(encoded)
    vectors[anew] = tower.vectors(items.take(pa.array(anew)), rows[anew])
    ids = items.column("item_id").to_pylist()
    vectors[~encoded] = index.vectors_of(index.rows([ids[i] for i in np.flatnonzero(~encoded)]))
    columns = (items.column(name).to_pylist() for name in ("kind", "attributes"))
    content, facts = (hashes.column(name).to_pylist() for name in ("content", "facts"))
    popularity = tower.popularity(rows).tolist()
    described = zip(ids, vectors, popularity, content, facts, *columns, strict=True)
    return [Change(*one) for one in described]


def next_to(
    home: Home, export: Export, hashes: pa.Table, tower: ItemTower, asked: dict[str, Any]
) -> Path | None:
    """Return the directory of an index made from the one that serves, or None where all is to be built.

    Args:
        home: where it serves, and where the new one goes.
        export: of the items.
        tower: of the model that is asked for.
        hashes: `export.item_hashes()`.
        asked: what the manifest must say for its files to be taken over.

    Raises:
        DamagedArtifactError: CURRENT names nothing that is there.
    """
    base = _base(home, asked)
    if base is None:
        return None
    found = difference(base, hashes, tower.model)
    touched = set(found.removed) | set(hashes.column("item_id").take(pa.array(found.changed)).to_pylist())
    kept = [change for change in base.delta.changes() if change.item_id not in touched]
    rows, size = len(kept) + len(found.changed), len(base.main)
    gone = base.delta.now.main_gone + len(touched)
    if rows > max(ALWAYS, DELTA_SHARE * size) or gone > max(ALWAYS, GONE_SHARE * size):
        log.info("reindex: %d of %d items changed since %s: building anew", rows, size, base.index_id)
        return None
    some = hashes.take(pa.array(found.changed))
    items = export.some_items(some.column("item_id").to_pylist())
    base.put(changes_of(base, items, some, found.encoded, tower), found.removed)
    index_id = new_id()
    with build(home.indexes, index_id) as draft:
        changes = base.delta.changes()
        draft.facts = base.manifest | {
            "export_id": export.export_id,
            "base": base.index_id,
            "items": len(base),
            "changes": len(changes),
            "items_without_vector": len(hashes) - len(base),
        }
        names = draft.facts.pop("files")
        for name in names:
            if name not in DELTA_FILES:
                # A copy: damage to a file of one index must not reach another.
                shutil.copyfile(home.indexes / base.index_id / name, draft.path / name)
        write_delta(draft.path, changes, base.dim, base.delta.main_gone())
    log.info("reindex: %d items changed and %d went since %s", len(touched) - len(found.removed),
             len(found.removed), base.index_id)  # fmt: skip
    return home.indexes / index_id


def hashes_array(table: pa.Table, name: str) -> npt.NDArray[np.uint8]:
    """Return a column of 16-byte hashes as (n, 16) uint8."""
    column = table.column(name).cast(pa.binary(16)).combine_chunks()
    if not len(column):
        return np.zeros((0, 16), dtype=np.uint8)
    raw = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, 16)
    return raw[column.offset : column.offset + len(column)]


def _base(home: Home, asked: dict[str, Any]) -> Index | None:
    """Return the serving index where its files can be taken over."""
    if not home.current_index.exists():
        return None
    directory = pointed(home.current_index, home.indexes)
    try:
        index = Index.load(directory)
    except DamagedArtifactError as error:
        log.warning("reindex: %s; building anew", error)
        return None
    return index if all(index.manifest.get(name) == value for name, value in asked.items()) else None
