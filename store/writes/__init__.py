"""Writes: requests of clients, committed in groups, durable and reflected in the derived state.

`request` defines the rows, the reasons to refuse one, and the results. `writer` writes a group of requests in
one transaction: `apply` brings behaviours, texts and friendships into the state and gathers the rows for the
store, `put_items` puts and deletes items by the statements of an import, and `idempotency` remembers the ids
of requests so that a repeated one is not written again.
"""

from store.writes.idempotency import RequestIdReusedError
from store.writes.request import (
    BAD_TIME,
    FIRST_TIME,
    LAST_TIME,
    BehaviorRow,
    Behaviors,
    Content,
    Deletion,
    FriendRow,
    Friends,
    ItemRow,
    Items,
    Request,
    TextRow,
    Texts,
    WriteResult,
    WrittenChange,
)
from store.writes.writer import Writer

__all__ = [
    "BAD_TIME",
    "FIRST_TIME",
    "LAST_TIME",
    "BehaviorRow",
    "Behaviors",
    "Content",
    "Deletion",
    "FriendRow",
    "Friends",
    "ItemRow",
    "Items",
    "Request",
    "RequestIdReusedError",
    "TextRow",
    "Texts",
    "WriteResult",
    "Writer",
    "WrittenChange",
]
