"""Apply behaviours, texts and friendships to the derived state, and gather the rows to write to the store.

The state tells known rows from new ones, because it holds the identity of every row; a lookup in the store
would cost a scan. Rows are refused by the rules of an import, with its reasons (store/imports/validation.py).
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import duckdb
import numpy as np
import pyarrow as pa

from store.imports import DUPLICATE
from store.state import (
    EVENT,
    NO_ITEM,
    NO_TIME,
    TEXT,
    Friendships,
    StateDraft,
    find_row,
    pack_event_identity,
    pack_text_identity,
)
from store.writes.consents import PendingConsents
from store.writes.impressions import PendingImpressions
from store.writes.request import (
    BehaviorRow,
    FriendRow,
    Rejected,
    TextRow,
    WriteResult,
    refusal_of_behavior,
    refusal_of_friend,
    refusal_of_text,
)

_TIME = struct.Struct("<q")
_WEIGHT = struct.Struct("<d")
_WEIGHT_OFFSET = len(pack_event_identity(0, 0, 0))
_FLAG = struct.Struct("?")
_VISIBLE = _FLAG.pack(False)
_ROWS_BETWEEN_PAUSES = 50  # half a millisecond
_Row = TypeVar("_Row")
_UPDATE_WEIGHTS = """
    UPDATE data.behaviors AS old SET weight = new.weight FROM new_rows AS new
    WHERE old.user_id = new.user_id AND old.item_id = new.item_id AND old.action = new.action
      AND old.ts IS NOT DISTINCT FROM new.ts"""
_UPDATE_FRIENDS = """
    UPDATE data.social AS old SET weight = new.weight, ts = coalesce(new.ts, old.ts) FROM new_rows AS new
    WHERE old.user_id = new.user_id AND old.friend_id = new.friend_id AND old.relation = new.relation"""


@dataclass
class PendingRows:
    """Rows that a group of requests inserts and updates; of several updates of one row, the last counts.

    Attributes:
        impressions: those that the group names.
        consents: those that the group changes.
        new_weights: behaviours with their new weight, by user and packed identity.
        texts: new texts, each with its occurrence number.
        new_friends: friendships with their new weight and time, by user, friend and relation.
        touched: the users whose rows change, of which the state has a copy.
        pause: called every few rows, so that more urgent work goes first.
    """

    behaviors: list[BehaviorRow] = field(default_factory=list)
    new_weights: dict[tuple[object, ...], BehaviorRow] = field(default_factory=dict)
    impressions: PendingImpressions = field(default_factory=PendingImpressions)
    consents: PendingConsents = field(default_factory=PendingConsents)
    texts: list[tuple[TextRow, int]] = field(default_factory=list)
    friends: list[FriendRow] = field(default_factory=list)
    new_friends: dict[tuple[object, ...], FriendRow] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    pause: Callable[[], None] = lambda: None

    def with_pauses(self, rows: Iterable[_Row]) -> Iterator[_Row]:
        """Yield rows, and call `pause` after every few."""
        for number, row in enumerate(rows, 1):
            yield row
            if number % _ROWS_BETWEEN_PAUSES == 0:
                self.pause()

    def flush(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Write all rows to the store, updates last: they may be of rows that this group inserts."""
        self.pause()
        names = BehaviorRow._fields
        _run(cursor, "INSERT INTO data.behaviors BY NAME FROM new_rows", _table(names, self.behaviors))
        _run(cursor, _UPDATE_WEIGHTS, _table(names, list(self.new_weights.values())))
        texts = _table(TextRow._fields, [row for row, _ in self.texts])
        numbers = pa.array([number for _, number in self.texts], pa.int32())
        _run(
            cursor,
            "INSERT INTO data.texts BY NAME SELECT * REPLACE (nullif(item_id, '') AS item_id) FROM new_rows",
            texts.append_column("occurrence", numbers),
        )
        _run(cursor, "INSERT INTO data.social BY NAME FROM new_rows", _table(FriendRow._fields, self.friends))
        _run(cursor, _UPDATE_FRIENDS, _table(FriendRow._fields, list(self.new_friends.values())))
        self.impressions.flush(cursor)
        self.consents.flush(cursor)


def append_behaviors(draft: StateDraft, rows: Sequence[BehaviorRow], pending: PendingRows) -> WriteResult:
    """Append behaviours; a known one takes the new weight."""
    rejected: list[Rejected] = []
    by_user: dict[str, dict[bytes, BehaviorRow]] = {}
    for position, row in enumerate(pending.with_pauses(rows)):
        reason = refusal_of_behavior(row, draft.items)
        if reason is None:
            identity = pack_event_identity(
                row.ts, draft.items.code(row.item_id), draft.words.code(row.action)
            )
            mine = by_user.setdefault(row.user_id, {})
            if identity not in mine:
                mine[identity] = row
                continue
            reason = DUPLICATE
        rejected.append(Rejected(position, reason))
    counts = Counter[str]()
    for user_id, mine in pending.with_pauses(by_user.items()):
        before = packed = draft.get("events", user_id)
        for identity, row in mine.items():
            packed, outcome = _with_event(packed, identity, row, pending)
            counts[outcome] += 1
        if packed is not before:
            draft.put("events", user_id, packed)
            pending.touched.add(user_id)
    return WriteResult(counts["inserted"], counts["updated"], counts["unchanged"], tuple(rejected))


