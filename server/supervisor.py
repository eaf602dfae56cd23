"""Background threads that go on after a failure, and what health and Status tell of them."""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Self

from grpc_health.v1 import health, health_pb2

from server.pb.triptych.v1 import ingest_pb2
from server.pb.triptych.v1 import triptych_pb2 as pb

SERVICES = tuple(
    service.full_name for file in (pb, ingest_pb2) for service in file.DESCRIPTOR.services_by_name.values()
)
WORKER_SERVICE = "triptych.worker."  # and the name of a worker: a service that health tells of it
_NEEDS = {ingest_pb2.DESCRIPTOR.services_by_name["Ingest"].full_name: "writer"}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 30.0
log = logging.getLogger(__name__)


class Supervisor:
    """Tells through grpc.health.v1 what serves: a service that is ready, and whose worker does not fail."""

    def __init__(self, health_of: health.HealthServicer | None = None) -> None:
        """Take whom to tell, nobody by default."""
        self._health = health_of
        self._lock = threading.Lock()
        self._workers: dict[str, Worker] = {}
        self._ready = False
        self.tell()

    def add(self, worker: "Worker") -> None:
        """Watch a worker from now on."""
        with self._lock:
            self._workers[worker.name] = worker
        self.tell()

    def ready(self) -> None:
        """Note that an index serves."""
        self._ready = True
        self.tell()

    def workers(self) -> list[pb.Worker]:
        """Return how the workers do."""
        with self._lock:
            return [worker.state() for worker in self._workers.values()]

    def tell(self) -> None:
        """Set every service to what holds now."""
        if self._health is None:
            return
        with self._lock:  # one at a time, so that the last one tells what is true
            failing = {name for name, worker in self._workers.items() if worker.state().failing}
            said = {
                service: self._ready and _NEEDS.get(service) not in failing for service in ("", *SERVICES)
            }
            said |= {WORKER_SERVICE + name: name not in failing for name in self._workers}
            statuses = health_pb2.HealthCheckResponse
            for service, serves in said.items():
                self._health.set(service, statuses.SERVING if serves else statuses.NOT_SERVING)


class Worker:
    """A thread that does one piece of work after another, also after one that failed.

    A failure makes it `failing`, and has `again` called after a pause, which doubles up to half a minute,
    until that makes up for what failed; other work goes on meanwhile. `wake` guards what there is to do.
    """

    def __init__(
        self,
        name: str,
        *,
        waiting: Callable[[], bool],
        work: Callable[[], None],
        again: Callable[[], bool],
        niceness: int = 0,
        drains: bool = False,
        supervisor: Supervisor | None = None,
    ) -> None:
        """Take what the thread does.

        Args:
            name: of the thread, and in health and Status.
            waiting: whether there is work; called while `wake` is held.
            work: does the next piece.
            again: makes up for failures; returns False where `recovered` will be called once that is done.
            niceness: of the thread.
            drains: whether work that waits is done before it stops.
            supervisor: who is told.
        """
        self.name = name
        self.wake = threading.Condition()
        self.stopping = False
        self.failures = 0
        self._waiting = waiting
        self._work = work
        self._again = again
        self._niceness = niceness
        self._drains = drains
        self._supervisor = supervisor or Supervisor()
        self._failing = False
        self._error = ""
        self._pause = _FIRST_PAUSE_S
        self._due: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._supervisor.add(self)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.wake:
            self.stopping = True
            self.wake.notify_all()
        self._thread.join()

    def state(self) -> pb.Worker:
        """Return what Status tells."""
        return pb.Worker(name=self.name, failing=self._failing, failures=self.failures, error=self._error)

    def failed(self, error: BaseException) -> None:
        """Note a failure, and have `again` called; from any thread."""
        with self.wake:
            first, self._failing = not self._failing, True
            self.failures += 1
            self._error = type(error).__name__
            if self._due is None:
                self._due = time.monotonic() + self._pause
            self.wake.notify_all()
        log.error(
            "%s: failed, and is repeated: %s", self.name, self._error, exc_info=error if first else None
        )
        self._supervisor.tell()

    def recovered(self) -> None:
        """Note that nothing is left of failures."""
        with self.wake:
            was, self._failing = self._failing, False
            self._due, self._pause = None, _FIRST_PAUSE_S
        if was:
            log.info("%s: goes on after a failure", self.name)
            self._supervisor.tell()

    def _run(self) -> None:
        while self._wait():
            try:
                if self._niceness:
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
                    self._niceness = 0
                if self._is_due():
                    self._make_up()
                else:
                    self._work()
            except BaseException as error:
                self.failed(error)

    def _make_up(self) -> None:
        with self.wake:
            self._due, self._pause = None, min(2 * self._pause, _LONGEST_PAUSE_S)
        if self._again():
            self.recovered()

    def _wait(self) -> bool:
        """Wait for something to do; return False where the thread has to end."""
        with self.wake:
            while not self.stopping:
                if self._waiting() or self._is_due():
                    return True
                self.wake.wait(None if self._due is None else max(0.0, self._due - time.monotonic()))
            self._due = None  # the next start finds what is left
            return self._drains and self._waiting()

    def _is_due(self) -> bool:
        return self._due is not None and time.monotonic() >= self._due
