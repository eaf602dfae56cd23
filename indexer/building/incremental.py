"""The cheap reindex: the files of the serving index, with what changed since written beside them."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from encoder.dataset import rows_of
from indexer.building.assemble import files_taken_over, lay_out, take_over
from indexer.building.difference import difference, too_many
from indexer.building.items import ItemTower, as_changes
from indexer.building.users import ExportedUsers, build_users, put_users
from indexer.files import ItemChange
from indexer.index import Index
from indexer.users import FOLDER, open_users
from store.artifact import DamagedArtifactError, build, new_id, read_pointer
from store.attributes import left_out_message, usable_attributes
from store.export import Export
from store.home import Home

log = logging.getLogger(__name__)


def changes_of(
    index: Index, items: pa.Table, hashes: pa.Table, encoded: npt.NDArray[np.bool_], tower: ItemTower
) -> list[ItemChange]:
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
    return as_changes(items, vectors, tower.popularity(rows), hashes)


def without_bad(
    items: pa.Table, hashes: pa.Table, encoded: npt.NDArray[np.bool_]
) -> tuple[pa.Table, pa.Table, npt.NDArray[np.bool_], dict[str, str]]:
    """Return what `changes_of` takes, without items whose attributes cannot be used, and why they cannot."""
    ids, texts = (items.column(name).to_pylist() for name in ("item_id", "attributes"))
    usable, reasons = usable_attributes(zip(ids, texts, strict=True))
    kept = np.array([item_id in usable for item_id in ids], dtype=bool)
    return items.filter(pa.array(kept)), hashes.filter(pa.array(kept)), encoded[kept], reasons


def incremental_reindex(
    home: Home, folder: Path, people: ExportedUsers, hashes: pa.Table, asked: dict[str, Any], room: int | None
) -> Path | None:
    """Return the directory of an index made from the one that serves, or None where all is to be built.

    Args:
        home: where it serves, and where the new one goes.
        folder: for what is built on the way, such as a user index that too much changed for.
        people: the users, and the export and the tower that the items are of, too.
        hashes: `export.item_hashes()`.
        asked: what the manifest must say for its files to be taken over.
        room: memory budget of a user index that is built.

    Raises:
        DamagedArtifactError: CURRENT names nothing that is there.
    """
    base = _base(home, asked)
    if base is None or not _put_items(base, people.export, hashes, people.tower):
        return None
    source = home.indexes / base.index_id
    users = open_users(source, base.manifest)
    index_id = new_id()
    with build(home.indexes, index_id) as draft:
        draft.facts = base.manifest | {
            "export_id": people.export.export_id,
            "base": base.index_id,
            "items_without_vector": base.without_vector,
            "items_left_out": len(hashes) - len(base) - base.without_vector,
            **take_over(source, draft.path, base),
        }
        digests: dict[str, str] = draft.facts.pop("files")
        # Whether the copies are whole is seen when the new index is read back.
        draft.digests |= {name: digests[name] for name in files_taken_over(base)}
        if users is not None and put_users(users, people):
            kept = users.manifest | {"without_vector": len(people.hashes) - len(users)}
            draft.facts[FOLDER] = kept | take_over(source / FOLDER, draft.path / FOLDER, users)
            names = [f"{FOLDER}/{name}" for name in files_taken_over(users)]
            draft.digests |= {name: digests[name] for name in names}
        else:
            built = build_users(folder, people, users, asked["asked"]["ann_recall"], room)
            draft.facts[FOLDER] = lay_out(folder / FOLDER, draft.path / FOLDER, built.fitted, built.facts)
    return home.indexes / index_id


def _put_items(base: Index, export: Export, hashes: pa.Table, tower: ItemTower) -> bool:
    """Put what changed of the items on top of an index; return False where that is too much, undone."""
    found = difference(base, hashes)
    some = hashes.take(pa.array(found.changed))
    touched = set(found.removed) | set(some.column("item_id").to_pylist())
    kept = sum(change.has_vector and change.item_id not in touched for change in base.delta.changes())
    rows = kept + int(tower.encodable(some).sum())
    if too_many(rows, base.delta.now.main_gone + len(touched), len(base.main)):
        log.info("reindex: %d of %d items changed since %s: building anew",
                 rows, len(base.main), base.index_id)  # fmt: skip
        return False
    items = export.some_items(some.column("item_id").to_pylist())
    items, some, encoded, reasons = without_bad(items, some, found.encoded)
    if reasons:
        log.warning("reindex: %s", left_out_message(reasons))
    base.put(changes_of(base, items, some, encoded, tower), [*found.removed, *reasons])
    log.info("reindex: %d items changed and %d went since %s", len(found.changed), len(found.removed),
             base.index_id)  # fmt: skip
    return True


def _base(home: Home, asked: dict[str, Any]) -> Index | None:
    """Return the serving index where its files can be taken over."""
    if not home.current_index.exists():
        return None
    directory = read_pointer(home.current_index, home.indexes)
    try:
        index = Index.load(directory)
    except DamagedArtifactError as error:
        log.warning("reindex: %s; building anew", error)
        return None
    return index if all(index.manifest.get(name) == value for name, value in asked.items()) else None
