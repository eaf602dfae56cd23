"""Calls to a gRPC server from client processes of their own: throughput and latency."""

import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from types import TracebackType
from typing import Self

import grpc
import numpy as np
import numpy.typing as npt

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
