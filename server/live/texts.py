"""Vectors of users' texts in the cache, in step with the store: new texts are encoded in the background."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import cast

import numpy as np

from encoder.text import ErasureSafeWriter
from server.query import NotReadyError, Retriever, cache_stored_vectors
from server.supervisor import Supervisor, WaitingSince, Worker, attempt_each
from store.state import UserState
from store.store import Store

_AT_ONCE = 8  # texts that are encoded together: more are hardly faster, and a new text would wait for them
_NICENESS = 10
_NO_FENCE = -1  # one that the cache never has


class LiveTexts(Worker):
    """Encodes texts with the language model that serves, and caches their vectors.

    New texts go first. A sweep looks through all stored texts for those without a vector: after an import,
    after vectors were lost, and after failures, until one ends without a failure. A text that cannot be
    encoded keeps neither other new texts nor the rest of a sweep from being encoded. Texts that wait when the
    server stops are encoded by its next start, before it serves.

    A text comes with the cache's fence of when it was committed or read, so that no vector of a text is
    cached whose author was erased in between.
    """

    def __init__(self, store: Store, retriever: Retriever, supervisor: Supervisor | None = None) -> None:
        super().__init__("texts", supervisor, niceness=_NICENESS)
        self._store = store
        self._retriever = retriever
        self._pending: dict[str, int] = {}  # new texts, oldest first, with their fence
        self._backlog: dict[str, int] = {}  # texts that the sweep found
        self._since = WaitingSince()  # both
        self._during_publish: dict[str, int] | None = None  # new texts since a publish began
        self._sweep: Iterator[dict[str, int]] | None = None
        self._failures_before = 0  # the sweep

    def committed(self, texts: Iterable[str]) -> None:
        """Have new texts encoded."""
        self._add(dict.fromkeys(texts, self._fence()))

    def sweep(self) -> None:
        """Have every stored text encoded that has no vector in the cache."""
        with self.wake:
            self._failures_before = self.failures
            self._sweep = self._stored()
            self.wake.notify_all()

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Have the texts that come during the block encoded again after it, by the model that serves then."""
        with self.wake:
            self._during_publish = {}
        try:
            yield
        finally:
            with self.wake:
                texts, self._during_publish = self._during_publish, None
            self._add(texts)

    def backlog(self) -> tuple[int, float]:
        """Return how many texts are to be encoded, and for how many seconds the oldest has waited."""
        with self.wake:
            return len(self._since), self._since.seconds

    def _add(self, texts: dict[str, int]) -> None:
        with self.wake:
            self._pending |= texts
            self._since.add(texts)
            if self._during_publish is not None:
                self._during_publish |= texts
            self.wake.notify_all()

    def _fence(self) -> int:
        try:
            return self._retriever.snapshot.cache.fence()
        except NotReadyError:
            return _NO_FENCE

    def _has_work(self) -> bool:
        return bool(self._pending or self._backlog or self._sweep)

    def _work(self) -> None:
        with self.wake:
            waiting = self._pending or self._backlog
            texts = {text: waiting.pop(text) for text in list(islice(waiting, _AT_ONCE))}
            self._since.discard(texts)
            sweep = self._sweep
        try:
            if texts:
                self._encode_each(texts)
            elif sweep is not None:
                self._go_on(sweep)
        except NotReadyError:
            self._end(sweep)  # a snapshot serves only after all stored texts are encoded
            self.recovered()
        except BaseException:
            if not texts:
                self._end(sweep)
            raise

    def _catch_up(self) -> bool:
        """Begin a sweep, unless one is under way: after one with failures another one is begun."""
        with self.wake:
            under_way = self._sweep is not None
        if not under_way:
            self.sweep()
        return False  # `_go_on` recovers

    def _go_on(self, sweep: Iterator[dict[str, int]]) -> None:
        """Take the next stored texts without a vector into the backlog, or end the sweep."""
        batch = next(sweep, None)
        if batch is not None:
            missing = self._missing(list(batch))
            with self.wake:
                self._backlog = {text: batch[text] for text in missing}
                self._since.add(missing)
            return
        self._end(sweep)
        if self.failures == self._failures_before:
            self.recovered()
        else:
            self.catch_up_later()

    def _end(self, sweep: Iterator[dict[str, int]] | None) -> None:
        with self.wake:
            if self._sweep is sweep:  # otherwise another one was begun
                self._sweep = None

    def _stored(self) -> Iterator[dict[str, int]]:
        """Yield all stored texts with their fence, after the vectors that came with some are cached."""
        snapshot = self._retriever.snapshot
        fence = snapshot.cache.fence()
        written = ErasureSafeWriter(snapshot.cache, self._store.texts_among, fence)
        cache_stored_vectors(self._store, snapshot.encoder, written)
        state = cast(UserState, snapshot.state)  # whoever encodes texts writes the state
        with state.writing() as draft:  # some may take the place of others, of the same texts
            draft.change_all()
        for texts in self._store.distinct_texts():
            yield dict.fromkeys(texts, fence)

    def _missing(self, texts: list[str]) -> list[str]:
        """Return those of some texts that are not blank and have no vector in the cache."""
        snapshot = self._retriever.snapshot
        encoder = snapshot.encoder
        _, found = snapshot.cache.get(encoder.text_model_id, texts, encoder.dim, encoder.one_piece_bytes)
        return [texts[row] for row in np.flatnonzero(~found) if texts[row].strip()]

    def _encode_each(self, texts: dict[str, int]) -> None:
        """Encode texts together or, where that fails, each alone."""
        try:
            self._encode(texts)
        except NotReadyError:
            raise
        except Exception:  # a supervisor: what fails alone, too, is raised
            attempt_each(lambda text: self._encode({text: texts[text]}), texts)

    def _encode(self, texts: dict[str, int]) -> None:
        snapshot, missing = self._retriever.snapshot, self._missing(list(texts))
        if missing:
            fences = {texts[text] for text in missing}
            fence = fences.pop() if len(fences) == 1 else _NO_FENCE
            written = ErasureSafeWriter(snapshot.cache, self._store.texts_among, fence)
            written.put(snapshot.encoder.text_model_id, missing, snapshot.encoder.encode(missing))
