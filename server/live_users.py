"""The user index that serves, kept in step with what people do, and without those who were erased."""

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Self

import pyarrow as pa

from indexer.difference import difference
from indexer.user_part import people_hashes
from indexer.users import user_change
from server.raw_views import Asked, raw_views, stack
from server.retriever import NotReadyError, Retriever
from server.serving import Serving
from store.duck import Store

log = logging.getLogger(__name__)

_AT_ONCE = 4  # users encoded before the next are seen
_PAUSE_S = 0.05  # between batches, at least: a user who writes much is encoded once
_PAUSES = 9  # times as long as the batch before took: queries come first, so a tenth of a processor at most


class LiveUsers:
    """Encodes people again after their own rows changed; whoever is erased is gone at once.

    Followers of somebody whose history changed are encoded by the next reindex. An index that begins to serve
    is compared with the store, so that nobody comes back with it.
    """

    def __init__(self, store: Store, retriever: Retriever) -> None:
        self._store = store
        self._retriever = retriever
        self._pending: dict[str, None] = {}  # a set that keeps its order
        self._erased: set[str] = set()  # while a batch is being encoded
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="users")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def changed(self, user_ids: Iterable[str]) -> None:
        """Have people encoded again."""
        with self._wake:
            self._pending |= dict.fromkeys(user_ids)
            self._wake.notify()

    def erased(self, user_id: str) -> None:
        """Take a person out; nothing brings them back."""
        with self._wake:
            self._pending.pop(user_id, None)
            self._erased.add(user_id)
            serving = self._serving()
            if serving is not None and serving.users is not None:
                serving.users.put([], [user_id])

    def compare(self, serving: Serving) -> None:
        """Take out of an index whom the store does not know, and have those encoded who changed since.

        To be called before the index serves, so that nobody who was erased is found, and again once it does.
        """
        if serving.users is None:
            return
        hashes = people_hashes(self._store.user_hashes())
        found = difference(serving.users, hashes)
        serving.users.put([], found.removed)
        self.changed(hashes.column("item_id").take(pa.array(found.changed)).to_pylist())

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._pending or self._stopping):
                    self._wake.wait()
                if self._stopping:
                    return
                some = list(self._pending)[:_AT_ONCE]
                for user_id in some:
                    del self._pending[user_id]
                self._erased.clear()
            began = time.monotonic()
            try:
                self._encode(some)
            except NotReadyError:
                continue  # what is published first is compared with the store
            except Exception:  # a supervisor: the next reindex has them
                log.exception("%d users could not be put into the user index", len(some))
            pause = max(_PAUSE_S, _PAUSES * (time.monotonic() - began))
            with self._wake:
                self._wake.wait_for(lambda: self._stopping, pause)

    def _encode(self, user_ids: Sequence[str]) -> None:
        serving = self._retriever.serving
        if serving.users is None:
            return
        people = serving.state.people(user_ids)
        batch = stack([raw_views(serving, Asked(person)) for person in people])
        vectors = serving.model.encode_users(batch).vectors
        changes = [
            user_change(user_id, vector, len(person.history))
            for user_id, person, vector in zip(user_ids, people, vectors, strict=True)
        ]
        with self._wake:
            serving.users.put([change for change in changes if change.item_id not in self._erased])

    def _serving(self) -> Serving | None:
        try:
            return self._retriever.serving
        except NotReadyError:
            return None
