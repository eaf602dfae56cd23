"""Write impressions: what a group of requests reports is merged with what the store knows of it.

No state beside the store holds impressions, as no query needs them. So a group first reads those of its rows
that are known, in one statement, and writes at its end what is new and what changed.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from store.imports import SAME_IMPRESSION
from store.state import NO_TIME
from store.writes.request import ImpressionRow, Rejected, WriteResult, refusal_of_impression

_Key = tuple[str, str, str, int]
_KNOWN = f"""
    SELECT DISTINCT old.user_id, old.item_id, coalesce(epoch_us(old.ts), ({NO_TIME + 1} - 1)::BIGINT),
        old.position, coalesce(old.query_id, ''), old.clicked
    FROM data.impressions AS old JOIN new_rows AS new ON {SAME_IMPRESSION}"""
_UPDATE = f"""
    UPDATE data.impressions AS old SET ts = new.ts, position = new.position, clicked = new.clicked
    FROM new_rows AS new WHERE {SAME_IMPRESSION}"""


@dataclass
class PendingImpressions:
    """The impressions that a group of requests names, as they will be.

    Attributes:
        rows: those that the store knows or will know, by identity.
        new: identities of those to insert.
        changed: identities of those to update.
    """

    rows: dict[_Key, ImpressionRow] = field(default_factory=dict)
    new: set[_Key] = field(default_factory=set)
    changed: set[_Key] = field(default_factory=set)

    def read(self, cursor: duckdb.DuckDBPyConnection, rows: Sequence[ImpressionRow]) -> None:
        """Read from the store what it knows of some impressions, before any of them is appended."""
        if not rows:
            return
        cursor.register("new_rows", _table(rows))
        known = (ImpressionRow(*row) for row in cursor.execute(_KNOWN).fetchall())
        self.rows |= {_key(row): row for row in known}
        cursor.unregister("new_rows")

    def append(self, rows: Iterable[ImpressionRow], items: Container[str]) -> WriteResult:
        """Append the impressions of a request, whose rows were read.

        Rows of one impression in the request become one, which counts as inserted, updated or unchanged; the
        others count as unchanged.
        """
        rejected: list[Rejected] = []
        merged: dict[_Key, ImpressionRow] = {}
        accepted = 0
        for position, row in enumerate(rows):
            reason = refusal_of_impression(row, items)
            if reason is not None:
                rejected.append(Rejected(position, reason))
                continue
            accepted += 1
            key = _key(row)
            merged[key] = _merged(merged[key], row) if key in merged else row
        inserted = updated = 0
        for key, row in merged.items():
            old = self.rows.get(key)
            now = row if old is None else _merged(old, row)
            if old is None:
                self.new.add(key)
                inserted += 1
            elif now != old:
                updated += 1
                if key not in self.new:
                    self.changed.add(key)
            self.rows[key] = now
        return WriteResult(inserted, updated, accepted - inserted - updated, tuple(rejected))

    def flush(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Write what is new and what changed to the store."""
        for sql, keys in (
            ("INSERT INTO data.impressions BY NAME FROM new_rows", self.new),
            (_UPDATE, self.changed),
        ):
            if keys:
                cursor.register("new_rows", _table([self.rows[key] for key in sorted(keys)]))
                cursor.execute(sql)
                cursor.unregister("new_rows")


def _key(row: ImpressionRow) -> _Key:
    """Return the identity of an impression: its query counts, without one its time."""
    return row.user_id, row.item_id, row.query_id, NO_TIME if row.query_id else row.ts


def _merged(old: ImpressionRow, new: ImpressionRow) -> ImpressionRow:
    """Return an impression with the values that a later row gives; once clicked it stays so."""
    return old._replace(
        ts=old.ts if new.ts == NO_TIME else new.ts,
        position=old.position if new.position is None else new.position,
        clicked=old.clicked or new.clicked,
    )


def _table(rows: Sequence[ImpressionRow]) -> pa.Table:
    users, items, times, positions, queries, clicked = zip(*rows, strict=True)
    return pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "item_id": pa.array(items, pa.string()),
            "ts": pa.array([None if ts == NO_TIME else ts for ts in times], pa.timestamp("us")),
            "position": pa.array(positions, pa.int64()),
            "query_id": pa.array([query or None for query in queries], pa.string()),
            "clicked": pa.array(clicked, pa.bool_()),
        }
    )
