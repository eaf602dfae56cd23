"""Rows on their way into the store: gathered from many requests, written with a few statements."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import duckdb
import pyarrow as pa

from store.state.packing import NO_TIME
from store.writes.rows import BehaviorRow, FriendRow, TextRow

_TIME = pa.timestamp("us")
_ROWS = 50  # between pauses: half a millisecond
_Row = TypeVar("_Row")
_NEW_WEIGHTS = """
    UPDATE data.behaviors AS old SET weight = new.weight FROM new_rows AS new
    WHERE old.user_id = new.user_id AND old.item_id = new.item_id AND old.action = new.action
      AND old.ts IS NOT DISTINCT FROM new.ts"""
_NEW_TIES = """
    UPDATE data.social AS old SET weight = new.weight, ts = coalesce(new.ts, old.ts) FROM new_rows AS new
    WHERE old.user_id = new.user_id AND old.friend_id = new.friend_id AND old.relation = new.relation"""


@dataclass
class Pending:
    """What a group of requests changes; of several changes of one row the last counts."""

    behaviors: list[BehaviorRow] = field(default_factory=list)
    weights: dict[tuple[object, ...], BehaviorRow] = field(default_factory=dict)
    texts: list[tuple[TextRow, int]] = field(default_factory=list)  # with the occurrence number
    ties: list[FriendRow] = field(default_factory=list)
    new_ties: dict[tuple[object, ...], FriendRow] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    pause: Callable[[], None] = lambda: None  # called every few rows: what is more urgent goes first

    def unhurried(self, rows: Iterable[_Row]) -> Iterator[_Row]:
        """Yield rows, with a pause after every few."""
        for number, row in enumerate(rows, 1):
            yield row
            if number % _ROWS == 0:
                self.pause()

    def flush(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Write everything; what was inserted and then changed within the group ends up changed."""
        self.pause()
        names = BehaviorRow._fields
        _run(cursor, "INSERT INTO data.behaviors BY NAME FROM new_rows", _table(names, self.behaviors))
        _run(cursor, _NEW_WEIGHTS, _table(names, list(self.weights.values())))
        texts = _table(TextRow._fields, [row for row, _ in self.texts])
        numbers = pa.array([number for _, number in self.texts], pa.int32())
        _run(
            cursor,
            "INSERT INTO data.texts BY NAME SELECT * REPLACE (nullif(item_id, '') AS item_id) FROM new_rows",
            texts.append_column("occurrence", numbers),
        )
        _run(cursor, "INSERT INTO data.social BY NAME FROM new_rows", _table(FriendRow._fields, self.ties))
        _run(cursor, _NEW_TIES, _table(FriendRow._fields, list(self.new_ties.values())))


def _table(names: tuple[str, ...], rows: list[BehaviorRow] | list[TextRow] | list[FriendRow]) -> pa.Table:
    columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())
    times = pa.array([None if ts == NO_TIME else ts for ts in columns.pop("ts")], _TIME)
    weights = {"weight": pa.array(columns.pop("weight"), pa.float64())} if "weight" in columns else {}
    words = {name: pa.array(column, pa.string()) for name, column in columns.items()}
    return pa.table(words | weights | {"ts": times})


def _run(cursor: duckdb.DuckDBPyConnection, sql: str, rows: pa.Table) -> None:
    if not len(rows):
        return
    cursor.register("new_rows", rows)
    cursor.execute(sql)
    cursor.unregister("new_rows")
