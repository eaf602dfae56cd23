"""Publishing an index in a running server: load, check, make CURRENT, serve."""

import gc
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from encoder.text import TextCache
from indexer.publish import changing_current, load_index
from server.config import ServerConfig
from server.live.artifacts import BucketArtifacts, HomeArtifacts
from server.live.candidates import candidates_of
from server.live.commits import CommitListener
from server.live.index_writer import IndexWriter
from server.live.query_processes import QueryProcesses
from server.query import Retriever, Snapshot, prepare
from server.supervisor import Supervisor
from store.state import UserState
from store.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """The snapshot that serves now, and the id of the index that served before, "" where none did."""

    snapshot: Snapshot
    previous: str


class OtherIndexServesError(RuntimeError):
    """Another index was published while one was made from the index that served before."""

    def __init__(self, before: str, serving: str) -> None:
        super().__init__(f"index {serving or 'none'} serves by now, not {before}")
        self.before, self.serving = before, serving


class Publisher:
    """Makes an index the one that serves; where that fails, the one before goes on serving.

    One publish at a time.

    Attributes:
        published: how many indexes have served so far, the first one included.
    """

    def __init__(
        self,
        config: ServerConfig,
        store: Store,
        state: UserState,
        cache: TextCache,
        retriever: Retriever,
        listener: CommitListener,
        supervisor: Supervisor,
        writer: IndexWriter | None = None,
        shared: HomeArtifacts | None = None,
    ) -> None:
        """Take what snapshots are made of, and who has to hear of them.

        Args:
            config: of the server.
            store: of the home.
            state: of users.
            cache: of text vectors.
            retriever: answers from the snapshot that serves.
            listener: keeps snapshots in step with the store.
            supervisor: of health.
            writer: tells which index serves.
            shared: where artifacts belong; by default in the directory of the home.
        """
        self._config = config
        self._store = store
        self._state = state
        self._cache = cache
        self._retriever = retriever
        self._supervisor = supervisor
        self._listener = listener
        self._writer = writer or IndexWriter()
        self._candidates = candidates_of(config, store.home_id)
        self._artifacts = shared or HomeArtifacts(config.home)
        self._preparing: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()
        self._publishing = threading.RLock()  # a rollback looks for an index and publishes it
        self.published = 0
        self._index_id = ""
        self._snapshot: Snapshot | None = None

    def prepare_in(self, processes: QueryProcesses) -> None:
        """Have query processes prepare each index before it serves, from now on."""
        self._preparing = processes.preparing

    def resume(self, announce: Callable[[], None] = lambda: None) -> None:
        """Serve what CURRENT names; without it the server is NOT_SERVING until an index is published.

        CURRENT is held until `announce` has written where the server is reached: a command that publishes
        meanwhile waits, and goes through the server then.

        Raises:
            DamagedArtifactError: CURRENT, the index or its model is damaged; names the file.
        """
        home = self._config.home
        # Calls are answered already, and one of them may publish.
        with self._publishing, changing_current(home):
            if index_id := self._artifacts.serving():
                self._serve(index_id, partial(self._artifacts.follow, index_id))
            else:
                log.warning(
                    "nothing is published in %s yet: run `triptych train` and `triptych reindex`", home.path
                )
            announce()

    def publish(self, index_id: str) -> Published:
        """Make an index CURRENT and serve it.

        Raises:
            IndexNotFoundError, DamagedArtifactError, NotPreparedError: the one before goes on serving.
        """
        with self._publishing:
            before = self._index_id
            return Published(self._serve(index_id, self._artifacts.publishing(index_id)), before)

    def follow(self, shared: BucketArtifacts) -> None:
        """Serve what CURRENT in the bucket names by now.

        Raises:
            ObjectStorageError, DamagedArtifactError, NotPreparedError: the one before goes on serving.
        """
        with self._publishing:  # whoever publishes here moves CURRENT meanwhile
            index_id = shared.named()
            if index_id and index_id != self._index_id:
                shared.fetch(index_id)
                self._serve(index_id, partial(shared.follow, index_id))
                log.info("index %s serves, which %s names", index_id, shared.bucket.name)

    def publish_in_place_of(self, before: str, index_id: str) -> Published:
        """Publish an index that was made from the one that served then.

        Raises:
            OtherIndexServesError: another one serves by now, and goes on serving.
            and as `publish`.
        """
        with self._publishing:
            if self._index_id != before:
                raise OtherIndexServesError(before, self._index_id)
            return self.publish(index_id)

    def roll_back(self) -> Published:
        """Serve the newest index older than CURRENT.  Raises: NoOlderIndexError, and as `publish`."""
        with self._publishing:
            return self.publish(self._artifacts.previous())

    @property
    def index_id(self) -> str:
        """The index that serves, "" for none."""
        return self._index_id

    @property
    def items_left_out(self) -> int:
        """Number of stored items that are not served because their attributes cannot be used."""
        return len(self._listener.items.left_out)

    def _serve(self, index_id: str, make_current: Callable[[], None]) -> Snapshot:
        elsewhere = None
        if self._candidates is not None:
            elsewhere = self._candidates.writing(self._config.home, index_id)
        loaded = load_index(self._config.home, index_id, threads=1, elsewhere=elsewhere)
        self._writer.begin(index_id)
        threads = self._config.encode_threads
        with self._listener.texts.publishing():
            snapshot = prepare(
                self._config.home, loaded, self._store, self._state, self._cache, threads, self._snapshot
            )
            self._writer.restore(snapshot)
            with self._listener.following(snapshot), self._preparing(index_id):
                make_current()
                self._retriever.serve(snapshot)
                self._writer.serve(index_id)
        if self._candidates is not None:
            self._candidates.serve(index_id)
        self._supervisor.ready()
        self._index_id, self._snapshot = index_id, snapshot
        self.published += 1
        freeze_what_stays()
        return snapshot


def freeze_what_stays() -> None:
    """Keep the collector from looking through what was loaded: all threads stand for 45 ms each time it does.

    It looks once more first, at what was frozen before, too: cycles that nobody reaches would stay for good.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
