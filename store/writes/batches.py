"""The events of a batch, as requests to write: without rows of erased people, and single items together."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from store.state import NO_TIME
from store.writes.events import ERASED, ErasedSince, RefusedEvent
from store.writes.request import (
    Behaviors,
    ConsentChanges,
    EventBatch,
    EventEntry,
    Friends,
    ImpressionRow,
    Impressions,
    ItemRow,
    Items,
    Request,
    Texts,
)

Origin = tuple[int, int]
"""Of a row: the sequence of its event, and its position there."""


def impressions_of(requests: Iterable[Request]) -> list[ImpressionRow]:
    """Return the impressions of all requests of a group, those in batches of events included."""
    requests = list(requests)
    batches = [one.content for one in requests if isinstance(one.content, EventBatch)]
    inside = [entry.request for batch in batches for entry in batch.entries if entry.request is not None]
    contents = (request.content for request in chain(requests, inside))
    return [row for content in contents if isinstance(content, Impressions) for row in content.rows]


def requests_of(
    entries: Sequence[EventEntry], erased: ErasedSince, refusals: list[RefusedEvent]
) -> Iterator[tuple[Request, list[Origin]]]:
    """Yield what some entries write, in their order, with the origin of each row.

    Entries that follow each other and put different items are one request: the statements of an import cost
    milliseconds, whether they put one item or a thousand. What is not written is added to `refusals`.
    """
    items: dict[str, list[tuple[ItemRow, Origin]]] = {}  # by item id

    def together() -> tuple[Request, list[Origin]]:
        pairs = [pair for some in items.values() for pair in some]
        items.clear()
        return Request(Items([row for row, _ in pairs])), [origin for _, origin in pairs]

    for entry in entries:
        request = entry.request
        if request is None:
            refusals.append(RefusedEvent(entry.sequence, entry.reason))
            continue
        if not isinstance(request.content, Items) or request.request_id:
            if items:
                yield together()
            yield _without_erased(entry, request, erased, refusals)
            continue
        if any(row.item_id in items for row in request.content.rows):
            yield together()
        for position, row in enumerate(request.content.rows):
            items.setdefault(row.item_id, []).append((row, (entry.sequence, position)))
    if items:
        yield together()


def _without_erased(
    entry: EventEntry, request: Request, erased: ErasedSince, refusals: list[RefusedEvent]
) -> tuple[Request, list[Origin]]:
    """Return a request without the rows of people who were erased after the log took the event."""
    people = _people_of(request) if erased and entry.published != NO_TIME else []
    gone = {i for i, some in enumerate(people) if any(erased.names(one, entry.published) for one in some)}
    origins = [(entry.sequence, position) for position in range(request.rows) if position not in gone]
    if gone:
        refusals += [RefusedEvent(entry.sequence, ERASED, position) for position in sorted(gone)]
        content: Any = request.content  # has rows, as it names people
        rows = [row for position, row in enumerate(content.rows) if position not in gone]
        request = replace(request, content=replace(content, rows=rows))
    return request, origins


def _people_of(request: Request) -> list[tuple[str, ...]]:
    """Return the users that each row of a request names; nobody for items."""
    match request.content:
        case Behaviors() | Texts() | Impressions() | ConsentChanges() as content:
            return [(row.user_id,) for row in content.rows]
        case Friends(rows):
            return [(row.user_id, row.friend_id) for row in rows]
        case _:
            return []
