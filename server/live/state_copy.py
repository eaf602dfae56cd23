"""The copy of the state in a cluster, kept in step with commits in the background."""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress

from encoder.text import TextCache, text_model_dims
from server.supervisor import Supervisor, Worker
from store.artifact import read_manifest
from store.home import Home
from store.state import UserState
from store.valkey import Cluster, ClusterAddress, StateMirror, StateUnreachableError

_LOOK_SECONDS, _SOON_SECONDS = 1.0, 0.1
_LONGEST_PAUSE_SECONDS = 2.0
log = logging.getLogger(__name__)


class StateCopy(Worker):
    """Copies each commit to a cluster, and looks every second whether the cluster still has everything.

    No write waits for it. What cannot be copied is kept and copied later.
    """

    def __init__(
        self,
        home: Home,
        home_id: str,
        state: UserState,
        cache: TextCache,
        address: ClusterAddress,
        supervisor: Supervisor | None = None,
    ) -> None:
        """Take what is copied and where to.  Raises: ValkeyNotInstalledError."""
        super().__init__("state", supervisor)
        self._home, self._cache = home, cache
        self._dims: dict[str, int] = {}  # of text models
        self._mirror = StateMirror(
            state, Cluster(address), home_id, self._text_vectors, self._text_model_of, self._wake
        )
        self.look_at = time.monotonic()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        with suppress(StateUnreachableError):
            self._mirror.stop()

    def _wake(self) -> None:
        with self.wake:
            self.wake.notify_all()

    def _has_work(self) -> bool:
        return self._due is None and (self._mirror.has_work or self._looks)

    @property
    def _looks(self) -> bool:
        return self.look_at is not None and time.monotonic() >= self.look_at

    def _work(self) -> None:
        self._mirror.step()
        if self._looks:
            self._mirror.rest()
            self.look_at = time.monotonic() + (_SOON_SECONDS if self._mirror.has_idle_work else _LOOK_SECONDS)

    def _catch_up(self) -> bool:
        self._pause = min(self._pause, _LONGEST_PAUSE_SECONDS)  # replicas wait for it
        self._mirror.step()
        self._mirror.rest()
        return True

    def _text_model_of(self, index_id: str) -> str:
        if not index_id:
            return ""
        model_id = read_manifest(self._home.indexes / index_id)["model_id"]
        return str(read_manifest(self._home.models / model_id)["text_model_id"])

    def _text_vectors(self, text_model_id: str, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        if text_model_id not in self._dims:
            self._dims = text_model_dims(self._home.text_models)
        dim = self._dims[text_model_id]
        vectors, found = self._cache.get(text_model_id, digests, dim)
        rows = zip(digests, vectors, found.tolist(), strict=True)
        return {digest: vector.astype("<f4", copy=False).tobytes() for digest, vector, known in rows if known}