def _with_event(packed: bytes, identity: bytes, row: BehaviorRow, pending: PendingRows) -> tuple[bytes, str]:
    """Add an event to the packed events of a user, or update its weight; return them and what was done."""
    newest = _TIME.unpack_from(packed, len(packed) - EVENT.itemsize)[0] if packed else NO_TIME - 1
    start = find_row(packed, EVENT.itemsize, identity) if row.ts <= newest else -1
    if start < 0:
        pending.behaviors.append(row)
        added = identity + _WEIGHT.pack(row.weight) + _VISIBLE
        if row.ts >= newest:
            return packed + added, "inserted"
        return _insert_by_time(packed, added, row.ts, EVENT), "inserted"
    start += _WEIGHT_OFFSET
    weight = _WEIGHT.pack(row.weight)
    if packed[start : start + len(weight)] == weight:
        return packed, "unchanged"
    pending.new_weights[row.user_id, identity] = row
    return packed[:start] + weight + packed[start + len(weight) :], "updated"


def append_texts(draft: StateDraft, rows: Sequence[TextRow], pending: PendingRows) -> WriteResult:
    """Append texts; the n-th of equal ones in a request is new where fewer than n are known."""
    rejected: list[Rejected] = []
    inserted = unchanged = 0
    seen = Counter[tuple[str, bytes]]()
    for position, row in enumerate(pending.with_pauses(rows)):
        reason = refusal_of_text(row, draft.items)
        if reason is not None:
            rejected.append(Rejected(position, reason))
            continue
        item = draft.items.code(row.item_id) if row.item_id else NO_ITEM
        identity = pack_text_identity(hashlib.sha256(row.text.encode()).digest(), row.ts, item)
        seen[row.user_id, identity] += 1
        occurrence = seen[row.user_id, identity]
        packed = draft.get("texts", row.user_id)
        if _count_equal(packed, identity) >= occurrence:
            unchanged += 1
            continue
        inserted += 1
        hidden = _held_out(draft.get("events", row.user_id), item)
        draft.put("texts", row.user_id, _insert_by_time(packed, identity + _FLAG.pack(hidden), row.ts, TEXT))
        pending.texts.append((row, occurrence))
        pending.touched.add(row.user_id)
    return WriteResult(inserted, 0, unchanged, tuple(rejected))


def put_friends(draft: StateDraft, rows: Sequence[FriendRow], pending: PendingRows) -> WriteResult:
    """Put friendships; a known one takes the new weight, and the new time where it has one."""
    rejected: list[Rejected] = []
    by_user: dict[str, dict[tuple[str, int], FriendRow]] = {}
    for position, row in enumerate(pending.with_pauses(rows)):
        reason = refusal_of_friend(row)
        if reason is None:
            mine = by_user.setdefault(row.user_id, {})
            key = row.friend_id, draft.words.code(row.relation)
            if key not in mine:
                mine[key] = row
                continue
            reason = DUPLICATE
        rejected.append(Rejected(position, reason))
    counts = Counter[str]()
    for user_id, mine in by_user.items():
        counts.update(_put_friends_of(draft, user_id, mine, pending))
    return WriteResult(counts["inserted"], counts["updated"], counts["unchanged"], tuple(rejected))


def _put_friends_of(
    draft: StateDraft, user_id: str, rows: Mapping[tuple[str, int], FriendRow], pending: PendingRows
) -> Counter[str]:
    """Put friendships of one user; return how many were inserted, updated and unchanged."""
    packed = Friendships.unpack(draft.get("friends", user_id))
    keys = zip(packed.friends, packed.relations, strict=True)
    known = dict(zip(keys, zip(packed.weights, packed.times, strict=True), strict=True))
    counts = Counter[str]()
    for key, row in rows.items():
        old = known.get(key)
        new = row.weight, row.ts if old is None or row.ts != NO_TIME else old[1]
        known[key] = new
        if old is None:
            pending.friends.append(row)
        elif new != old:
            pending.new_friends[row[:3]] = row._replace(ts=new[1])
        counts["unchanged" if new == old else "inserted" if old is None else "updated"] += 1
    if counts["inserted"] or counts["updated"]:
        entries = sorted((friend, draft.words.name(code), code) for friend, code in known)
        friends = Friendships.of((friend, code, *known[friend, code]) for friend, _, code in entries)
        draft.put("friends", user_id, friends.pack())
        pending.touched.add(user_id)
    return counts


def _insert_by_time(packed: bytes, added: bytes, ts: int, dtype: np.dtype[np.void]) -> bytes:
    """Insert a packed row behind all rows that are not newer."""
    end = int(np.searchsorted(np.frombuffer(packed, dtype)["ts"], ts, side="right")) * dtype.itemsize
    return packed[:end] + added + packed[end:]


def _count_equal(packed: bytes, identity: bytes) -> int:
    """Count the packed texts that begin with an identity."""
    count, start = 0, find_row(packed, TEXT.itemsize, identity)
    while start >= 0:
        count += 1
        packed = packed[start + TEXT.itemsize :]
        start = find_row(packed, TEXT.itemsize, identity)
    return count


def _held_out(events: bytes, item: int) -> bool:
    """Return whether a user has a held-out event with an item, so that texts about it are hidden, too."""
    rows = np.frombuffer(events, EVENT)
    return bool((rows["hidden"] & (rows["item"] == item)).any())


def _table(names: tuple[str, ...], rows: list[BehaviorRow] | list[TextRow] | list[FriendRow]) -> pa.Table:
    columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())
    times = pa.array([None if ts == NO_TIME else ts for ts in columns.pop("ts")], pa.timestamp("us"))
    weights = {"weight": pa.array(columns.pop("weight"), pa.float64())} if "weight" in columns else {}
    words = {name: pa.array(column, pa.string()) for name, column in columns.items()}
    return pa.table(words | weights | {"ts": times})


def _run(cursor: duckdb.DuckDBPyConnection, sql: str, rows: pa.Table) -> None:
    if not len(rows):
        return
    cursor.register("new_rows", rows)
    cursor.execute(sql)
    cursor.unregister("new_rows")
