"""Calls to a gRPC server from client processes of their own: throughput and latency."""

import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from threading import Lock
from types import TracebackType
from typing import Self

import grpc
import numpy as np
import numpy.typing as npt

from server.pb.triptych.v1 import ingest_pb2 as ingest
from server.pb.triptych.v1 import triptych_pb2 as pb
from server.pb.triptych.v1 import triptych_pb2_grpc as rpc

_PROCESSES = 2  # one Python client burns about as much CPU as the server
_WARM_UP = 20
_CALL_SECONDS = 60.0
_barriers: list[Barrier] = []  # of a client process; handed over at its start, for it cannot be pickled later


class CallFailedError(RuntimeError):
    """A call of a benchmark got an error, so its figures would mean nothing."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)  # both, or the error could not travel between processes
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        return f"a call to {self.address} failed: {self.reason}"


@dataclass(frozen=True)
class Work:
    """What clients send: serialised QueryRequests, or QueryBatchRequests where `batched`, in turn."""

    kind: str
    requests: tuple[bytes, ...]
    batched: bool = False


@dataclass(frozen=True)
class Load:
    """What was measured; `latencies` (calls,) float64 are milliseconds."""

    seconds: float
    latencies: npt.NDArray[np.float64]

    @property
    def throughput(self) -> float:
        """Calls per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Return a percentile of the latency in milliseconds."""
        return float(np.percentile(self.latencies, percent))


@dataclass(frozen=True)
class Bounds:
    """When a measurement ends: after `seconds`, or `calls` in all, whichever is first."""

    seconds: float
    calls: int


class Clients:
    """Two processes that call a server together; `concurrency` calls are under way at any time."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self._pool = ProcessPoolExecutor(
            _PROCESSES, context, initializer=_take, initargs=(context.Barrier(_PROCESSES),)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def measure(self, address: str, work: Work, concurrency: int, bounds: Bounds) -> Load:
        """Return the load that a server took.

        Raises:
            CallFailedError: a call got an error.
        """
        lanes = [(concurrency + 1) // 2, concurrency // 2]
        each = Bounds(bounds.seconds, math.ceil(bounds.calls / concurrency))
        running = [self._pool.submit(_drive, address, work, n, each) for n in lanes]
        parts = [lane for future in running for lane in future.result()]
        first, last = min(part[0] for part in parts), max(part[1] for part in parts)
        return Load(last - first, 1e3 * np.concatenate([part[2] for part in parts]))


_Lane = tuple[float, float, npt.NDArray[np.float64]]


def _take(barrier: Barrier) -> None:
    _barriers.append(barrier)


def ask_once(address: str, work: Work) -> bytes:
    """Return the serialised reply to the first request.  Raises: CallFailedError."""
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        return _calls(address, channel, work)[0]().SerializeToString()


def _drive(address: str, work: Work, lanes: int, bounds: Bounds) -> list[_Lane]:
    """Return start, end and latencies in seconds of each lane of this process; starts with the other one."""
    with grpc.insecure_channel(address) as channel:
        calls = _calls(address, channel, work)
        try:
            for call in calls[:_WARM_UP] if lanes else []:
                call()
        except CallFailedError:
            _barriers[0].abort()
            raise
        _barriers[0].wait(_CALL_SECONDS)
        if not lanes:
            return []
        with ThreadPoolExecutor(lanes) as pool:
            return list(pool.map(lambda lane: _lane(calls, lane, bounds), range(lanes)))


def _lane(calls: Sequence[partial[pb.QueryResponse]], lane: int, bounds: Bounds) -> _Lane:
    first = time.monotonic()
    latencies: list[float] = []
    now = first
    while now - first < bounds.seconds and len(latencies) < bounds.calls:
        calls[(17 * lane + len(latencies)) % len(calls)]()
        done = time.monotonic()
        latencies.append(done - now)
        now = done
    return first, now, np.array(latencies)


def _calls(address: str, channel: grpc.Channel, work: Work) -> list[partial[pb.QueryResponse]]:
    """Return one call per request of some work; requests are parsed here, once."""
    stub = rpc.RetrievalStub(channel)
    method = stub.QueryBatch if work.batched else stub.Query
    kind = pb.QueryBatchRequest if work.batched else pb.QueryRequest
    return [partial(_call, address, method, kind.FromString(request)) for request in work.requests]


def _call(address: str, method: object, request: object) -> pb.QueryResponse:
    try:
        reply: pb.QueryResponse = method(request, timeout=_CALL_SECONDS)  # type: ignore[operator]
    except grpc.RpcError as error:
        raise CallFailedError(address, str(error)) from error
    return reply


QUERY = "/triptych.v1.Retrieval/Query"
APPEND = "/triptych.v1.Ingest/AppendBehaviors"


@dataclass(frozen=True)
class Pace:
    """Calls of `method` with `requests` in turn, `rate` a second (0: as they end), `lanes` at once."""

    method: str
    requests: tuple[bytes, ...]
    seconds: float
    rate: float = 0.0
    lanes: int = 4
    once: bool = False  # no request twice: end when they are used up


@dataclass(frozen=True)
class PacedCalls:
    """What was measured; `latencies` (calls,) float64 in milliseconds count from when a call was due."""

    seconds: float
    latencies: npt.NDArray[np.float64]
    inserted: int = 0

    @property
    def per_second(self) -> float:
        """Calls per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Return a percentile of the latency in milliseconds."""
        return float(np.percentile(self.latencies, percent))


def call_at_pace(address: str, pace: Pace) -> PacedCalls:
    """Make calls at a pace and return their latencies.  Raises: CallFailedError."""
    numbers, lock = count(), Lock()
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(_CALL_SECONDS)
        call = channel.unary_unary(pace.method, None, None)
        start = time.monotonic()

        def lane(_: int) -> list[tuple[float, bytes]]:
            done: list[tuple[float, bytes]] = []
            while True:
                with lock:
                    number = next(numbers)
                due = start + number / pace.rate if pace.rate else time.monotonic()
                used_up = pace.once and number >= len(pace.requests)
                if used_up or max(due, time.monotonic()) - start >= pace.seconds:
                    return done
                time.sleep(max(0.0, due - time.monotonic()))
                reply = _ask(address, call, pace.requests[number % len(pace.requests)])
                done.append((time.monotonic() - due, reply))

        with ThreadPoolExecutor(pace.lanes) as pool:
            calls = [one for lane_of in pool.map(lane, range(pace.lanes)) for one in lane_of]
        seconds = time.monotonic() - start
    inserted = 0
    if pace.method == APPEND:
        inserted = sum(ingest.WriteResponse.FromString(reply).inserted for _, reply in calls)
    return PacedCalls(seconds, 1e3 * np.array([latency for latency, _ in calls]), inserted)


def append_requests(
    users: Sequence[str], items: Sequence[str], *, events: int, size: int, seed: int
) -> tuple[bytes, ...]:
    """Return requests that append `events` behaviours in all, each new: times go on from one to the next."""
    generator = np.random.default_rng(seed)
    made = []
    for first in range(0, events, size):
        request = ingest.AppendBehaviorsRequest(request_id=f"bench-{seed}-{first}")
        chosen = generator.integers(len(users), size=size), generator.integers(len(items), size=size)
        for number, (user, item) in enumerate(zip(*chosen, strict=True)):
            row = request.behaviors.add(user_id=users[user], item_id=items[item], action="view")
            row.ts.FromMicroseconds(2_000_000_000_000_000 + 1_000_000_000_000 * seed + first + number)
        made.append(request.SerializeToString())
    return tuple(made)


def _ask(address: str, call: "grpc.UnaryUnaryMultiCallable[bytes, bytes]", request: bytes) -> bytes:
    try:
        return call(request, timeout=_CALL_SECONDS)
    except grpc.RpcError as error:
        raise CallFailedError(address, str(error)) from error
