"""The item index that serves, kept in step with the store without a reindex."""

import itertools
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.building import DELTA_SHARE, ItemTower, changes_of, difference, without_bad
from indexer.files import FloatArray, IntArray, ItemChange
from server.live.index_follower import IndexFollower
from server.live.index_writer import IndexWriter
from server.query import Retriever, Snapshot
from server.supervisor import Supervisor, WaitingSince, attempt_each
from store.attributes import left_out_message
from store.records import ItemRecord
from store.store import Store

log = logging.getLogger(__name__)

_AT_ONCE = 16  # items that are encoded together; each batch is found before the next is begun
_BEFORE_SERVING = 1_000  # items that a snapshot gets before it serves; the others follow in the background
_UNKNOWN = bytes(16)  # a hash that no item has, so that the next comparison makes the item anew


class LiveItems(IndexFollower):
    """Puts committed items into the index that serves, and removes deleted and unavailable ones.

    When `committed` returns, no search finds what was removed, and filters and the popularity fallback find
    what is new, also where another snapshot is being published. Searches by vector find a new or changed item
    once its text is encoded, by this worker. What a killed process had still to encode is found by comparing
    the hashes of the index with those of the store.

    Attributes:
        left_out: why stored items are not served, by item id: their attributes cannot be used.
    """

    def __init__(
        self,
        store: Store,
        retriever: Retriever,
        supervisor: Supervisor | None = None,
        writer: IndexWriter | None = None,
    ) -> None:
        super().__init__("items", store, retriever, supervisor, writer)
        self._comparing = threading.Lock()
        self._numbers = itertools.count()
        self._pending: dict[str, int] = {}  # items to encode, with the number of the latest commit of each
        self._since = WaitingSince()  # these
        self._committed_since: set[str] | None = None  # ids of items, since the comparison under way began
        self._warned_of = ""  # the index for which a reindex was advised
        self.left_out: dict[str, str] = {}
        self._jobs: deque[Callable[[], None]] = deque()

    def committed(self, requests: Sequence[tuple[Sequence[ItemRecord], Sequence[str]]]) -> None:
        """Bring the index up to a commit.

        Args:
            requests: items put and ids of items deleted, by each request, in the order of the commit.
        """
        latest: dict[str, ItemRecord | None] = {}
        for put, deleted in requests:
            latest |= {item.item_id: item for item in put}
            latest |= dict.fromkeys(deleted)
        available = [item for item in latest.values() if item is not None and item.available]
        removed = latest.keys() - {item.item_id for item in available}
        with self.wake:
            number = next(self._numbers)
            for item_id in removed:
                self._pending.pop(item_id, None)
            self._since.discard(removed)
            self._pending |= dict.fromkeys([item.item_id for item in available], number)
            self._since.add(item.item_id for item in available)
            if self._committed_since is not None:
                self._committed_since |= latest.keys()
            for item_id in latest:
                self.left_out.pop(item_id, None)  # its attributes may be usable now
            for snapshot in self._snapshots():
                self._writer.put_items(snapshot, _new(snapshot, available), sorted(removed))
        if available:
            self._submit(partial(self._encode, available, number))

    def backlog(self) -> tuple[int, float]:
        """Return how many items are to be encoded, and for how many seconds the oldest has waited."""
        with self.wake:
            return len(self._since), self._since.seconds

    def compare(self) -> None:
        """Compare the index that serves with the store, and bring it up to it in the background."""
        snapshot = self._serving()
        if snapshot is not None:
            self._since_serving(snapshot)

    def _before_serving(self, snapshot: Snapshot) -> None:
        self._bring_up(snapshot)

    def _since_serving(self, snapshot: Snapshot) -> None:
        self._submit(partial(self._bring_up_wholly, snapshot))

    def _submit(self, job: Callable[[], None]) -> None:
        with self.wake:
            self._jobs.append(job)
            self.wake.notify_all()

    def _has_work(self) -> bool:
        return bool(self._jobs)

    def _work(self) -> None:
        self._jobs.popleft()()

    def _catch_up(self) -> bool:
        """Put the items that could not be put: they are in the store, and differ from those of the index."""
        self._writer.flush()
        snapshot = self._serving()
        if snapshot is not None:  # otherwise the first one to serve is compared with the store
            self._bring_up_wholly(snapshot)
        return True

    def _bring_up_wholly(self, snapshot: Snapshot) -> None:
        before = None
        while self._serving() is snapshot and not self.stopping:
            left = self._bring_up(snapshot)
            if not left or left == before:  # no progress: these cannot be put
                break
            before = left

    def _bring_up(self, snapshot: Snapshot) -> int:
        """Bring an index up to the store by a bounded number of items; return how many are left."""
        with self._comparing:
            with self.wake:
                self._committed_since = set()
            try:
                return self._put_differing(snapshot)
            finally:
                with self.wake:
                    self._committed_since = None

    def _put_differing(self, snapshot: Snapshot) -> int:
        """Remove what the store has not, put up to a bound what differs; return how many items are left."""
        hashes = self._store.item_hashes()
        found = difference(snapshot.index, hashes)
        known_bad = pc.is_in(hashes.column("item_id"), pa.array(list(self.left_out), pa.string()))
        wanted = ~np.asarray(known_bad)[found.changed]
        some = hashes.take(pa.array(found.changed[wanted][:_BEFORE_SERVING]))
        items = self._store.some_items(some.column("item_id").to_pylist())
        changes: list[ItemChange] = []
        reasons: dict[str, str] = {}
        if len(items) == len(some):  # otherwise one was deleted since: the next round sees that
            items, some, reasons = without_bad(items, some)
            changes = changes_of(items, some, _tower(snapshot))
        with self.wake:
            newer = self._committed_since or set()  # `committed` has put them, or removed them
            self.left_out |= {item_id: why for item_id, why in reasons.items() if item_id not in newer}
            removed = [*found.removed, *self.left_out]
            self._writer.put_items(
                snapshot,
                [change for change in changes if change.item_id not in newer],
                [item_id for item_id in removed if item_id not in newer],
            )
        if reasons:
            log.warning("index %s: %s", snapshot.index.index_id, left_out_message(reasons))
        count = len(changes) + len(found.removed)
        if count:
            log.info("index %s: %d items changed in the store since", snapshot.index.index_id, count)
        return int(wanted.sum()) - len(changes) - len(reasons)

    def _encode(self, items: Sequence[ItemRecord], number: int) -> None:
        """Encode the items of a commit and put them; where a batch fails, the others are put all the same."""
        batches = (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))
        # What is not encoded when the server stops is encoded by its next start.
        going_on = itertools.takewhile(lambda _: not self.stopping, batches)
        attempt_each(lambda batch: self._put(batch, number), going_on)

    def _put(self, items: Sequence[ItemRecord], number: int) -> None:
        try:
            snapshot = self._serving()
            if snapshot is not None:  # otherwise the first one to serve is compared with the store
                self._put_into(snapshot, items, number)
        finally:
            with self.wake:
                for item in items:
                    if self._pending.get(item.item_id) == number:
                        del self._pending[item.item_id]
                        self._since.discard([item.item_id])

    def _put_into(self, snapshot: Snapshot, items: Sequence[ItemRecord], number: int) -> None:
        with self.wake:
            items = [item for item in items if self._pending.get(item.item_id) == number]
        changes = _changes(snapshot, items)
        with self.wake:
            latest = [change for change in changes if self._pending.get(change.item_id) == number]
            if self._serving() is snapshot:  # otherwise the one that serves now is compared with the store
                self._writer.put_items(snapshot, latest)
        changed = len(snapshot.index.delta.state.vectors)
        if changed > max(_BEFORE_SERVING, DELTA_SHARE * len(snapshot.index.main)):
            if self._warned_of != snapshot.index.index_id:  # once for each index
                log.warning(
                    "many items changed since the last reindex: run `triptych reindex` for full speed"
                )
            self._warned_of = snapshot.index.index_id


