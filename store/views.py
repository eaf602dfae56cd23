"""The rows of users as their raw views: three statements for any number of users."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import duckdb

from store.queries import BOUNDED_WEIGHT
from store.records import Event, Friend, UserViews

_FRIENDS = f"SELECT user_id, friend_id, {BOUNDED_WEIGHT} FROM data.social"
_EVENTS = "SELECT user_id, item_id, action, weight, ts, split FROM data.behaviors"
_TEXTS = "SELECT user_id, item_id, text, ts FROM data.texts"
_HELD_OUT = ("valid", "test")

_EventRow = tuple[str, str, str, float, datetime | None, str | None]
_TextRow = tuple[str | None, str, datetime | None]


def read_views(cursor: duckdb.DuckDBPyConnection, user_ids: Sequence[str]) -> dict[str, UserViews]:
    """Return the visible views of each user, in the orders that `Store.user_views` names."""
    wanted = list(dict.fromkeys(user_ids))
    ties: dict[str, dict[str, float]] = {user_id: defaultdict(float) for user_id in wanted}
    for user_id, friend_id, weight in _of_users(cursor, _FRIENDS, wanted):
        if friend_id != user_id:
            ties[user_id][friend_id] += weight
    people = list(dict.fromkeys([*wanted, *(friend for own in ties.values() for friend in own)]))
    rows = _of_users(cursor, _EVENTS, people)
    histories = _histories(rows)
    held_out = {(row[0], row[1]) for row in rows if row[5] in _HELD_OUT}
    texts: dict[str, list[_TextRow]] = {user_id: [] for user_id in wanted}
    for user_id, *row in _of_users(cursor, _TEXTS, wanted):
        if (user_id, row[0]) not in held_out:
            texts[user_id].append((row[0], row[1], row[2]))
    return {
        user_id: UserViews(
            history=tuple(histories[user_id]),
            texts=tuple(text for _, text, _ in sorted(texts[user_id], key=_text_by_time)),
            friends=tuple(
                Friend(other, weight, tuple(histories[other]))
                for other, weight in sorted(ties[user_id].items())
            ),
        )
        for user_id in wanted
    }


def _of_users(cursor: duckdb.DuckDBPyConnection, select: str, user_ids: list[str]) -> list[Any]:
    """Return the rows of some users; of one, by equality, which takes half the time of a list of one."""
    if len(user_ids) == 1:
        return cursor.execute(f"{select} WHERE user_id = $1", user_ids).fetchall()
    return cursor.execute(f"{select} WHERE user_id IN (SELECT unnest($1))", [user_ids]).fetchall()


def _histories(rows: list[_EventRow]) -> defaultdict[str, list[Event]]:
    histories: defaultdict[str, list[Event]] = defaultdict(list)
    for owner, item_id, action, weight, ts, split in sorted(rows, key=_by_time):
        if split not in _HELD_OUT:
            histories[owner].append(Event(item_id, action, weight, ts))
    return histories


def _by_time(row: _EventRow) -> tuple[object, ...]:
    """Undated first; the flag keeps None from being compared with a date."""
    return row[4] is not None, row[4], row[1], row[2]


def _text_by_time(row: _TextRow) -> tuple[object, ...]:
    """Undated first, as `_by_time`."""
    return row[2] is not None, row[2], row[0] or "", row[1]
