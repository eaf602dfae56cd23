"""Callers in processes of their own: as fast as answers come, or at a rate that answers do not slow down."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError, Semaphore
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
import numpy as np
import numpy.typing as npt

from scripts.bench.load import CallFailedError
from scripts.bench.serve.work import Work
from scripts.connection import metadata_of_environment

_WARM_UP = 10  # calls of each connection before the clock starts
_CALL_SECONDS = 60.0
_START_SECONDS = 120.0
_CONNECTION = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
_barriers: list[Barrier] = []  # of a client process; handed over at its start, for it cannot be pickled later

if TYPE_CHECKING:
    Call = grpc.UnaryUnaryMultiCallable[bytes, bytes]  # at run time it takes no types

Latencies = npt.NDArray[np.float64]
Clock = Callable[[], float]


@dataclass(frozen=True)
class ClosedLoop:
    """`callers` that each wait for an answer before they ask again, for some time or some calls in all."""

    callers: int
    seconds: float
    calls: int = 1_000_000


@dataclass(frozen=True)
class OpenLoop:
    """Calls that start at `rate` a second whether or not earlier ones have their answers.

    Attributes:
        rate: a second, of all processes together.
        seconds: for which calls start.
        even: at equal distances; otherwise as they come from many people that do not know of each other, with
            exponential distances (a Poisson process).
        seed: of those distances.
    """

    rate: float
    seconds: float
    even: bool = False
    seed: int = 0

    def times(self, process: int, processes: int) -> Latencies:
        """Return when the calls of one process start, (n,) float64 seconds from the beginning, ascending."""
        rate = self.rate / processes
        if self.even:
            even: Latencies = (np.arange(int(rate * self.seconds), dtype=float) + process / processes) / rate
            return even
        generator = np.random.default_rng([self.seed, process])
        number = int(rate * self.seconds + 10 * np.sqrt(rate * self.seconds) + 10)
        times: Latencies = np.cumsum(generator.exponential(1 / rate, size=number))
        return times[times < self.seconds]


Loop = ClosedLoop | OpenLoop


@dataclass
class Load:
    """What was measured.

    Attributes:
        seconds: from the first call to the last answer.
        latencies: (calls,) float64 milliseconds of the calls that were answered; of an open loop from when a
            call was due, so that a late start counts as waiting.
        failed: number of the other calls by their gRPC code.
        reason: what one of them said.
        behind: (calls,) float64 milliseconds by which the client itself started calls of an open loop late.
        client_cpu: processor seconds of the client processes.
        server_cpu: of the server's.
    """

    seconds: float
    latencies: Latencies
    failed: Counter[str] = field(default_factory=Counter)
    reason: str = ""
    behind: Latencies = field(default_factory=lambda: np.zeros(0))
    client_cpu: float = 0.0
    server_cpu: float = 0.0

    @property
    def throughput(self) -> float:
        """Answered calls per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Return a percentile of the latency in milliseconds."""
        return float(np.percentile(self.latencies, percent))


class Callers:
    """Client processes that call a server together.

    Each caller of a closed loop, and each process of an open one, has `connections` of its own and takes them
    in turn: a connection stays with one process of the server.

    Args:
        processes: how many.
        connections: of each caller.
    """

    def __init__(self, processes: int = 2, connections: int = 1) -> None:
        context = get_context("spawn")
        self._processes, self._connections = processes, connections
        self._barrier = context.Barrier(processes + 1)
        self._pool = ProcessPoolExecutor(processes, context, initializer=_take, initargs=(self._barrier,))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def measure(
        self, address: str, work: Work, loop: Loop, server_cpu: Clock = lambda: 0.0, *, tolerant: bool = False
    ) -> Load:
        """Return the load that a server took.

        Args:
            address: of the server.
            work: what to ask; each request once ends early where they are used up.
            loop: how.
            server_cpu: returns the processor seconds that the server has had so far.
            tolerant: count calls that fail instead of raising.

        Raises:
            CallFailedError: a call got an error, and that was not to be tolerated.
        """
        self._barrier.reset()
        parts = range(self._processes)
        share = (self._processes, self._connections)
        running = [self._pool.submit(_drive, address, work, loop, part, *share) for part in parts]
        try:
            self._barrier.wait(_START_SECONDS)  # all have their connections
        except BrokenBarrierError:
            wait(running)  # those that still connect would ask amid the next measurement
            for future in running:
                future.result()  # the one that failed says why
            raise
        before = server_cpu()
        load = _joined([future.result() for future in running])
        load.server_cpu = server_cpu() - before
        if load.failed and not tolerant:
            raise CallFailedError(address, f"{dict(load.failed)}: {load.reason}")
        return load


def ask(address: str, work: Work, some: int) -> list[bytes]:
    """Return the replies to some of the requests, evenly from all of them.  Raises: CallFailedError."""
    with grpc.insecure_channel(address, _CONNECTION) as channel:
        call = channel.unary_unary(work.method, None, None)
        try:
            step = max(1, len(work.requests) // some)
            metadata = metadata_of_environment()
            return [
                call(request, timeout=_CALL_SECONDS, metadata=metadata) for request in work.requests[::step]
            ]
        except grpc.RpcError as error:
            raise CallFailedError(address, str(error)) from error


def _take(barrier: Barrier) -> None:
    _barriers.append(barrier)


def _joined(parts: Sequence[Load | None]) -> Load:
    """Return one load of those of the processes; they began together."""
    some = [part for part in parts if part is not None]
    failed: Counter[str] = sum((part.failed for part in some), Counter())
    return Load(
        max(part.seconds for part in some),
        np.concatenate([part.latencies for part in some]),
        failed,
        next((part.reason for part in some if part.reason), ""),
        np.concatenate([part.behind for part in some]),
        sum(part.client_cpu for part in some),
    )


def _drive(address: str, work: Work, loop: Loop, part: int, processes: int, connections: int) -> Load | None:
    """Return what the callers of this process measured, None where it has none."""
    with ExitStack() as stack:

        def connect() -> "list[Call]":
            channels = [grpc.insecure_channel(address, _CONNECTION) for _ in range(connections)]
            calls = [stack.enter_context(one).unary_unary(work.method, None, None) for one in channels]
            for call in calls:
                for request in work.requests[:1] * _WARM_UP:
                    call(request, timeout=_CALL_SECONDS, metadata=metadata_of_environment())
            return calls

        try:
            if isinstance(loop, ClosedLoop):
                lanes = range(part, loop.callers, processes)
                callers = [_Caller(work, loop, lane, connect()) for lane in lanes]
            else:
                sender = _Sender(work, loop, part, processes, connect())
        except grpc.RpcError as error:
            _barriers[0].abort()
            raise CallFailedError(address, str(error)) from error
        _barriers[0].wait(_START_SECONDS)
        cpu, start = time.process_time(), time.monotonic()
        if isinstance(loop, OpenLoop):
            load = sender.run(start)
        elif callers:
            with ThreadPoolExecutor(len(callers)) as pool:
                load = _joined(list(pool.map(lambda caller: caller.run(start), callers)))
        else:
            return None
        load.client_cpu = time.process_time() - cpu
        return load


class _Caller:
    """One caller of a closed loop."""

    def __init__(self, work: Work, loop: ClosedLoop, lane: int, calls: "list[Call]") -> None:
        mine = work.requests[lane :: loop.callers] if work.once else work.requests
        self._start = 0 if work.once else lane * len(mine) // loop.callers
        self._requests, self._calls = mine, calls
        most = -(-loop.calls // loop.callers)
        self._most, self._seconds = min(most, len(mine)) if work.once else most, loop.seconds

    def run(self, start: float) -> Load:
        """Ask until the time, the calls or the requests are used up."""
        requests, calls, load = self._requests, self._calls, Load(0.0, np.zeros(0))
        metadata = metadata_of_environment()
        latencies: list[float] = []
        now = began = time.monotonic()
        for number in range(self._most):
            if now - began >= self._seconds:
                break
            request = requests[(self._start + number) % len(requests)]
            try:
                calls[number % len(calls)](request, timeout=_CALL_SECONDS, metadata=metadata)
            except grpc.RpcError as error:
                load.failed[error.code().name] += 1
                load.reason, now = error.details() or str(error), time.monotonic()
                continue
            done = time.monotonic()
            latencies.append(done - now)
            now = done
        load.seconds, load.latencies = now - start, 1e3 * np.array(latencies)
        return load


class _Sender:
    """One process of an open loop."""

    def __init__(self, work: Work, loop: OpenLoop, part: int, processes: int, calls: "list[Call]") -> None:
        self._requests = work.requests[part::processes] if work.once else work.requests
        times = loop.times(part, processes)
        self._times = times[: len(self._requests)] if work.once else times
        self._calls = calls

    def run(self, start: float) -> Load:
        """Start each call when it is due; wait for the answers of all."""
        load, began = Load(0.0, np.zeros(0)), time.monotonic()
        metadata = metadata_of_environment()
        ends, behind = np.zeros(len(self._times)), np.zeros(len(self._times))
        well = np.zeros(len(self._times), dtype=bool)
        answered = Semaphore(0)

        def note_of(number: int) -> "Callable[[grpc.Future[bytes]], None]":
            def note(call: Any) -> None:  # keeps nothing of the call: a half-hour's replies fill the memory
                ends[number] = time.monotonic()
                well[number] = call.code() is grpc.StatusCode.OK
                if not well[number]:
                    failures.append((call.code().name, call.details() or ""))
                answered.release()

            return note

        failures: list[tuple[str, str]] = []
        for number, due in enumerate(began + self._times):
            time.sleep(max(0.0, due - time.monotonic()))
            behind[number] = time.monotonic() - due
            call = self._calls[number % len(self._calls)]
            request = self._requests[number % len(self._requests)]
            future = call.future(request, timeout=_CALL_SECONDS, metadata=metadata)
            future.add_done_callback(note_of(number))
        for _ in self._times:
            answered.acquire()
        load.failed.update(code for code, _ in failures)
        load.reason = failures[-1][1] if failures else ""
        load.seconds = time.monotonic() - start
        load.latencies = 1e3 * (ends - began - self._times)[well]
        load.behind = 1e3 * behind
        return load
