"""The query processes of a server, as the owner knows them: which have joined, and what they are told."""

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from server.pb.triptych.internal.v1 import owner_pb2 as pb

_LONGEST_PREPARE_SECONDS = 600.0
log = logging.getLogger(__name__)


class NotPreparedError(RuntimeError):
    """A query process cannot serve an index, so that none does."""

    def __init__(self, index_id: str, pid: int, reason: str) -> None:
        super().__init__(f"index {index_id} is not published: query process {pid} cannot serve it: {reason}")
        self.index_id = index_id
        self.pid = pid
        self.reason = reason


class QueryProcesses:
    """The query processes that have joined an owner; threads may share it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._told: dict[int, queue.SimpleQueue[pb.JoinResponse | None]] = {}  # by process id
        self._preparing = ""  # the index that is being published
        self._waiting: set[int] = set()  # processes that have not said that they have prepared it
        self._refused: tuple[int, str] | None = None
        self._health: dict[str, bool] = {}
        self._closed = False
        self._announce: Callable[[Sequence[int]], None] = lambda _: None

    @contextmanager
    def joined(self, pid: int) -> "Iterator[queue.SimpleQueue[pb.JoinResponse | None]]":
        """Count a process as joined during the block; yield what it is to be told, None at the end."""
        told: queue.SimpleQueue[pb.JoinResponse | None] = queue.SimpleQueue()
        with self._changed:
            told.put(pb.JoinResponse(health=self._health))
            if self._closed:
                told.put(None)
            if self._preparing:
                told.put(pb.JoinResponse(prepare=self._preparing))
                self._waiting.add(pid)
            self._told[pid] = told
            self._announce(sorted(self._told))
        log.info("query process %d has joined", pid)
        try:
            yield told
        finally:
            with self._changed:
                if self._told.get(pid) is told:
                    del self._told[pid]
                    self._waiting.discard(pid)
                    if not self._closed:
                        self._announce(sorted(self._told))
                self._changed.notify_all()
            log.info("query process %d has left", pid)

    def announce_by(self, announce: Callable[[Sequence[int]], None]) -> None:
        """Tell a function the ids of the processes that have joined, now and whenever they change."""
        with self._changed:
            self._announce = announce
            announce(sorted(self._told))

    def tell_health(self, health: dict[str, bool]) -> None:
        """Tell every process whether each service and worker of the owner serves."""
        with self._changed:
            self._health = health
            self._tell(pb.JoinResponse(health=health))

    def prepared(self, pid: int, index_id: str, error: str) -> None:
        """Note that a process has prepared an index, or why it cannot."""
        with self._changed:
            if index_id == self._preparing:
                self._waiting.discard(pid)
                if error and self._refused is None:
                    self._refused = pid, error
                self._changed.notify_all()

    @contextmanager
    def preparing(self, index_id: str) -> Iterator[None]:
        """Have every process prepare an index; the block has it serve.

        Processes that leave meanwhile are not waited for; one that joins prepares it, too.

        Raises:
            NotPreparedError: a process cannot; the others drop it.
        """
        with self._changed:
            self._preparing, self._refused = index_id, None
            self._waiting = set(self._told)
            self._tell(pb.JoinResponse(prepare=index_id))
        try:
            with self._changed:
                done = self._changed.wait_for(
                    lambda: self._refused or not self._waiting, _LONGEST_PREPARE_SECONDS
                )
                if self._refused is not None:
                    raise NotPreparedError(index_id, *self._refused)
                if not done:
                    raise NotPreparedError(index_id, min(self._waiting), "it takes too long")
            yield
        except BaseException:
            with self._changed:
                self._tell(pb.JoinResponse(drop=True))
            raise
        finally:
            with self._changed:
                self._preparing = ""

    def close(self) -> None:
        """End the stream of every process."""
        with self._changed:
            self._closed = True
            self._tell(None)

    def _tell(self, what: pb.JoinResponse | None) -> None:
        for told in self._told.values():
            told.put(what)
