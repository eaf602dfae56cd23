"""What follows a write without delaying it: texts are encoded, and the index takes note of items."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Self

import numpy as np

from encoder.text.cache import ErasureSafeWriter
from server.live.items import LiveItems
from server.live.users import LiveUsers
from server.query.retriever import NotReadyError, Retriever
from server.query.snapshot import cache_what_came
from server.supervisor import Supervisor, Worker
from store.store import Store
from store.writes.request import WrittenChange

_AT_ONCE = 8  # larger batches are hardly faster, and a new text would wait for them
_NICENESS = 10
_NO_FENCE = -1
log = logging.getLogger(__name__)


class CommitListener:
    """Encodes new texts in the background, and tells the index of items.

    Texts that are pending when the server stops are encoded by its next start, before it serves.
    """

    def __init__(
        self,
        store: Store,
        retriever: Retriever,
        live: LiveItems,
        users: LiveUsers,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._store = store
        self._retriever = retriever
        self._live = live
        self._users = users
        self._pending: dict[str, int] = {}  # with the cache's fence of when they came, oldest first
        self._backlog: dict[str, int] = {}  # found by the sweep; new texts go first
        self._meanwhile: dict[str, int] | None = None
        self._sweep: Iterator[dict[str, int]] | None = None
        self._failures = 0  # when the sweep began
        self._worker = Worker(
            "texts",
            waiting=lambda: bool(self._pending or self._backlog or self._sweep),
            work=self._work,
            again=self._sweep_again,
            niceness=_NICENESS,
            supervisor=supervisor,
        )
        self._wake = self._worker.wake

    def __enter__(self) -> Self:
        self._worker.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.__exit__()

    def changed(self, change: WrittenChange) -> None:
        """Take note of a committed transaction; items that it deletes are out of the index afterwards."""
        if change.texts:
            self._add(dict.fromkeys(change.texts, self._fence()))
        if change.items:
            self._live.committed(change.items)
        if change.users:
            self._users.changed(change.users)

    def erased(self, user_id: str) -> None:
        """Take a person out of the user index."""
        self._users.erased(user_id)

    def imported(self) -> None:
        """Have what an import brought encoded and put into the index."""
        self._live.imported()
        self.sweep()

    def missed(self) -> None:
        """Bring texts, items and users up to the store after a change that they were not told of."""
        self.imported()
        self._users.missed()

    @contextmanager
    def taking_note(self) -> Iterator[None]:
        """Encode the texts that come during the block once more afterwards, when another model may serve."""
        with self._wake:
            self._meanwhile = {}
        try:
            yield
        finally:
            with self._wake:
                texts, self._meanwhile = self._meanwhile, None
            self._add(texts)

    def _add(self, texts: dict[str, int]) -> None:
        with self._wake:
            self._pending |= texts
            if self._meanwhile is not None:
                self._meanwhile |= texts
            self._wake.notify_all()

    def _fence(self) -> int:
        """Return the fence of the cache, where nothing serves one that it never has."""
        try:
            return self._retriever.snapshot.cache.fence()
        except NotReadyError:
            return _NO_FENCE

    def _work(self) -> None:
        with self._wake:
            texts, sweep = self._next(), self._sweep
        try:
            if texts:
                self._encode_all(texts)
            elif sweep is not None:
                self._go_on(sweep)
        except NotReadyError:
            self._end(sweep)  # whatever is published first encodes all that is stored
            self._worker.recovered()
        except BaseException:
            if not texts:
                self._end(sweep)
            raise

    def sweep(self) -> None:
        """Have every stored text encoded that the cache lacks."""
        with self._wake:
            self._failures = self._worker.failures
            self._sweep = self._stored()
            self._wake.notify_all()

    def _sweep_again(self) -> bool:
        """Have encoded what is stored without a vector; all is well once that ends without a failure."""
        self.sweep()
        return False

    def _next(self) -> dict[str, int]:
        """Return the texts to encode next, none where the sweep has to find some."""
        waiting = self._pending or self._backlog
        return {text: waiting.pop(text) for text in list(islice(waiting, _AT_ONCE))}

    def _go_on(self, sweep: Iterator[dict[str, int]]) -> None:
        """Take the next stored texts into the backlog."""
        batch = next(sweep, None)
        if batch is None:
            self._end(sweep)
            if self._worker.failures == self._failures:
                self._worker.recovered()
        else:
            self._backlog = {text: batch[text] for text in self._missing(list(batch))}

    def _end(self, sweep: Iterator[dict[str, int]] | None) -> None:
        with self._wake:
            if self._sweep is sweep:
                self._sweep = None

    def _stored(self) -> Iterator[dict[str, int]]:
        """Yield all stored texts, after the vectors that came with some of them are cached."""
        snapshot = self._retriever.snapshot
        fence = snapshot.cache.fence()
        written = ErasureSafeWriter(snapshot.cache, self._store.texts_among, fence)
        cache_what_came(self._store, snapshot.encoder, written)
        for texts in self._store.distinct_texts():
            yield dict.fromkeys(texts, fence)

    def _missing(self, texts: list[str]) -> list[str]:
        snapshot = self._retriever.snapshot
        encoder = snapshot.encoder
        _, found = snapshot.cache.get(encoder.text_model_id, texts, encoder.dim, encoder.one_piece_bytes)
        return [texts[row] for row in np.flatnonzero(~found) if texts[row].strip()]

    def _encode_all(self, texts: dict[str, int]) -> None:
        """Encode texts together or, where that fails, one by one: one that fails does not stop the others."""
        try:
            self._encode(texts)
        except NotReadyError:
            raise
        except Exception:  # a supervisor: the last error is raised when all were tried
            failed: Exception | None = None
            for text, fence in texts.items():
                try:
                    self._encode({text: fence})
                except Exception as error:
                    failed = error
            if failed is not None:
                raise failed from None

    def _encode(self, texts: dict[str, int]) -> None:
        snapshot, missing = self._retriever.snapshot, self._missing(list(texts))
        if missing:
            fences = {texts[text] for text in missing}
            fence = fences.pop() if len(fences) == 1 else _NO_FENCE
            written = ErasureSafeWriter(snapshot.cache, self._store.texts_among, fence)
            written.put(snapshot.encoder.text_model_id, missing, snapshot.encoder.encode(missing))
