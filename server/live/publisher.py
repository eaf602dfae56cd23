"""The change of what a server serves: load, check, make CURRENT, swap."""

import gc
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from encoder.text.cache import TextCache
from indexer.publish import changing_current, load_index, previous_index
from server.config import ServerConfig
from server.live.items import LiveItems
from server.live.texts import CommitListener
from server.live.users import LiveUsers
from server.query.retriever import Retriever
from server.query.snapshot import Snapshot, prepare
from server.supervisor import Supervisor
from store.artifact import read_pointer, set_pointer
from store.state.state import UserState
from store.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """What serves since a change, and the id of the index that served before, "" where none did."""

    snapshot: Snapshot
    previous: str


class Publisher:
    """Makes an index the one that serves; one change at a time, and never a half one."""

    def __init__(
        self,
        config: ServerConfig,
        store: Store,
        state: UserState,
        cache: TextCache,
        retriever: Retriever,
        after: CommitListener,
        live: LiveItems,
        live_users: LiveUsers,
        supervisor: Supervisor,
    ) -> None:
        self._config = config
        self._store = store
        self._state = state
        self._cache = cache
        self._retriever = retriever
        self._supervisor = supervisor
        self._changing = threading.RLock()  # to roll back is to look and to publish
        self._after = after
        self._live = live
        self._live_users = live_users
        self._index_id = ""

    def resume(self, announce: Callable[[], None] = lambda: None) -> None:
        """Serve what CURRENT names; without it the server waits, NOT_SERVING, for a publish.

        CURRENT is only read, and held until `announce` has told commands that a server runs: one that
        publishes meanwhile waits, and goes through the server then.

        Raises:
            DamagedArtifactError: CURRENT, the index or its model is damaged; names the file.
        """
        home = self._config.home
        # Calls are answered by now, and one of them may publish.
        with self._changing, changing_current(home):
            if home.current_index.exists():
                self._serve(read_pointer(home.current_index, home.indexes).name, lambda: None)
            else:
                log.warning(
                    "nothing is published in %s yet: run `triptych train` and `triptych reindex`", home.path
                )
            announce()

    def publish(self, index_id: str) -> Published:
        """Serve an index and make it CURRENT; return it and the one before.

        Raises:
            IndexNotFoundError, DamagedArtifactError: nothing changes.
        """
        with self._changing:
            before = self._index_id
            make_current = partial(set_pointer, self._config.home.current_index, index_id)
            return Published(self._serve(index_id, make_current), before)

    def roll_back(self) -> Published:
        """Serve the newest index older than CURRENT.  Raises: NoOlderIndexError, and as `publish`."""
        with self._changing:
            return self.publish(previous_index(self._config.home))

    @property
    def items_left_out(self) -> int:
        """How many stored items are not served because their attributes cannot be used."""
        return len(self._live.left_out)

    def _serve(self, index_id: str, make_current: Callable[[], None]) -> Snapshot:
        loaded = load_index(self._config.home, index_id, threads=1)
        threads = self._config.encode_threads
        with self._after.taking_note():
            snapshot = prepare(self._config.home, loaded, self._store, self._state, self._cache, threads)
            self._live.before_serving(snapshot)
            self._live_users.compare(snapshot)
            make_current()
            self._retriever.serve(snapshot)
            self._live.since_serving(snapshot)
            self._live_users.compare(snapshot)
        self._supervisor.ready()
        self._index_id = index_id
        # What was loaded stays; each time Python's collector looked through it, all threads stood for 45 ms.
        gc.freeze()
        return snapshot
