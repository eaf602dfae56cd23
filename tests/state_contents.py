"""What the derived state holds of a user, and what it should hold by the views in the store."""

import hashlib
from datetime import datetime, timedelta

from store.records import UserViews
from store.state.packing import NO_TIME
from store.state.state import UserState

EPOCH = datetime(1970, 1, 1)


def expected_state(views: UserViews) -> tuple[object, ...]:
    """Return what the state should hold of a user with these views."""
    histories = [views.history, *(friend.history for friend in views.friends)]
    return (
        [sorted(_event(e.item_id, e.action, e.weight, e.ts) for e in history) for history in histories],
        sorted(hashlib.sha256(text.encode()).digest() for text in views.texts),
        [(friend.friend_id, friend.weight) for friend in views.friends],
    )


def _event(item_id: str, action: str, weight: float, ts: datetime | None) -> tuple[object, ...]:
    return item_id, action, weight, NO_TIME if ts is None else (ts - EPOCH) // timedelta(microseconds=1)


def state_of(state: UserState, user_id: str) -> tuple[object, ...]:
    """Return what the state holds of a user, in the form of `expected_state`."""
    (person,) = state.users([user_id])
    items, words = state.items.names, state.words.names
    events: list[list[tuple[object, ...]]] = [[] for _ in range(1 + len(person.friends))]
    for owner, row in zip(person.owners.tolist(), person.events.tolist(), strict=True):
        ts, item, action, weight, _ = row
        events[owner].append((items[item], words[action], weight, ts))
    assert [row[0] for row in person.history.tolist()] == sorted(person.history["ts"].tolist())
    friends = list(zip(person.friends, person.weights.tolist(), strict=True))
    return [sorted(one) for one in events], sorted(person.texts), friends
