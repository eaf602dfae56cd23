"""Writes: requests of clients, committed in groups, durable and reflected in the derived state.

`request` defines the rows, the reasons to refuse one, and the results. `writer` writes a group of requests in
one transaction: `apply` brings behaviours, texts and friendships into the state and gathers the rows for the
store, `consents` does so with what people allow, `impressions` merges what was shown with what is known,
`put_items` puts and deletes items by the statements of an import, and `idempotency` remembers the ids of
requests so that a repeated one is not written again. `events` has how far a log of events was read, which
`writer` writes with the rows of a batch of them, and `batches` makes requests of these.
"""

from store.writes.events import (
    LogPosition,
    LogStanding,
    RefusedEvent,
    read_standing,
    write_standing,
)
from store.writes.idempotency import RequestIdReusedError
from store.writes.put_items import ItemVectorLengthError
from store.writes.request import (
    BAD_TIME,
    FIRST_TIME,
    LAST_TIME,
    BehaviorRow,
    Behaviors,
    ConsentChanges,
    ConsentRow,
    Content,
    Deletion,
    EventBatch,
    EventEntry,
    FloatArray,
    FriendRow,
    Friends,
    ImpressionRow,
    Impressions,
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
    "ConsentChanges",
    "ConsentRow",
    "Content",
    "Deletion",
    "EventBatch",
    "EventEntry",
    "FloatArray",
    "FriendRow",
    "Friends",
    "ImpressionRow",
    "Impressions",
    "ItemRow",
    "ItemVectorLengthError",
    "Items",
    "LogPosition",
    "LogStanding",
    "RefusedEvent",
    "Request",
    "RequestIdReusedError",
    "TextRow",
    "Texts",
    "WriteResult",
    "Writer",
    "WrittenChange",
    "read_standing",
    "write_standing",
]
