"""Calls to a gRPC server from client processes of their own: throughput and latency."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from threading import Lock

import grpc
import numpy as np
import numpy.typing as npt

from triptych_client.pb.v1 import ingest_pb2 as ingest

_CALL_SECONDS = 60.0


class CallFailedError(RuntimeError):
    """A call of a benchmark got an error, so its figures would mean nothing."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)  # both, or the error could not travel between processes
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        return f"a call to {self.address} failed: {self.reason}"


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
