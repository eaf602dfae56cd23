"""Put and delete items, one request at a time, by the statements of an import."""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from store.imports import ITEM_VECTOR_LENGTH, Source, check, item_vector_length, upsert_rows
from store.records import ItemRecord, item_of_row
from store.state import NO_TIME, StateDraft
from store.tables import MAX_ID_BYTES, TABLES
from store.writes.request import FloatArray, ItemRow, Rejected, WriteResult

_ITEMS = TABLES[0]
_TYPES = {
    "item_id": "VARCHAR",
    "title": "VARCHAR",
    "text": "VARCHAR",
    "kind": "VARCHAR",
    "attributes": "VARCHAR",
    "available": "VARCHAR",
    "updated_at": "TIMESTAMP",
    "vector": "FLOAT[]",
}
# The join reads only the rows of these items; a set operation would read the vectors of all.
_SAME = " AND ".join(f"old.{name} IS NOT DISTINCT FROM new.{name}" for name in _TYPES)
_CHANGED = f"""
    SELECT * EXCLUDE (_row, _reason) FROM checked_items WHERE _reason IS NULL AND item_id NOT IN (
        SELECT new.item_id FROM checked_items AS new JOIN data.items AS old ON old.item_id = new.item_id
        WHERE new._reason IS NULL AND {_SAME})"""
_OTHER_LENGTH = f"""
    SELECT _row, item_id, len(vector) FROM checked_items WHERE _reason = '{ITEM_VECTOR_LENGTH}'
    ORDER BY _row LIMIT 1"""
_AT_ONCE = 64  # items whose vectors are Python objects at a time
_SOURCE = Source(_ITEMS, Path("request"), _ITEMS.columns, (), _TYPES)


class ItemVectorLengthError(ValueError):
    """The vector of an item has another length than those of other items; nothing is written."""

    def __init__(self, position: int, item_id: str, length: int, expected: int) -> None:
        super().__init__(
            f"items[{position}], {item_id!r}, has a vector of {length} numbers, and the vectors of the other "
            f"items have {expected}"
        )
        self.field = f"items[{position}].vector"
        self.item_id, self.length, self.expected = item_id, length, expected


def put_items(
    cursor: duckdb.DuckDBPyConnection, draft: StateDraft, rows: Sequence[ItemRow], *, by_row: bool = False
) -> tuple[WriteResult, list[ItemRecord]]:
    """Put items; a known one is replaced whole. Returns the result, and the items that are new or changed.

    An item whose vector has another length than those of other items is rejected where `by_row` is set.

    Raises:
        ItemVectorLengthError: there is one, and `by_row` is not set.
    """
    cursor.register("put_rows", _staged(rows))
    faultless = "NULL::VARCHAR AS _line, NULL::VARCHAR AS _fault"
    cursor.execute(f"CREATE TEMP VIEW raw_items AS SELECT *, {faultless} FROM put_rows")
    check(cursor, _SOURCE)
    for row, item_id, length in [] if by_row else cursor.execute(_OTHER_LENGTH).fetchall():
        raise ItemVectorLengthError(row - 1, item_id, length, item_vector_length(cursor))
    cursor.execute(f"""
        UPDATE checked_items SET _reason = 'word_too_long'
        WHERE _reason IS NULL AND strlen(kind) > {MAX_ID_BYTES}""")
    reasons = "SELECT _row, _reason FROM checked_items WHERE _reason IS NOT NULL ORDER BY _row"
    rejected = tuple(Rejected(row - 1, reason) for row, reason in cursor.execute(reasons).fetchall())
    items: list[ItemRecord] = []
    cursor.execute(_CHANGED)
    while some := cursor.fetchmany(_AT_ONCE):
        items += map(item_of_row, some)
    inserted, updated = upsert_rows(cursor, _ITEMS, _ITEMS.columns)
    for item in items:
        draft.items.code(item.item_id)
    for name in ("TABLE checked_items", "TABLE accepted_items", "VIEW raw_items"):
        cursor.execute(f"DROP {name}")
    cursor.unregister("put_rows")
    unchanged = len(rows) - len(rejected) - inserted - updated
    return WriteResult(inserted, updated, unchanged, rejected, without_text=sum(map(_is_blank, items))), items


def delete_items(
    cursor: duckdb.DuckDBPyConnection, draft: StateDraft, item_ids: Sequence[str]
) -> tuple[WriteResult, list[str]]:
    """Delete items; return the result, and the ids of those that were deleted.

    All columns of an item are emptied, and it becomes unavailable; its row stays, because behaviours name it.
    """
    rejected = [Rejected(i, "unknown_item") for i, name in enumerate(item_ids) if name not in draft.items]
    known = sorted({name for name in item_ids if name in draft.items})
    rows = cursor.execute(
        """
        UPDATE data.items SET title = NULL, text = NULL, kind = NULL, attributes = '{}', available = false,
            updated_at = NULL, vector = NULL
        WHERE item_id IN (SELECT unnest($1)) AND (available OR title IS NOT NULL OR text IS NOT NULL
            OR kind IS NOT NULL OR attributes <> '{}' OR updated_at IS NOT NULL
            OR vector IS NOT NULL)
        RETURNING item_id""",
        [known],
    ).fetchall()
    deleted = sorted(str(item_id) for (item_id,) in rows)
    unchanged = len(item_ids) - len(rejected) - len(deleted)
    return WriteResult(0, len(deleted), unchanged, tuple(rejected)), deleted


def _staged(rows: Sequence[ItemRow]) -> pa.Table:
    columns = dict(zip(ItemRow._fields, zip(*rows, strict=True), strict=True))
    times = pa.array([None if ts == NO_TIME else ts for ts in columns.pop("updated_at")], pa.timestamp("us"))
    available = pa.array(["true" if one else "false" for one in columns.pop("available")], pa.string())
    vectors = columns.pop("vector")
    words = {name: pa.array(column, pa.string()) for name, column in columns.items()}
    numbers = pa.array(range(1, len(rows) + 1), pa.int64())
    others = {"available": available, "updated_at": times, "vector": _lists(vectors)}
    return pa.table({"_row": numbers} | words | others)


def _lists(vectors: Sequence[FloatArray | None]) -> pa.Array:
    """Return vectors as an Arrow array of lists of float32, NULL for None."""
    present = [vector for vector in vectors if vector is not None]
    ends = np.cumsum([0 if vector is None else len(vector) for vector in vectors], dtype=np.int32)
    missing = pa.array([vector is None for vector in vectors])
    values = np.concatenate(present, dtype=np.float32) if present else np.zeros(0, dtype=np.float32)
    return pa.ListArray.from_arrays(np.concatenate([[0], ends]).astype(np.int32), values, mask=missing)


def _is_blank(item: ItemRecord) -> bool:
    return item.available and not ((item.title or "") + (item.text or "")).strip()
