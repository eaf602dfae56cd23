"""The snapshots of a query process, which follow what the owner tells in the change log."""

import logging
import threading
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np

from encoder.text import TextCache
from indexer.publish import load_index
from server.config import ServerConfig
from server.live import candidates_of, freeze_what_stays, put_live
from server.query import Retriever, Snapshot, text_encoder
from store.state import LogEntry, LogFollower, StateContents, StateReader

log = logging.getLogger(__name__)


class Replica:
    """Loads what the owner publishes, keeps it in step with the log, and serves it once an entry says so.

    Files are not compared with their checksums: the owner has done that before it publishes.
    """

    def __init__(
        self,
        config: ServerConfig,
        state: StateReader,
        cache: TextCache,
        retriever: Retriever,
        follower: LogFollower,
        serving: Callable[[], None],
    ) -> None:
        """Take what snapshots are made of.

        Args:
            config: of the server.
            state: of users.
            cache: of text vectors.
            retriever: which answers from the snapshot that serves.
            follower: of the log; this listens to it.
            serving: called when a snapshot begins to serve.
        """
        self._config = config
        self._state = state
        self._cache = cache
        self._retriever = retriever
        self._follower = follower
        self._serving = serving
        self._candidates = candidates_of(config)
        self._loading = threading.Lock()
        self._current: Snapshot | None = None
        self._prepared: Snapshot | None = None
        follower.listen(self._follow)

    def resume(self) -> None:
        """Serve what the log says that serves, where that is known."""
        index_id = self._state.read(lambda reading: reading.serves)
        if index_id:
            self.prepare(index_id)
        self._follower.exclusively(self._state, lambda reading: self._serve(reading.serves, reading))

    def prepare(self, index_id: str) -> None:
        """Load an index, so that it can serve at once.

        Raises:
            IndexNotFoundError, DamagedArtifactError: it cannot serve.
        """
        with self._loading:
            if index_id in self._ids():
                return
            snapshot = self._load(index_id)

            def take(reading: StateContents) -> None:
                if index_id not in self._ids():  # it may serve by now
                    put_live(snapshot, reading)
                    self._prepared = snapshot

            self._follower.exclusively(self._state, take)

    def drop(self) -> None:
        """Forget what was prepared and does not serve."""
        self._follower.exclusively(self._state, lambda _: self._forget())

    def _follow(self, entries: Sequence[LogEntry] | None, reading: StateContents) -> None:
        for snapshot in (self._current, self._prepared):
            if snapshot is not None:
                _bring_up(snapshot, entries, reading)
        if entries is None or any(entry.serves for entry in entries):
            self._serve(reading.serves, reading)

    def _serve(self, index_id: str, reading: StateContents) -> None:
        """Have an index serve; one that was not prepared is loaded, which queries wait for."""
        if not index_id or (self._current is not None and self._current.index.index_id == index_id):
            return
        snapshot = self._prepared
        if snapshot is None or snapshot.index.index_id != index_id:
            log.warning("index %s serves and was not prepared: loading it", index_id)
            snapshot = self._load(index_id)
            put_live(snapshot, reading)
        self._retriever.serve(snapshot)
        self._current = snapshot
        self._forget()
        self._serving()
        freeze_what_stays()
        log.info("index %s serves, model %s", index_id, snapshot.model.model_id)

    def _forget(self) -> None:
        self._prepared = None

    def _ids(self) -> list[str]:
        return [one.index.index_id for one in (self._current, self._prepared) if one is not None]

    def _load(self, index_id: str) -> Snapshot:
        home = self._config.home
        elsewhere = None if self._candidates is None else self._candidates.reading()
        loaded = load_index(home, index_id, threads=1, check=False, elsewhere=elsewhere)
        threads, text_model_id = self._config.encode_threads, loaded.model.text_model_id
        encoder = text_encoder(home, text_model_id, threads, self._current, check=False)
        snapshot = Snapshot(loaded.index, loaded.model, encoder, self._cache, self._state, loaded.users)
        for rows_of_codes in (snapshot.model_rows, snapshot.main_rows):
            rows_of_codes(np.zeros(0, dtype=np.int64))  # for all codes now, not by the first query
        return snapshot


def _bring_up(snapshot: Snapshot, entries: Sequence[LogEntry] | None, reading: StateContents) -> None:
    """Put into a snapshot what entries tell of its indexes, or all that was told where they are None."""
    if entries is None:
        put_live(snapshot, reading)
        return
    own = [entry for entry in entries if entry.index_id == snapshot.index.index_id]
    items = list(dict.fromkeys(chain.from_iterable(entry.items for entry in own)))
    users = list(dict.fromkeys(chain.from_iterable(entry.members for entry in own)))
    put_live(snapshot, reading, items, users)
