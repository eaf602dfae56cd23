"""The user index that serves, kept in step with the users' own rows and consents, without erased users."""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

import pyarrow as pa

from indexer.building import difference, row_hashes
from indexer.users import user_change
from server.live.index_follower import IndexFollower
from server.live.index_writer import IndexWriter
from server.query import NotReadyError, Retriever, Snapshot, SubjectViews, raw_views, stack
from server.supervisor import Supervisor, WaitingSince, attempt_each
from store.store import Store

_AT_ONCE = 4  # users that are encoded together; each batch is found before the next is begun
_PAUSE_S = 0.05  # between batches, at least: a user who writes much is encoded once
_PAUSES = 9  # times as long as the batch before took: queries come first, so a tenth of a processor at most


class LiveUsers(IndexFollower):
    """Encodes users again after their own rows changed, and removes erased users at once.

    When `erased` or `withdrawn` returns, no search finds the users, also where another snapshot is being
    published; those withdrawn are found again once they are encoded. Users whose friends' history changed are
    encoded by the next reindex.
    """

    def __init__(
        self,
        store: Store,
        retriever: Retriever,
        supervisor: Supervisor | None = None,
        writer: IndexWriter | None = None,
    ) -> None:
        super().__init__("users", store, retriever, supervisor, writer)
        self._pending: dict[str, None] = {}  # users to encode: a set that keeps its order
        self._since = WaitingSince()  # these
        self._failed: dict[str, None] = {}  # users to encode one by one
        self._stale: set[str] = set()  # erased or withdrawn since the batch that is being encoded was begun
        self._to_compare = False  # the index that serves with the store
        self._compare_failed = False

    def changed(self, user_ids: Iterable[str]) -> None:
        """Have users encoded again."""
        user_ids = list(user_ids)
        with self.wake:
            self._pending |= dict.fromkeys(user_ids)
            self._since.add(user_ids)
            self.wake.notify_all()

    def compare(self) -> None:
        """Compare the index that serves with the store, and bring it up to it, in the background."""
        with self.wake:
            self._to_compare = True
            self.wake.notify_all()

    def erased(self, user_id: str) -> None:
        """Remove a user who was erased; what was read of the user before does not bring the vector back."""
        with self.wake:
            self._pending.pop(user_id, None)
            self._since.discard([user_id])
            self._failed.pop(user_id, None)
            self._stale.add(user_id)
            for snapshot in self._snapshots():
                self._writer.put_users(snapshot, [], [user_id])

    def backlog(self) -> tuple[int, float]:
        """Return how many users are to be encoded, and for how many seconds the oldest has waited."""
        with self.wake:
            return len(self._since), self._since.seconds

    def withdrawn(self, user_ids: Iterable[str]) -> None:
        """Remove users whose vectors show what is not shared any more, and have them encoded again."""
        users = sorted(user_ids)
        if not users:
            return
        with self.wake:
            self._stale.update(users)
            for snapshot in self._snapshots():
                self._writer.put_users(snapshot, [], users)
            self._pending |= dict.fromkeys(users)
            self._since.add(users)
            self.wake.notify_all()

    def compare_restricted(self) -> None:
        """Remove users from the index that serves who may show what is not shared since an import."""
        restricted, snapshot = self._store.restricted_users(), self._serving()
        if not restricted or snapshot is None:
            return
        with self.wake:
            self._stale |= restricted
        self._bring_up(snapshot)

    def _before_serving(self, snapshot: Snapshot) -> None:
        self._bring_up(snapshot)

    def _since_serving(self, snapshot: Snapshot) -> None:
        self._bring_up(snapshot)  # those who changed under way were encoded for the snapshot before

    def _bring_up(self, snapshot: Snapshot) -> None:
        """Remove users from an index whom the store has not, and have those encoded who differ.

        Of these, who keeps a view back, or has such a friend, is removed until then.
        """
        if snapshot.users is None:
            return
        hashes = row_hashes(self._store.user_hashes())
        found = difference(snapshot.users, hashes)
        changed = hashes.column("item_id").take(pa.array(found.changed)).to_pylist()
        withheld = self._store.restricted_users().intersection(changed)
        self._writer.put_users(snapshot, [], [*found.removed, *sorted(withheld)])
        self.changed(changed)

    def _has_work(self) -> bool:
        return bool(self._pending or self._to_compare)

    def _work(self) -> None:
        with self.wake:
            to_compare, self._to_compare = self._to_compare, False
            batch = [] if to_compare else list(self._pending)[:_AT_ONCE]
            for user_id in batch:
                del self._pending[user_id]
            self._since.discard(batch)
            self._stale.clear()
        began = time.monotonic()
        try:
            if to_compare:
                self._bring_up(self._retriever.snapshot)
            else:
                self._encode(batch)
        except NotReadyError:
            return  # the first snapshot to serve is compared with the store
        except BaseException:
            with self.wake:
                self._compare_failed |= to_compare
                self._failed |= dict.fromkeys(user_id for user_id in batch if user_id not in self._stale)
            raise
        pause = max(_PAUSE_S, _PAUSES * (time.monotonic() - began))
        with self.wake:
            self.wake.wait_for(lambda: self.stopping, pause)

    def _catch_up(self) -> bool:
        """Encode one by one the users who could not be encoded, and compare again where that failed."""
        self._writer.flush()
        attempt_each(self._encode_failed, list(self._failed))
        if self._compare_failed:
            snapshot = self._serving()
            if snapshot is not None:
                self._bring_up(snapshot)
            self._compare_failed = False
        return True

    def _encode_failed(self, user_id: str) -> None:
        with suppress(NotReadyError):  # the first snapshot to serve is compared with the store
            self._encode([user_id])
        with self.wake:
            self._failed.pop(user_id, None)

    def _encode(self, user_ids: Sequence[str]) -> None:
        """Encode users and put them into the index that serves."""
        snapshot = self._retriever.snapshot
        if snapshot.users is None:
            return
        records = snapshot.state.shared_users(user_ids)
        views = stack([raw_views(snapshot, SubjectViews(record)) for record in records])
        vectors = snapshot.model.encode_users(views).vectors  # (n, D)
        changes = [
            user_change(user_id, vector, len(record.history))
            for user_id, record, vector in zip(user_ids, records, vectors, strict=True)
        ]
        with self.wake:
            current = [change for change in changes if change.item_id not in self._stale]
            self._writer.put_users(snapshot, current)
