"""Answers from another index of the home than the one that serves, so that two can be compared."""

import logging
import threading

from encoder.text import TextCache
from indexer.index import Index
from indexer.publish import load_index
from server.query.query import Candidates, Query
from server.query.retriever import Retriever
from server.query.snapshot import Snapshot
from server.query.stored_rows import StoredRows
from store.home import Home
from store.state import LogFollower, UserState

KEPT_SECONDS = 300.0  # after the last answer
_IDS_AT_ONCE = 65_536
log = logging.getLogger(__name__)


class TextModelDiffersError(RuntimeError):
    """Texts of people are not encoded for the model of an index, so its answers would lack them."""

    def __init__(self, index_id: str, wanted: str, serving: str) -> None:
        super().__init__(
            f"the model of index {index_id} reads texts by the language model {wanted}, and what people "
            f"wrote is encoded by {serving}: publish the index to see its answers"
        )
        self.index_id = index_id


class OtherIndex:
    """Loads one index at a time beside the one that serves; threads may share it.

    An index is forgotten five minutes after its last answer.
    """

    def __init__(
        self,
        home: Home,
        store: StoredRows,
        state: UserState,
        cache: TextCache,
        serving: Retriever,
    ) -> None:
        """Take what answers are made of.

        Args:
            home: where the indexes are.
            store: asked for texts and items.
            state: of users.
            cache: of text vectors.
            serving: answers from the index that serves.
        """
        self._home = home
        self._store = store
        self._state = state
        self._cache = cache
        self._serving = serving
        self._asking = threading.Lock()
        self._loaded: Retriever | None = None
        self._without: tuple[str, int] | None = (
            None  # the serving index and its version, when items were compared
        )
        self._forget: threading.Timer | None = None

    def retrieve(self, index_id: str, query: Query) -> Candidates:
        """Find the candidates of a query for items in an index; calls wait for each other.

        Raises:
            IndexNotFoundError, DamagedArtifactError: the index cannot be loaded.
            TextModelDiffersError: it would answer without texts.
            NotReadyError: no index serves.
            and as `Retriever.retrieve`.
        """
        serving = self._serving.snapshot
        if index_id == serving.index.index_id:
            return self._serving.retrieve([query])[0]
        with self._asking:
            if self._forget is not None:
                self._forget.cancel()
            try:
                retriever = self._retriever(index_id, serving)
                self._leave_out_removed(retriever.snapshot.index, serving.index)
                return retriever.retrieve([query])[0]
            finally:
                self._forget = threading.Timer(KEPT_SECONDS, self.forget)
                self._forget.daemon = True
                self._forget.start()

    @property
    def index_id(self) -> str:
        """The index that is loaded, "" for none."""
        loaded = self._loaded
        return "" if loaded is None else loaded.snapshot.index.index_id

    def forget(self) -> None:
        """Let go of the index that is loaded."""
        with self._asking:
            self._loaded = self._without = None

    def close(self) -> None:
        """Let go of the index, and of the thread that would."""
        if self._forget is not None:
            self._forget.cancel()
        self.forget()

    def _retriever(self, index_id: str, serving: Snapshot) -> Retriever:
        if self._loaded is None or self.index_id != index_id:
            self._loaded = self._without = None  # one at a time, also in memory
            loaded = load_index(self._home, index_id, threads=1)
            wanted, present = loaded.model.text_model_id, serving.encoder.text_model_id
            if wanted != present:
                raise TextModelDiffersError(index_id, wanted, present)
            snapshot = Snapshot(loaded.index, loaded.model, serving.encoder, self._cache, self._state)
            head = self._state.read(lambda reading: reading.head.sequence)
            follower = LogFollower(sequence=head)
            self._loaded = Retriever(
                self._store, self._state, snapshot, follower=follower, user_cache_bytes=0
            )
            log.info("index %s is loaded to be compared with %s", index_id, serving.index.index_id)
        return self._loaded

    def _leave_out_removed(self, index: Index, serving: Index) -> None:
        """Remove the items from an index that the serving one has no more; it is in memory alone."""
        now = serving.index_id, serving.delta.state.version
        if self._without == now:
            return
        ids = index.ids
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = ids.slice(start, _IDS_AT_ONCE).to_pylist()
            gone = [one for one, row in zip(some, serving.rows(some).tolist(), strict=True) if row < 0]
            index.put((), gone)
        self._without = now
