"""The user index that serves, kept in step with what people do, and without those who were erased."""

import time
from collections.abc import Iterable, Sequence
from typing import Self

import pyarrow as pa

from indexer.building.incremental import difference
from indexer.building.users import row_hashes
from indexer.users import user_change
from server.query.retriever import NotReadyError, Retriever
from server.query.snapshot import Snapshot
from server.query.subject_views import SubjectViews, raw_views, stack
from server.supervisor import Supervisor, Worker
from store.store import Store

_AT_ONCE = 4  # users encoded before the next are seen
_PAUSE_S = 0.05  # between batches, at least: a user who writes much is encoded once
_PAUSES = 9  # times as long as the batch before took: queries come first, so a tenth of a processor at most


class LiveUsers:
    """Encodes people again after their own rows changed; whoever is erased is gone at once.

    Followers of somebody whose history changed are encoded by the next reindex. An index that begins to serve
    is compared with the store, so that nobody comes back with it.
    """

    def __init__(self, store: Store, retriever: Retriever, supervisor: Supervisor | None = None) -> None:
        self._store = store
        self._retriever = retriever
        self._pending: dict[str, None] = {}  # a set that keeps its order
        self._erased: set[str] = set()  # while a batch is being encoded
        self._failed: dict[str, None] = {}  # to be encoded one by one
        self._behind = False  # is to be compared with the store
        self._behind_later = False  # once more, because that failed
        self._worker = Worker(
            "users",
            waiting=lambda: bool(self._pending or self._behind),
            work=self._work,
            again=self._encode_failed,
            supervisor=supervisor,
        )
        self._wake = self._worker.wake

    def __enter__(self) -> Self:
        self._worker.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.__exit__()

    def changed(self, user_ids: Iterable[str]) -> None:
        """Have people encoded again."""
        with self._wake:
            self._pending |= dict.fromkeys(user_ids)
            self._wake.notify_all()

    def missed(self) -> None:
        """Compare the index that serves with the store, in the background, after a change nobody told of."""
        with self._wake:
            self._behind = True
            self._wake.notify_all()

    def erased(self, user_id: str) -> None:
        """Take a person out; nothing brings them back."""
        with self._wake:
            self._pending.pop(user_id, None)
            self._failed.pop(user_id, None)
            self._erased.add(user_id)
            snapshot = self._snapshot()
            if snapshot is not None and snapshot.users is not None:
                snapshot.users.put([], [user_id])

    def compare(self, snapshot: Snapshot) -> None:
        """Take out of an index whom the store does not know, and have those encoded who changed since.

        To be called before the index serves, so that nobody who was erased is found, and again once it does.
        """
        if snapshot.users is None:
            return
        hashes = row_hashes(self._store.user_hashes())
        found = difference(snapshot.users, hashes)
        snapshot.users.put([], found.removed)
        self.changed(hashes.column("item_id").take(pa.array(found.changed)).to_pylist())

    def _work(self) -> None:
        with self._wake:
            behind, self._behind = self._behind, False
            some = [] if behind else list(self._pending)[:_AT_ONCE]
            for user_id in some:
                del self._pending[user_id]
            self._erased.clear()
        began = time.monotonic()
        try:
            if behind:
                self.compare(self._retriever.snapshot)
            else:
                self._encode(some)
        except NotReadyError:
            return  # what is published first is compared with the store
        except BaseException:
            with self._wake:
                self._behind_later |= behind
                self._failed |= dict.fromkeys(user_id for user_id in some if user_id not in self._erased)
            raise
        pause = max(_PAUSE_S, _PAUSES * (time.monotonic() - began))
        with self._wake:
            self._wake.wait_for(lambda: self._worker.stopping, pause)

    def _encode_failed(self) -> bool:
        """Encode, one by one, those that failed.  Raises: what the last of them raises that fails again."""
        failed: Exception | None = None
        for user_id in list(self._failed):
            try:
                self._encode([user_id])
            except NotReadyError:
                pass  # what is published first is compared with the store
            except Exception as error:  # a supervisor: one that fails does not stop the others
                failed = error
                continue
            with self._wake:
                self._failed.pop(user_id, None)
        if failed is not None:
            raise failed
        if self._behind_later:
            snapshot = self._snapshot()
            if snapshot is not None:
                self.compare(snapshot)
            self._behind_later = False
        return True

    def _encode(self, user_ids: Sequence[str]) -> None:
        snapshot = self._retriever.snapshot
        if snapshot.users is None:
            return
        people = snapshot.state.people(user_ids)
        batch = stack([raw_views(snapshot, SubjectViews(person)) for person in people])
        vectors = snapshot.model.encode_users(batch).vectors
        changes = [
            user_change(user_id, vector, len(person.history))
            for user_id, person, vector in zip(user_ids, people, vectors, strict=True)
        ]
        with self._wake:
            snapshot.users.put([change for change in changes if change.item_id not in self._erased])

    def _snapshot(self) -> Snapshot | None:
        try:
            return self._retriever.snapshot
        except NotReadyError:
            return None
