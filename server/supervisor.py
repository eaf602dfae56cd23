"""Background threads that go on after a failure, and what health and Status say of them."""

import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Self, TypeVar

from grpc_health.v1 import health, health_pb2

from triptych_client.pb.v1 import ingest_pb2
from triptych_client.pb.v1 import triptych_pb2 as pb

SERVICES = tuple(
    service.full_name for file in (pb, ingest_pb2) for service in file.DESCRIPTOR.services_by_name.values()
)
WORKER_SERVICE = "triptych.worker."  # and the name of a worker: the service of that worker in health
_NEEDS = {ingest_pb2.DESCRIPTOR.services_by_name["Ingest"].full_name: "writer"}  # worker of a service
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 30.0
_Thing = TypeVar("_Thing")
log = logging.getLogger(__name__)


class Supervisor:
    """Keeps grpc.health.v1 up to date: SERVING once an index serves, unless a worker that is needed fails."""

    def __init__(self, health_servicer: health.HealthServicer | None = None) -> None:
        """Take the servicer whose statuses to set; without one, only `workers` tells of them."""
        self._health = health_servicer
        self._lock = threading.Lock()
        self._workers: dict[str, Worker] = {}
        self._ready = False
        self._listeners: list[Callable[[dict[str, bool]], None]] = []
        self.update_health()

    def add(self, worker: "Worker") -> None:
        """Watch a worker from now on."""
        with self._lock:
            self._workers[worker.name] = worker
        self.update_health()

    def listen(self, listener: Callable[[dict[str, bool]], None]) -> None:
        """Call a function whenever health is updated, with whether each service and worker serves."""
        self._listeners.append(listener)
        self.update_health()

    def ready(self) -> None:
        """Mark queries as answered, since an index serves."""
        self._ready = True
        self.update_health()

    def workers(self) -> list[pb.Worker]:
        """Return the state of each worker."""
        with self._lock:
            return [worker.state() for worker in self._workers.values()]

    def update_health(self) -> None:
        """Set the status of every service and worker to the present one."""
        if self._health is None and not self._listeners:
            return
        with self._lock:  # one thread at a time, so that the last statuses set are the newest
            failing = {name for name, worker in self._workers.items() if worker.state().failing}
            serves = {
                service: self._ready and _NEEDS.get(service) not in failing for service in ("", *SERVICES)
            }
            serves |= {WORKER_SERVICE + name: name not in failing for name in self._workers}
            if self._health is not None:
                set_health(self._health, serves)
            for listener in self._listeners:
                listener(serves)


def set_health(servicer: health.HealthServicer, serves: dict[str, bool]) -> None:
    """Set the status of services and workers, SERVING or NOT_SERVING."""
    statuses = health_pb2.HealthCheckResponse
    for service, serving in serves.items():
        servicer.set(service, statuses.SERVING if serving else statuses.NOT_SERVING)


