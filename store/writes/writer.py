"""Requests that write, several in one transaction: durable and in the derived state when `write` returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import duckdb

from store.records import Item
from store.state.rebuild import bring_up_to_date
from store.state.state import StateDraft, UserState
from store.store import Store
from store.writes.apply import Pending, append_behaviors, append_texts, put_friends
from store.writes.idempotency import RememberedRequests, RequestIdReusedError
from store.writes.put_items import delete_items, put_items
from store.writes.request import (
    Behaviors,
    Content,
    Deletion,
    Friends,
    Items,
    Request,
    Texts,
    WriteResult,
    WrittenChange,
)


class Writer:
    """The one who writes requests; one thread at a time."""

    def __init__(self, store: Store, state: UserState, pause: Callable[[], None] = lambda: None) -> None:
        """Take where to write, and what to call every few rows so that more urgent work goes first."""
        self._store = store
        self._pause = pause
        self._state = state
        self._answered = RememberedRequests.load(store)

    def write(self, requests: Sequence[Request]) -> tuple[list[WriteResult], WrittenChange]:
        """Return what became of each request, in order, and what the transaction changed; all or nothing.

        Once the store has committed it is written: where the state of users fails to follow, the change
        says so, and the next call, or `check`, brings the state up first.

        Raises:
            RequestIdReusedError: a request has the id of another that says something else.
        """
        bring_up_to_date(self._store, self._state)  # after a transaction whose second half failed
        pending, told, new = Pending(pause=self._pause), dict[str, WriteResult](), dict[str, str]()
        items: list[tuple[tuple[Item, ...], tuple[str, ...]]] = []
        results = []
        before, failed = self._store.last_commit, None
        try:
            with self._state.writing() as draft:
                with self._store.writing(pending.touched) as cursor:
                    for request in requests:
                        known = self._answered.find(cursor, request) or _twin(request, new, told)
                        if known is not None:
                            results.append(replace(known, repeated=True))
                            continue
                        written, put, deleted = _apply(cursor, draft, request.content, pending)
                        results.append(written)
                        if put or deleted:
                            items.append((tuple(put), tuple(deleted)))
                        if request.request_id:
                            told[request.request_id], new[request.request_id] = written, request.digest
                    pending.flush(cursor)
                    self._answered.remember(cursor, told, new)
                    self._pause()
                self._pause()
                draft.set_commit_id(self._store.last_commit.commit_id)
        except Exception as error:
            if self._store.last_commit == before:
                raise
            failed = error
        self._answered.keep(new)
        texts = tuple(dict.fromkeys(row.text for row, _ in pending.texts))
        return results, WrittenChange(texts, tuple(pending.touched), tuple(items), failed)

    def check(self) -> None:
        """Write an empty transaction, durably; the state is that of the store afterwards.

        Raises:
            whatever keeps `write` from writing anything.
        """
        bring_up_to_date(self._store, self._state)
        with self._state.writing() as draft:
            with self._store.writing(set()):
                pass
            draft.set_commit_id(self._store.last_commit.commit_id)


def _twin(
    request: Request, digests: Mapping[str, str], told: Mapping[str, WriteResult]
) -> WriteResult | None:
    """Return what became of an equal request in the same transaction.  Raises: RequestIdReusedError."""
    if digests.get(request.request_id, request.digest) != request.digest:
        raise RequestIdReusedError(request.request_id)
    return told.get(request.request_id)


def _apply(
    cursor: duckdb.DuckDBPyConnection, draft: StateDraft, content: Content, pending: Pending
) -> tuple[WriteResult, list[Item], list[str]]:
    match content:
        case Behaviors(rows):
            return append_behaviors(draft, rows, pending), [], []
        case Texts(rows):
            return append_texts(draft, rows, pending), [], []
        case Friends(rows):
            return put_friends(draft, rows, pending), [], []
        case Items(rows):
            written, put = put_items(cursor, draft, rows)
            return written, put, []
        case Deletion(item_ids):
            written, deleted = delete_items(cursor, draft, item_ids)
            return written, [], deleted
