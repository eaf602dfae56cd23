"""The index that serves, kept in step with the items of the store without a reindex."""

import itertools
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.building.incremental import DELTA_SHARE, changes_of, difference, without_bad
from indexer.building.items import ItemTower
from indexer.files import FloatArray, IntArray, ItemChange
from server.query.retriever import NotReadyError, Retriever
from server.query.snapshot import Snapshot
from server.supervisor import Supervisor, Worker
from store.attributes import left_out
from store.records import Item
from store.store import Store

log = logging.getLogger(__name__)

_AT_ONCE = 16  # items encoded before the next are seen
_BEFORE_SERVING = 1_000  # differences that an index is brought up to date with before it serves
_UNKNOWN = bytes(16)  # a hash that nothing has: the next reindex looks at the item again


class LiveItems:
    """Puts items into the index that serves, and takes them out.

    When `committed` returns, what is deleted or unavailable is gone, and filters and the popularity fallback
    find what is new; searches by vector find it as soon as its text is encoded, on a thread of its own, and
    what was known changes then. An index that begins to serve is brought up to date by the hashes of its
    items, so nothing depends on what a process that was killed remembered.

    Attributes:
        left_out: why stored items are not served, by item id: their attributes cannot be used.
    """

    def __init__(self, store: Store, retriever: Retriever, supervisor: Supervisor | None = None) -> None:
        self._store = store
        self._retriever = retriever
        self._lock = threading.Lock()
        self._catching_up = threading.Lock()
        self._numbers = itertools.count()
        self._pending: dict[str, int] = {}  # items being encoded, by number of the latest request
        self._meanwhile: set[str] | None = None
        self._warned_of = ""  # the index beside which many items have changed
        self.left_out: dict[str, str] = {}
        self._jobs: deque[Callable[[], None]] = deque()
        self._worker = Worker(
            "items",
            waiting=lambda: bool(self._jobs),
            work=self._work,
            again=self._catch_up_again,
            supervisor=supervisor,
        )

    def __enter__(self) -> Self:
        self._worker.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.__exit__()

    def committed(self, requests: Sequence[tuple[Sequence[Item], Sequence[str]]]) -> None:
        """Take note of what requests put and deleted, in the order of their commits."""
        latest: dict[str, Item | None] = {}
        for put, deleted in requests:
            latest |= {item.item_id: item for item in put}
            latest |= dict.fromkeys(deleted)
        there = [item for item in latest.values() if item is not None and item.available]
        gone = latest.keys() - {item.item_id for item in there}
        with self._lock:
            number = next(self._numbers)
            for item_id in gone:
                self._pending.pop(item_id, None)
            self._pending |= dict.fromkeys([item.item_id for item in there], number)
            if self._meanwhile is not None:
                self._meanwhile |= latest.keys()
            self._forget_left_out(latest)
            snapshot = self._snapshot()
            if snapshot is not None:
                snapshot.index.put(_new(snapshot, there), sorted(gone))
        if there:
            self._submit(partial(self._encode, there, number))

    def before_serving(self, snapshot: Snapshot) -> None:
        """Bring an index up to date that is about to serve."""
        self._catch_up(snapshot)

    def since_serving(self, snapshot: Snapshot) -> None:
        """Bring an index up to date that has begun to serve, in the background."""
        self._submit(partial(self._catch_up_wholly, snapshot))

    def imported(self) -> None:
        """Bring the index that serves up to date after an import, in the background."""
        snapshot = self._snapshot()
        if snapshot is not None:
            self.since_serving(snapshot)

    def _work(self) -> None:
        self._jobs.popleft()()

    def _submit(self, job: Callable[[], None]) -> None:
        with self._worker.wake:
            self._jobs.append(job)
            self._worker.wake.notify_all()

    def _catch_up_again(self) -> bool:
        """Make up for items that could not be put: they are in the store, and differ from the index."""
        snapshot = self._snapshot()
        if snapshot is not None:  # otherwise what is published first catches up
            self._catch_up_wholly(snapshot)
        return True

    def _catch_up_wholly(self, snapshot: Snapshot) -> None:
        before = None
        while self._snapshot() is snapshot and not self._worker.stopping:
            left = self._catch_up(snapshot)
            if not left or left == before:  # the same ones again have nothing to be encoded
                break
            before = left

    def _catch_up(self, snapshot: Snapshot) -> int:
        """Bring an index up to date by a bounded number of items; return how many are left."""
        with self._catching_up:
            with self._lock:
                self._meanwhile = set()  # what requests change from now on is theirs
            try:
                return self._compared(snapshot)
            finally:
                with self._lock:
                    self._meanwhile = None

    def _compared(self, snapshot: Snapshot) -> int:
        """Put into an index what it lacks of the store, up to a bound; return how many items are left."""
        hashes = self._store.item_hashes()
        found = difference(snapshot.index, hashes)
        known_bad = pc.is_in(hashes.column("item_id"), pa.array(list(self.left_out), pa.string()))
        wanted = ~np.asarray(known_bad)[found.changed]
        changed, encoded = found.changed[wanted][:_BEFORE_SERVING], found.encoded[wanted][:_BEFORE_SERVING]
        some = hashes.take(pa.array(changed))
        items = self._store.some_items(some.column("item_id").to_pylist())
        changes: list[ItemChange] = []
        reasons: dict[str, str] = {}
        if len(items) == len(some):  # otherwise one has gone since: the next round sees it so
            items, some, encoded, reasons = without_bad(items, some, encoded)
            changes = changes_of(snapshot.index, items, some, encoded, _tower(snapshot))
        with self._lock:
            skipped = self._meanwhile or set()
            self.left_out |= {name: why for name, why in reasons.items() if name not in skipped}
            removed = [*found.removed, *self.left_out]
            snapshot.index.put(
                [change for change in changes if change.item_id not in skipped],
                [item_id for item_id in removed if item_id not in skipped],
            )
        if reasons:
            log.warning("index %s: %s", snapshot.index.index_id, left_out(reasons))
        count = len(changes) + len(found.removed)
        if count:
            log.info("index %s: %d items changed in the store since", snapshot.index.index_id, count)
        return int(wanted.sum()) - len(changes) - len(reasons)

    def _forget_left_out(self, item_ids: Iterable[str]) -> None:
        """Look at items again that were left out, now that they were written."""
        for item_id in item_ids:
            self.left_out.pop(item_id, None)

    def _encode(self, items: Sequence[Item], number: int) -> None:
        failed: Exception | None = None
        for start in range(0, len(items), _AT_ONCE):
            if self._worker.stopping:
                return  # the next start catches up
            try:
                self._put(items[start : start + _AT_ONCE], number)
            except Exception as error:  # a supervisor: raised when all were tried; the worker catches up then
                failed = error
        if failed is not None:
            raise failed

    def _put(self, items: Sequence[Item], number: int) -> None:
        try:
            snapshot = self._snapshot()
            if snapshot is not None:  # otherwise what is published first catches up
                self._put_into(snapshot, items, number)
        finally:
            with self._lock:
                for item in items:
                    if self._pending.get(item.item_id) == number:
                        del self._pending[item.item_id]

    def _put_into(self, snapshot: Snapshot, items: Sequence[Item], number: int) -> None:
        with self._lock:
            items = [item for item in items if self._pending.get(item.item_id) == number]
        changes = _changes(snapshot, items)
        with self._lock:
            latest = [change for change in changes if self._pending.get(change.item_id) == number]
            if self._snapshot() is snapshot:  # otherwise the one that serves now catches up
                snapshot.index.put(latest)
        changed = len(snapshot.index.delta.state.vectors)
        if changed > max(_BEFORE_SERVING, DELTA_SHARE * len(snapshot.index.main)):
            if self._warned_of != snapshot.index.index_id:  # once for each index
                log.warning(
                    "many items changed since the last reindex: run `triptych reindex` for full speed"
                )
            self._warned_of = snapshot.index.index_id

    def _snapshot(self) -> Snapshot | None:
        try:
            return self._retriever.snapshot
        except NotReadyError:
            return None


