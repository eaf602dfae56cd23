"""Write requests, several in one transaction, to the store and then to the derived state."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import duckdb

from store.records import ItemRecord
from store.state import NO_TIME, StateDraft, UserState, bring_up_to_date
from store.store import Store
from store.writes.apply import PendingRows, append_behaviors, append_texts, put_friends
from store.writes.batches import impressions_of, requests_of
from store.writes.events import (
    REQUEST_ID_REUSED,
    ErasedSince,
    RefusedEvent,
    add_batch,
    read_standing,
    write_standing,
)
from store.writes.idempotency import RememberedRequests, RequestIdReusedError
from store.writes.put_items import delete_items, put_items
from store.writes.request import (
    Behaviors,
    ConsentChanges,
    Content,
    Deletion,
    EventBatch,
    Friends,
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
        before, failed = self._store.last_commit, None
        try:
            with self._state.writing() as draft:
                with self._store.writing(pending.touched) as cursor:
                    pending.impressions.read(cursor, impressions_of(requests))
                    group = _Group(cursor, draft, pending, self._remembered)
                    results = [group.write(request) for request in requests]
                    pending.touched.update(pending.consents.changed)
                    pending.flush(cursor)
                    self._remembered.insert(cursor, group.results, group.digests)
                    self._pause()
                self._pause()
                draft.set_commit_id(self._store.last_commit.commit_id)
        except Exception as error:
            if self._store.last_commit == before:
                raise
            failed = error
        self._remembered.remember(group.digests)
        texts = tuple(dict.fromkeys(row.text for row, _ in pending.texts))
        consents = tuple(pending.consents.changed)
        return results, WrittenChange(texts, tuple(pending.touched), consents, tuple(group.items), failed)

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


class _Group:
    """The requests of one transaction.

    Attributes:
        results, digests: of its requests with an id, by that.
        items: for each request that changed items, those that were put and the ids that were deleted.
    """

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        draft: StateDraft,
        pending: PendingRows,
        remembered: RememberedRequests,
    ) -> None:
        self._cursor, self._draft, self._pending = cursor, draft, pending
        self._remembered = remembered
        self.results: dict[str, WriteResult] = {}
        self.digests: dict[str, str] = {}
        self.items: list[tuple[tuple[ItemRecord, ...], tuple[str, ...]]] = []

    def write(self, request: Request) -> WriteResult:
        """Write one request, or look up the result of an equal one before it.

        Raises:
            RequestIdReusedError: its id belongs to another one.
        """
        if isinstance(request.content, EventBatch):
            return self._write_batch(request.content)
        return self._write_rows(request)

    def _write_rows(self, request: Request, *, by_row: bool = False) -> WriteResult:
        earlier = self._remembered.find(self._cursor, request) or self._same(request)
        if earlier is not None:
            return replace(earlier, repeated=True)
        result = self._apply(request.content, by_row=by_row)
        if request.masked:
            result = replace(result, masked=dict(request.masked))
        if request.request_id:
            self.results[request.request_id] = result
            self.digests[request.request_id] = request.digest
        return result

    def _same(self, request: Request) -> WriteResult | None:
        """Look up the result of an equal request in this transaction.  Raises: RequestIdReusedError."""
        if self.digests.get(request.request_id, request.digest) != request.digest:
            raise RequestIdReusedError(request.request_id)
        return self.results.get(request.request_id)

    def _apply(self, content: Content, *, by_row: bool = False) -> WriteResult:
        """Write the rows of one request; the faults of single items refuse only these `by_row`."""
        put: list[ItemRecord] = []
        deleted: list[str] = []
        pending = self._pending
        match content:
            case Behaviors(rows):
                result = append_behaviors(self._draft, rows, pending)
            case Texts(rows):
                result = append_texts(self._draft, rows, pending)
            case Friends(rows):
                result = put_friends(self._draft, rows, pending)
            case Impressions(rows):
                result = pending.impressions.append(pending.with_pauses(rows), self._draft.items)
            case ConsentChanges(rows):
                result = pending.consents.set(self._draft, pending.with_pauses(rows))
            case Items(rows):
                result, put = put_items(self._cursor, self._draft, rows, by_row=by_row)
            case Deletion(item_ids):
                result, deleted = delete_items(self._cursor, self._draft, item_ids)
            case EventBatch():
                raise TypeError("a batch of events holds requests, not rows")
        if put or deleted:
            self.items.append((tuple(put), tuple(deleted)))
        return result

    def _write_batch(self, batch: EventBatch) -> WriteResult:
        """Write the events of a batch where the store stands at its beginning, else nothing."""
        before = read_standing(self._cursor, batch.log)
        if before.position != batch.after:
            return WriteResult(repeated=True, standing=before)
        times = [one.published for one in batch.entries if one.published != NO_TIME]
        erased = ErasedSince.read(self._cursor, times)
        counts, refusals, without_text = Counter[str](), list[RefusedEvent](), 0
        for request, origins in requests_of(batch.entries, erased, refusals):
            if not origins:
                continue
            try:
                result = self._write_rows(request, by_row=True)
            except RequestIdReusedError:
                refusals.append(RefusedEvent(origins[0][0], REQUEST_ID_REUSED))
                continue
            if result.repeated:
                continue
            for name in ("inserted", "updated", "unchanged"):
                counts[name] += getattr(result, name)
            without_text += result.without_text
            refusals += [RefusedEvent(origins[i][0], reason, origins[i][1]) for i, reason in result.rejected]
        after = add_batch(before, batch.through, len(batch.entries), counts, refusals)
        write_standing(self._cursor, batch.log, after)
        return WriteResult(
            counts["inserted"],
            counts["updated"],
            counts["unchanged"],
            without_text=without_text,
            standing=after,
        )
