"""How an export differs from an index, and the difference as changes to the index."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from encoder.dataset import rows_of
from indexer.building.items import ItemTower, as_changes
from indexer.files import IntArray, ItemChange
from indexer.index import Index
from store.attributes import usable_attributes

DELTA_SHARE = 0.05  # of the main part; with more appended rows, the exact search of them would be felt
REMOVED_SHARE = 0.1
ALWAYS = 1_000  # changes that any index may carry


@dataclass(frozen=True)
class Difference:
    """How n rows of a table differ from an index.

    Shapes:
        changed: (c,) int64 positions in the table of rows that are new or differ.

    Attributes:
        removed: ids that the index has and the table lacks.
    """

    changed: IntArray
    removed: list[str]


def difference(index: Index, hashes: pa.Table) -> Difference:
    """Compare the rows of a table with those of an index by their hashes.

    Args:
        index: of the model that encodes them.
        hashes: item_id, content, facts of n rows, each id once.
    """
    ids = hashes.column("item_id")
    new_content, new_facts = hashes_array(hashes, "content"), hashes_array(hashes, "facts")
    main = rows_of(ids.cast(pa.large_string()), index.main.ids.column)
    appended = {change.item_id: change for change in index.delta.changes()}
    rows = np.where(index.delta.state.live(main), main, -1)
    content, facts = (
        np.where((rows >= 0)[:, None], hashes_array(index.main.table, name)[rows], np.uint8(0))
        if len(index.main) else np.zeros_like(new_content)
        for name in ("content", "facts")
    )  # fmt: skip
    places = rows_of(pa.array(list(appended), pa.string()), ids.combine_chunks())
    for place, change in zip(places.tolist(), appended.values(), strict=True):
        if place >= 0:
            content[place] = np.frombuffer(change.content, np.uint8)
            facts[place] = np.frombuffer(change.facts, np.uint8)
    indexed = rows >= 0
    indexed[places[places >= 0]] = True
    differs = (content != new_content).any(axis=1) | (facts != new_facts).any(axis=1)
    changed = np.flatnonzero(~indexed | differs)
    lost = np.ones(len(index.main), dtype=bool)
    lost[rows[rows >= 0]] = False
    lost &= index.delta.state.live(np.arange(len(lost)))
    removed = index.main.ids.of_rows(np.flatnonzero(lost))
    removed += [item_id for item_id, place in zip(appended, places.tolist(), strict=True) if place < 0]
    return Difference(changed, removed)


def too_many(appended: int, removed: int, size: int) -> bool:
    """Tell whether an index is better rebuilt than with so many changes beside its main part of `size` rows.

    Args:
        appended: rows after the main part.
        removed: rows of the main part that are removed.
        size: of the main part.
    """
    return appended > max(ALWAYS, DELTA_SHARE * size) or removed > max(ALWAYS, REMOVED_SHARE * size)


def hashes_array(table: pa.Table, name: str) -> npt.NDArray[np.uint8]:
    """Return a column of 16-byte hashes as (n, 16) uint8."""
    column = table.column(name).cast(pa.binary(16)).combine_chunks()
    if not len(column):
        return np.zeros((0, 16), dtype=np.uint8)
    raw = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, 16)
    return raw[column.offset : column.offset + len(column)]


def changes_of(items: pa.Table, hashes: pa.Table, tower: ItemTower) -> list[ItemChange]:
    """Make changes to an index of the tower's model from items.

    Args:
        items: item_id, title, text, kind, attributes, vector, of n items.
        hashes: item_id, content, facts of the same items in the same order.
        tower: encodes the items.
    """
    rows = rows_of(items.column("item_id"), tower.model.item_ids)
    return as_changes(items, tower.vectors(items, rows), tower.popularity(rows), hashes)


def without_bad(items: pa.Table, hashes: pa.Table) -> tuple[pa.Table, pa.Table, dict[str, str]]:
    """Drop items with unusable attributes from the arguments of `changes_of`; return the reasons, too."""
    ids, texts = (items.column(name).to_pylist() for name in ("item_id", "attributes"))
    parsed, reasons = usable_attributes(zip(ids, texts, strict=True))
    usable = np.array([item_id in parsed for item_id in ids], dtype=bool)
    return items.filter(pa.array(usable)), hashes.filter(pa.array(usable)), reasons