def _tower(snapshot: Snapshot) -> ItemTower:
    return ItemTower(snapshot.model, snapshot.encoder, snapshot.cache)


def _new(snapshot: Snapshot, items: Sequence[Item]) -> list[ItemChange]:
    """Return the items that an index does not have, as changes without a vector yet."""
    rows = snapshot.index.rows([item.item_id for item in items])
    new = [item for item, row in zip(items, rows.tolist(), strict=True) if row < 0]
    return _as_changes(snapshot, new, np.zeros((len(new), snapshot.index.dim), dtype=np.float32))


def _changes(snapshot: Snapshot, items: Sequence[Item]) -> list[ItemChange]:
    titles, texts = [item.title for item in items], [item.text for item in items]
    table = pa.table({"title": pa.array(titles, pa.string()), "text": pa.array(texts, pa.string())})
    return _as_changes(snapshot, items, _tower(snapshot).vectors(table, _model_rows(snapshot, items)))


def _as_changes(snapshot: Snapshot, items: Sequence[Item], vectors: FloatArray) -> list[ItemChange]:
    popularity = _tower(snapshot).popularity(_model_rows(snapshot, items))
    found = zip(items, vectors, popularity.tolist(), strict=True)
    return [
        ItemChange(
            i.item_id, vector, one, _UNKNOWN, _UNKNOWN, i.kind, json.dumps(i.attributes, ensure_ascii=False)
        )
        for i, vector, one in found
    ]


def _model_rows(snapshot: Snapshot, items: Sequence[Item]) -> IntArray:
    return np.array([snapshot.model_row_of.get(item.item_id, -1) for item in items], dtype=np.int64)
