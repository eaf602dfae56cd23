"""The snapshots of a read replica: what is published is fetched and loaded while the one before serves."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from encoder.text import TextCache
from server.config import ServerConfig
from server.processes.artifacts import Artifacts
from server.processes.replica import Replica
from server.query import Retriever
from store.state import LogEntry, LogFollower, StateContents
from store.valkey import SharedState

_PAUSE_SECONDS = 2.0  # before an index that could not be loaded is tried again
log = logging.getLogger(__name__)


class RemoteSnapshots(Replica):
    """Serves what the log says that serves, as soon as it is here.

    Until then the snapshot before goes on; what is removed meanwhile is removed from it, too, so that nothing
    that is gone is found.
    """

    def __init__(
        self,
        config: ServerConfig,
        state: SharedState,
        cache: TextCache,
        retriever: Retriever,
        follower: LogFollower,
        serving: Callable[[], None],
        artifacts: Artifacts,
    ) -> None:
        super().__init__(config, state, cache, retriever, follower, serving)
        self._shared, self._artifacts = state, artifacts
        self._changed = threading.Condition()
        self._wanted = ""  # the index that the log says serves, while it is not here
        self._over = False

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Fetch and load what is published while the block runs."""
        thread = threading.Thread(target=self._fetch_all, name="fetching", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
            thread.join()
            self._artifacts.release()

    def resume(self) -> None:
        """Load and serve what the log says that serves, where that is known."""
        index_id = self._state.read(lambda reading: reading.serves)
        if index_id:
            self._wanted = index_id
            self._bring(index_id)

    def _bring(self, index_id: str) -> None:
        """Fetch and load an index, and serve it where the log has told of no other since."""

        def serve(reading: StateContents) -> None:
            if self._wanted == index_id:
                self._serve(index_id, reading)

        self._artifacts.fetch_index(index_id)
        self.prepare(index_id)
        self._follower.exclusively(self._state, serve)
        self._artifacts.release(but=self._ids())

    def _follow(self, entries: Sequence[LogEntry] | None, reading: StateContents) -> None:
        super()._follow(entries, reading)
        current = self._current
        if current is None or reading.serves in ("", current.index.index_id):
            return
        for part, index in (("items", current.index), ("users", current.users)):
            told = entries or ()
            names = [one for entry in told for one in (entry.items if part == "items" else entry.members)]
            if index is None or not (entries is None or names):
                continue
            live = reading.live(reading.serves, part, names if entries is not None else None)  # type: ignore[arg-type]
            index.put([], [name for name, (_, change) in live.items() if not change])

    def _serve(self, index_id: str, reading: StateContents) -> None:
        """Serve an index that is loaded; one that is not is loaded first, on a thread of its own."""
        missing = index_id if index_id not in ("", *self._ids()) else ""
        if self._prepared is not None and self._prepared.index.index_id == index_id:
            self._shared.text_model_id = self._prepared.model.text_model_id
            super()._serve(index_id, reading)
        with self._changed:
            self._wanted = missing
            self._changed.notify_all()

    def _fetch_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._over or self._wanted)
                if self._over:
                    return
                wanted = self._wanted
            log.info("index %s is published: fetching it", wanted)
            try:
                self._bring(wanted)
            except Exception:  # a supervisor: the snapshot before goes on, and this is tried again
                log.exception("index %s cannot be served yet, and is tried again", wanted)
                with self._changed:
                    self._changed.wait_for(lambda: self._over, _PAUSE_SECONDS)
