"""The index that serves, kept in step with the items of the store without a reindex."""

import itertools
import json
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from indexer.building import ItemTower
from indexer.difference import DELTA_SHARE, difference
from indexer.incremental import changes_of
from indexer.parts import Change
from server.retriever import NotReadyError, Retriever
from server.serving import Serving
from store.duck import Store
from store.records import Item

log = logging.getLogger(__name__)

_AT_ONCE = 16  # items encoded before the next are seen
_BEFORE_SERVING = 1_000  # differences that an index is brought up to date with before it serves
_UNKNOWN = bytes(16)  # a hash that nothing has: the next reindex looks at the item again


class LiveItems:
    """Puts items into the index that serves, and takes them out.

    What is deleted or unavailable is gone when `committed` returns; what is put follows as soon as its text
    is encoded, on a thread of its own. An index that begins to serve is brought up to date by the hashes of
    its items, so nothing depends on what a process that was killed remembered.
    """

    def __init__(self, store: Store, retriever: Retriever) -> None:
        self._store = store
        self._retriever = retriever
        self._lock = threading.Lock()
        self._catching_up = threading.Lock()
        self._numbers = itertools.count()
        self._pending: dict[str, int] = {}  # items being encoded, by number of the latest request
        self._meanwhile: set[str] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="items")
        self._stopping = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True  # what is left, the next start catches up with
        self._pool.shutdown(cancel_futures=True)

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
            serving = self._serving()
            if gone and serving is not None:
                serving.index.put([], sorted(gone))
        if there:
            self._pool.submit(self._encode, there, number)

    def before_serving(self, serving: Serving) -> None:
        """Bring an index up to date that is about to serve."""
        self._catch_up(serving)

    def since_serving(self, serving: Serving) -> None:
        """Bring an index up to date that has begun to serve, in the background."""
        self._pool.submit(self._catch_up_wholly, serving)

    def imported(self) -> None:
        """Bring the index that serves up to date after an import, in the background."""
        serving = self._serving()
        if serving is not None:
            self.since_serving(serving)

    def _catch_up_wholly(self, serving: Serving) -> None:
        try:
            before = None
            while self._serving() is serving and not self._stopping:
                left = self._catch_up(serving)
                if not left or left == before:  # the same ones again have nothing to be encoded
                    break
                before = left
        except Exception:  # a supervisor: the items are stored, and the next reindex has them
            log.exception("the index could not be brought up to date with the store")

    def _catch_up(self, serving: Serving) -> int:
        """Bring an index up to date by a bounded number of items; return how many are left."""
        with self._catching_up:
            with self._lock:
                self._meanwhile = set()  # what requests change from now on is theirs
            hashes = self._store.item_hashes()
            found = difference(serving.index, hashes, _tower(serving).encodable(hashes))
            some = hashes.take(pa.array(found.changed[:_BEFORE_SERVING]))
            items = self._store.some_items(some.column("item_id").to_pylist())
            changes: list[Change] = []
            if len(items) == len(some):  # otherwise one has gone since: the next round sees it so
                encoded = found.encoded[:_BEFORE_SERVING]
                changes = changes_of(serving.index, items, some, encoded, _tower(serving))
            with self._lock:
                skipped, self._meanwhile = self._meanwhile or set(), None
                serving.index.put(
                    [change for change in changes if change.item_id not in skipped],
                    [item_id for item_id in found.removed if item_id not in skipped],
                )
        count = len(changes) + len(found.removed)
        if count:
            log.info("index %s: %d items changed in the store since", serving.index.index_id, count)
        return len(found.changed) - len(changes)

    def _encode(self, items: Sequence[Item], number: int) -> None:
        try:
            for start in range(0, len(items), _AT_ONCE):
                if self._stopping:
                    return
                self._put(items[start : start + _AT_ONCE], number)
        except Exception:  # a supervisor: the items are stored, and the next start or reindex has them
            log.exception("%d items could not be put into the index", len(items))

    def _put(self, items: Sequence[Item], number: int) -> None:
        serving = self._serving()
        if serving is None:
            return  # what is published first catches up
        with self._lock:
            items = [item for item in items if self._pending.get(item.item_id) == number]
        changes = _changes(serving, items)
        with self._lock:
            latest = [change for change in changes if self._pending.get(change.item_id) == number]
            if self._serving() is serving:  # otherwise the one that serves now catches up
                serving.index.put(latest)
            for change in latest:
                del self._pending[change.item_id]
        if len(serving.index.delta.now.vectors) > max(_BEFORE_SERVING, DELTA_SHARE * len(serving.index.main)):
            log.warning("many items changed since the last reindex: run `triptych reindex` for full speed")

    def _serving(self) -> Serving | None:
        try:
            return self._retriever.serving
        except NotReadyError:
            return None


def _tower(serving: Serving) -> ItemTower:
    return ItemTower(serving.model, serving.encoder, serving.cache)


def _changes(serving: Serving, items: Sequence[Item]) -> list[Change]:
    tower, row_of = _tower(serving), serving.model_row_of
    rows = np.array([row_of.get(item.item_id, -1) for item in items], dtype=np.int64)
    titles, texts = [item.title for item in items], [item.text for item in items]
    table = pa.table({"title": pa.array(titles, pa.string()), "text": pa.array(texts, pa.string())})
    found = zip(items, tower.vectors(table, rows), tower.popularity(rows).tolist(), strict=True)
    return [
        Change(i.item_id, vector, popularity, _UNKNOWN, _UNKNOWN, i.kind, json.dumps(i.attributes))
        for i, vector, popularity in found
    ]
