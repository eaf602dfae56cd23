"""Write requests, several in one transaction, to the store and then to the derived state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import duckdb

from store.records import ItemRecord
from store.state import StateDraft, UserState, bring_up_to_date
from store.store import Store
from store.writes.apply import PendingRows, append_behaviors, append_texts, put_friends
from store.writes.idempotency import RememberedRequests, RequestIdReusedError
from store.writes.put_items import delete_items, put_items
from store.writes.request import (
    Behaviors,
    ConsentChanges,
    Content,
    Deletion,
    Friends,
    ImpressionRow,
    Impressions,
    Items,
    Request,
    Texts,
    WriteResult,
    WrittenChange,
)


class Writer:
    """Writes requests to a store and its state; one thread at a time may use it, and no other writer."""

    def __init__(self, store: Store, state: UserState, pause: Callable[[], None] = lambda: None) -> None:
        """Take the store, its state, and a function to call every few rows, for more urgent work."""
        self._store = store
        self._pause = pause
        self._state = state
        self._remembered = RememberedRequests.load(store)

    def write(self, requests: Sequence[Request]) -> tuple[list[WriteResult], WrittenChange]:
        """Write requests in one transaction, all or none; return the result of each and what was changed.

        The commit of the store is durable and decides. Where the state cannot follow it, the change has the
        error in `failed`, and the next call of `write` or `check` first brings the state up to date.

        Raises:
            RequestIdReusedError: a request has the id of another with other content.
            ItemVectorLengthError: the vector of an item has another length than those of other items.
        """
        bring_up_to_date(self._store, self._state)  # the commit before may have missed it
        pending = PendingRows(pause=self._pause)
        new_results, new_digests = dict[str, WriteResult](), dict[str, str]()  # by request id
        items: list[tuple[tuple[ItemRecord, ...], tuple[str, ...]]] = []
        results: list[WriteResult] = []
        before, failed = self._store.last_commit, None
        try:
            with self._state.writing() as draft:
                with self._store.writing(pending.touched) as cursor:
                    pending.impressions.read(cursor, _impressions(requests))
                    for request in requests:
                        earlier = self._remembered.find(cursor, request)
                        earlier = earlier or _same_in_group(request, new_digests, new_results)
                        if earlier is not None:
                            results.append(replace(earlier, repeated=True))
                            continue
                        result, put, deleted = _apply(cursor, draft, request.content, pending)
                        if request.masked:
                            result = replace(result, masked=dict(request.masked))
                        results.append(result)
                        if put or deleted:
                            items.append((tuple(put), tuple(deleted)))
                        if request.request_id:
                            new_results[request.request_id] = result
                            new_digests[request.request_id] = request.digest
                    pending.touched.update(pending.consents.changed)
                    pending.flush(cursor)
                    self._remembered.insert(cursor, new_results, new_digests)
                    self._pause()
                self._pause()
                draft.set_commit_id(self._store.last_commit.commit_id)
        except Exception as error:
            if self._store.last_commit == before:
                raise
            failed = error
        self._remembered.remember(new_digests)
        texts = tuple(dict.fromkeys(row.text for row, _ in pending.texts))
        consents = tuple(pending.consents.changed)
        return results, WrittenChange(texts, tuple(pending.touched), consents, tuple(items), failed)

    def check(self) -> None:
        """Write an empty transaction to the store and the state, to find out whether writing works.

        Raises:
            the error that keeps `write` from writing.
        """
        bring_up_to_date(self._store, self._state)
        with self._state.writing() as draft:
            with self._store.writing(set()):
                pass
            draft.set_commit_id(self._store.last_commit.commit_id)


def _impressions(requests: Sequence[Request]) -> list[ImpressionRow]:
    """Return the impressions of all requests of a group."""
    contents = (request.content for request in requests)
    return [row for content in contents if isinstance(content, Impressions) for row in content.rows]


def _same_in_group(
    request: Request, digests: Mapping[str, str], results: Mapping[str, WriteResult]
) -> WriteResult | None:
    """Look up the result of an equal request in this transaction.  Raises: RequestIdReusedError."""
    if digests.get(request.request_id, request.digest) != request.digest:
        raise RequestIdReusedError(request.request_id)
    return results.get(request.request_id)


def _apply(
    cursor: duckdb.DuckDBPyConnection, draft: StateDraft, content: Content, pending: PendingRows
) -> tuple[WriteResult, list[ItemRecord], list[str]]:
    """Write the rows of one request; return the result, the items that were put and the deleted ids."""
    put: list[ItemRecord] = []
    deleted: list[str] = []
    match content:
        case Behaviors(rows):
            result = append_behaviors(draft, rows, pending)
        case Texts(rows):
            result = append_texts(draft, rows, pending)
        case Friends(rows):
            result = put_friends(draft, rows, pending)
        case Impressions(rows):
            result = pending.impressions.append(pending.with_pauses(rows), draft.items)
        case ConsentChanges(rows):
            result = pending.consents.set(draft, pending.with_pauses(rows))
        case Items(rows):
            result, put = put_items(cursor, draft, rows)
        case Deletion(item_ids):
            result, deleted = delete_items(cursor, draft, item_ids)
    return result, put, deleted