class WaitingSince:
    """Since when each thing waits for a worker, by its name; whoever uses it holds the worker's `wake`."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}  # the oldest first

    def add(self, names: Iterable[str]) -> None:
        """Note that things wait from now on, unless they do already."""
        now = time.monotonic()
        for name in names:
            self._began.setdefault(name, now)

    def discard(self, names: Iterable[str]) -> None:
        """Note that things wait no more."""
        for name in names:
            self._began.pop(name, None)

    def __len__(self) -> int:
        return len(self._began)

    @property
    def seconds(self) -> float:
        """How long the oldest has waited, 0 where nothing waits."""
        return time.monotonic() - next(iter(self._began.values())) if self._began else 0.0


class Worker(ABC):
    """A thread that does one piece of work after another, and goes on after one that failed.

    A failure marks it as failing. After a pause, which doubles up to half a minute, `_catch_up` makes up for
    what failed; until it succeeds it is repeated, and other work goes on in between. The thread runs while
    the `with` block does; work that waits at the end is left, unless the worker drains.

    Attributes:
        name: of the thread, and in health and Status.
        wake: guards what waits to be done; to be notified when there is more.
        stopping: whether the block has ended.
        failures: how many there were.
        look_at: when to ask whether there is work, by the monotonic clock; None for only when told.
    """

    def __init__(
        self, name: str, supervisor: Supervisor | None = None, *, niceness: int = 0, drains: bool = False
    ) -> None:
        """Prepare a thread.

        Args:
            name: of the thread.
            supervisor: of health and Status; without one, nothing shows the worker's state.
            niceness: of the thread; 0 for that of the process.
            drains: whether work that waits is done before the thread ends.
        """
        self.name = name
        self.wake = threading.Condition()
        self.stopping = False
        self.failures = 0
        self.look_at: float | None = None
        self._niceness = niceness
        self._drains = drains
        self._supervisor = supervisor or Supervisor()
        self._failing = False
        self._error = ""
        self._pause = _FIRST_PAUSE_S
        self._due: float | None = None  # when to catch up, by the monotonic clock
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._supervisor.add(self)

    @abstractmethod
    def _has_work(self) -> bool:
        """Return whether work waits; called while `wake` is held."""

    @abstractmethod
    def _work(self) -> None:
        """Do the next piece of the work that waits."""

    @abstractmethod
    def _catch_up(self) -> bool:
        """Make up for failures; return False where `recovered` is called later, once that is done."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.wake:
            self.stopping = True
            self.wake.notify_all()
        self._thread.join()

    def backlog(self) -> tuple[int, float]:
        """Return how many things wait to be done, and for how many seconds the oldest has waited."""
        return 0, 0.0  # of a worker that has no queue

    def state(self) -> pb.Worker:
        """Return the message in Status."""
        return pb.Worker(name=self.name, failing=self._failing, failures=self.failures, error=self._error)

    def failed(self, error: BaseException) -> None:
        """Note a failure, from any thread, and have the worker catch up."""
        with self.wake:
            first, self._failing = not self._failing, True
            self.failures += 1
            self._error = type(error).__name__
            self.catch_up_later()
        log.error(
            "%s: failed, and is repeated: %s", self.name, self._error, exc_info=error if first else None
        )
        self._supervisor.update_health()

    def catch_up_later(self) -> None:
        """Have the worker catch up after the pause, unless it is about to."""
        with self.wake:
            if self._due is None:
                self._due = time.monotonic() + self._pause
            self.wake.notify_all()

    def recovered(self) -> None:
        """Mark all failures as made up for."""
        with self.wake:
            failing, self._failing = self._failing, False
            self._due, self._pause = None, _FIRST_PAUSE_S
        if failing:
            log.info("%s: goes on after a failure", self.name)
            self._supervisor.update_health()

    def _run(self) -> None:
        while self._wait():
            try:
                if self._niceness:
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
                    self._niceness = 0
                if self._is_due():
                    with self.wake:
                        self._due, self._pause = None, min(2 * self._pause, _LONGEST_PAUSE_S)
                    if self._catch_up():
                        self.recovered()
                else:
                    self._work()
            except BaseException as error:
                self.failed(error)

    def _wait(self) -> bool:
        """Wait until there is something to do; return False where the thread must end."""
        with self.wake:
            while not self.stopping:
                if self._has_work() or self._is_due():
                    return True
                times = [at for at in (self._due, self.look_at) if at is not None]
                self.wake.wait(max(0.0, min(times) - time.monotonic()) if times else None)
            self._due = None  # the next start of the server catches up
            return self._drains and self._has_work()

    def _is_due(self) -> bool:
        return self._due is not None and time.monotonic() >= self._due


def attempt_each(attempt: Callable[[_Thing], object], things: Iterable[_Thing]) -> None:
    """Attempt something with each of several things, also after one that failed.

    Raises:
        the error of the last attempt that failed.
    """
    failed: Exception | None = None
    for thing in things:
        try:
            attempt(thing)
        except Exception as error:
            failed = error
    if failed is not None:
        raise failed
