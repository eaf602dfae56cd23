"""What follows a write without delaying it: texts are encoded, and the index takes note of items."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Self

import numpy as np

from server.live_items import LiveItems
from server.live_users import LiveUsers
from server.retriever import NotReadyError, Retriever
from store.duck import Store
from store.requests import Change

_AT_ONCE = 8  # larger batches are hardly faster, and a new text would wait for them
_NICENESS = 10
log = logging.getLogger(__name__)


class AfterCommit:
    """Encodes new texts in the background, and tells the index of items.

    Texts that are pending when the server stops are encoded by its next start, before it serves.
    """

    def __init__(self, store: Store, retriever: Retriever, live: LiveItems, users: LiveUsers) -> None:
        self._store = store
        self._retriever = retriever
        self._live = live
        self._users = users
        self._pending: dict[str, None] = {}  # a set that keeps its order
        self._backlog: list[str] = []  # found by the sweep; new texts go first
        self._meanwhile: list[str] | None = None
        self._sweep: Iterator[list[str]] | None = None
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="texts")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def changed(self, change: Change) -> None:
        """Take note of a committed transaction; items that it deletes are out of the index afterwards."""
        if change.texts:
            self._add(change.texts)
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
        with self._wake:
            self._sweep = self._stored()
            self._wake.notify()

    @contextmanager
    def taking_note(self) -> Iterator[None]:
        """Encode the texts that come during the block once more afterwards, when another model may serve."""
        self._meanwhile = []
        try:
            yield
        finally:
            texts, self._meanwhile = self._meanwhile, None
            self._add(texts)

    def _add(self, texts: list[str] | tuple[str, ...]) -> None:
        with self._wake:
            self._pending.update(dict.fromkeys(texts))
            if self._meanwhile is not None:
                self._meanwhile += texts
            self._wake.notify()

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while True:
            with self._wake:
                while not (self._pending or self._backlog or self._sweep or self._stopping):
                    self._wake.wait()
                if self._stopping:
                    return
                texts, sweep = self._next(), self._sweep
            try:
                if texts:
                    self._encode(texts)
                elif sweep is not None:
                    self._go_on(sweep)
            except NotReadyError:
                self._end(sweep)  # whatever is published first encodes all that is stored
            except Exception:  # a supervisor: one text that fails must not stop the others
                log.exception("texts could not be encoded")
                self._end(sweep)

    def _next(self) -> list[str]:
        """Return the texts to encode next, none where the sweep has to find some."""
        if not self._pending:
            texts, self._backlog = self._backlog[:_AT_ONCE], self._backlog[_AT_ONCE:]
            return texts
        texts = list(islice(self._pending, _AT_ONCE))
        for text in texts:
            del self._pending[text]
        return texts

    def _go_on(self, sweep: Iterator[list[str]]) -> None:
        """Take the next stored texts into the backlog."""
        batch = next(sweep, None)
        if batch is None:
            self._end(sweep)
        else:
            self._backlog = self._missing(batch)

    def _end(self, sweep: Iterator[list[str]] | None) -> None:
        with self._wake:
            if self._sweep is sweep:
                self._sweep = None

    def _stored(self) -> Iterator[list[str]]:
        """Yield all stored texts, after the vectors that came with some of them are cached."""
        serving = self._retriever.serving
        model_id = serving.encoder.text_model_id
        for texts, vectors in self._store.imported_vectors(model_id):
            serving.cache.put(model_id, texts, vectors)
        yield from self._store.distinct_texts()

    def _missing(self, texts: list[str]) -> list[str]:
        serving = self._retriever.serving
        encoder = serving.encoder
        _, found = serving.cache.get(encoder.text_model_id, texts, encoder.dim, encoder.one_piece_bytes)
        return [texts[row] for row in np.flatnonzero(~found) if texts[row].strip()]

    def _encode(self, texts: list[str]) -> None:
        serving, missing = self._retriever.serving, self._missing(texts)
        if missing:
            serving.cache.put(serving.encoder.text_model_id, missing, serving.encoder.encode(missing))