def _tower(snapshot: Snapshot) -> ItemTower:
    return ItemTower(snapshot.model, snapshot.encoder, snapshot.cache)


def _new(snapshot: Snapshot, items: Sequence[ItemRecord]) -> list[ItemChange]:
    """Return those of some items that an index lacks, as changes without a vector."""
    rows = snapshot.index.rows([item.item_id for item in items])
    new = [item for item, row in zip(items, rows.tolist(), strict=True) if row < 0]
    return _as_changes(snapshot, new, np.zeros((len(new), snapshot.index.dim), dtype=np.float32))


def _changes(snapshot: Snapshot, items: Sequence[ItemRecord]) -> list[ItemChange]:
    """Return items, encoded, as changes to an index."""
    vectors = _tower(snapshot).vectors_of(items, _model_rows(snapshot, items))
    return _as_changes(snapshot, items, vectors)


def _as_changes(snapshot: Snapshot, items: Sequence[ItemRecord], vectors: FloatArray) -> list[ItemChange]:
    popularity = _tower(snapshot).popularity(_model_rows(snapshot, items))
    rows = zip(items, vectors, popularity.tolist(), strict=True)
    return [
        ItemChange(
            item.item_id,
            vector,
            users,
            _UNKNOWN,
            _UNKNOWN,
            item.kind,
            json.dumps(item.attributes, ensure_ascii=False),
        )
        for item, vector, users in rows
    ]


def _model_rows(snapshot: Snapshot, items: Sequence[ItemRecord]) -> IntArray:
    return np.array([snapshot.model_row_of.get(item.item_id, -1) for item in items], dtype=np.int64)
