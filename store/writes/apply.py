"""Behaviours, texts and ties into the derived state and among the pending rows of the store.

Known rows are told by the state, which holds every identity: to look them up in the store would cost a scan.
The rules and reasons are those of an import (store/imports/validation.py).
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from store.imports.validation import DUPLICATE
from store.state.draft import StateDraft
from store.state.packing import (
    EVENT,
    NO_ITEM,
    NO_TIME,
    TEXT,
    Ties,
    event_identity,
    place_of,
    text_identity,
)
from store.writes.pending import Pending
from store.writes.rows import (
    BehaviorRow,
    FriendRow,
    Rejected,
    TextRow,
    Written,
    refusal_of_behavior,
    refusal_of_friend,
    refusal_of_text,
)

_TIME = struct.Struct("<q")
_WEIGHT = struct.Struct("<d")
_WEIGHT_AT = len(event_identity(0, 0, 0))
_FLAG = struct.Struct("?")
_VISIBLE = _FLAG.pack(False)


def append_behaviors(draft: StateDraft, rows: Sequence[BehaviorRow], pending: Pending) -> Written:
    """Return what became of some behaviours; a known one takes the new weight."""
    rejected: list[Rejected] = []
    by_user: dict[str, dict[bytes, BehaviorRow]] = {}
    for position, row in enumerate(pending.unhurried(rows)):
        reason = refusal_of_behavior(row, draft.items)
        if reason is None:
            identity = event_identity(row.ts, draft.items.code(row.item_id), draft.words.code(row.action))
            mine = by_user.setdefault(row.user_id, {})
            if identity not in mine:
                mine[identity] = row
                continue
            reason = DUPLICATE
        rejected.append(Rejected(position, reason))
    counts = Counter[str]()
    for user_id, mine in pending.unhurried(by_user.items()):
        before = packed = draft.get("events", user_id)
        for identity, row in mine.items():
            packed, what = _with_event(packed, identity, row, pending)
            counts[what] += 1
        if packed is not before:
            draft.put("events", user_id, packed)
            pending.touched.add(user_id)
    return Written(counts["inserted"], counts["updated"], counts["unchanged"], tuple(rejected))


def _with_event(packed: bytes, identity: bytes, row: BehaviorRow, pending: Pending) -> tuple[bytes, str]:
    """Return the events of a user with one more or with a new weight, and which of it."""
    newest = _TIME.unpack_from(packed, len(packed) - EVENT.itemsize)[0] if packed else NO_TIME - 1
    at = place_of(packed, EVENT.itemsize, identity) if row.ts <= newest else -1
    if at < 0:
        pending.behaviors.append(row)
        added = identity + _WEIGHT.pack(row.weight) + _VISIBLE
        if row.ts >= newest:
            return packed + added, "inserted"
        return _by_time(packed, added, row.ts, EVENT), "inserted"
    at += _WEIGHT_AT
    weight = _WEIGHT.pack(row.weight)
    if packed[at : at + len(weight)] == weight:
        return packed, "unchanged"
    pending.weights[row.user_id, identity] = row
    return packed[:at] + weight + packed[at + len(weight) :], "updated"


def append_texts(draft: StateDraft, rows: Sequence[TextRow], pending: Pending) -> Written:
    """Return what became of some texts: the n-th equal one of a request is new where fewer are known."""
    rejected: list[Rejected] = []
    inserted = unchanged = 0
    seen = Counter[tuple[str, bytes]]()
    for position, row in enumerate(pending.unhurried(rows)):
        reason = refusal_of_text(row, draft.items)
        if reason is not None:
            rejected.append(Rejected(position, reason))
            continue
        item = draft.items.code(row.item_id) if row.item_id else NO_ITEM
        identity = text_identity(hashlib.sha256(row.text.encode()).digest(), row.ts, item)
        seen[row.user_id, identity] += 1
        occurrence = seen[row.user_id, identity]
        packed = draft.get("texts", row.user_id)
        if _count(packed, identity) >= occurrence:
            unchanged += 1
            continue
        inserted += 1
        hidden = _held_out(draft.get("events", row.user_id), item)
        draft.put("texts", row.user_id, _by_time(packed, identity + _FLAG.pack(hidden), row.ts, TEXT))
        pending.texts.append((row, occurrence))
        pending.touched.add(row.user_id)
    return Written(inserted, 0, unchanged, tuple(rejected))


def put_friends(draft: StateDraft, rows: Sequence[FriendRow], pending: Pending) -> Written:
    """Return what became of some ties; a known one takes the new weight, and the time where there is one."""
    rejected: list[Rejected] = []
    by_user: dict[str, dict[tuple[str, int], FriendRow]] = {}
    for position, row in enumerate(pending.unhurried(rows)):
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
        counts.update(_put_ties(draft, user_id, mine, pending))
    return Written(counts["inserted"], counts["updated"], counts["unchanged"], tuple(rejected))


def _put_ties(
    draft: StateDraft, user_id: str, rows: Mapping[tuple[str, int], FriendRow], pending: Pending
) -> Counter[str]:
    """Return how many ties of a user were inserted, updated and unchanged."""
    ties = Ties.unpack(draft.get("friends", user_id))
    keys = zip(ties.friends, ties.relations, strict=True)
    known = dict(zip(keys, zip(ties.weights, ties.times, strict=True), strict=True))
    counts = Counter[str]()
    for key, row in rows.items():
        old = known.get(key)
        new = row.weight, row.ts if old is None or row.ts != NO_TIME else old[1]
        known[key] = new
        if old is None:
            pending.ties.append(row)
        elif new != old:
            pending.new_ties[row[:3]] = row._replace(ts=new[1])
        counts["unchanged" if new == old else "inserted" if old is None else "updated"] += 1
    if counts["inserted"] or counts["updated"]:
        entries = sorted((friend, draft.words.name(code), code) for friend, code in known)
        packed = Ties.of((friend, code, *known[friend, code]) for friend, _, code in entries).pack()
        draft.put("friends", user_id, packed)
        pending.touched.add(user_id)
    return counts


def _by_time(packed: bytes, added: bytes, ts: int, dtype: np.dtype[np.void]) -> bytes:
    """Return packed rows with one more, behind all that are not newer."""
    place = int(np.searchsorted(np.frombuffer(packed, dtype)["ts"], ts, side="right")) * dtype.itemsize
    return packed[:place] + added + packed[place:]


def _count(packed: bytes, identity: bytes) -> int:
    """Return how many packed texts begin with an identity."""
    count, at = 0, place_of(packed, TEXT.itemsize, identity)
    while at >= 0:
        count, rest = count + 1, at + TEXT.itemsize
        packed = packed[rest:]
        at = place_of(packed, TEXT.itemsize, identity)
    return count


def _held_out(events: bytes, item: int) -> bool:
    """Return whether a user has a held-out event with an item: texts about it are hidden, too."""
    rows = np.frombuffer(events, EVENT)
    return bool((rows["hidden"] & (rows["item"] == item)).any())
