"""triptych bench overload: more callers, and more calls, than a server can answer."""

import logging
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scripts.bench.serve.callers import Callers, ClosedLoop, Load, Loop, OpenLoop, ask
from scripts.bench.serve.servers import ServerUnderTest
from scripts.bench.serve.work import Work

log = logging.getLogger(__name__)

_HEALTH_SECONDS = 0.05  # between two questions for health
_HEALTH_TIMEOUT = 10.0
_PEAK_CALLERS = 16


@dataclass(frozen=True)
class OverloadOptions:
    """How much too much.

    Attributes:
        callers: of the closed loop, which each wait for an answer.
        factor: of the peak, at which calls of the open loop come.
        seconds: of each of the two; a fifth of it for the peak, before and after.
        clients: processes of callers.
        connections: of each caller.
    """

    callers: int = 80
    factor: float = 1.5
    seconds: float = 60.0
    clients: int = 2
    connections: int = 1


def measure_overload(server: ServerUnderTest, work: Work, options: OverloadOptions) -> dict[str, Any]:
    """Return what a server answers when it is asked too much, beside its peak and how health answers then.

    The peak is what sixteen callers get, the median of before, between and after.

    Args:
        server: under test.
        work: what is asked.
        options: how much.

    Raises:
        CallFailedError: a call failed while there was not too much.
    """
    ask(server.address, work, len(work.requests))  # as an app that has been asked before
    peak_loop = ClosedLoop(_PEAK_CALLERS, options.seconds / 5)
    loops: dict[str, Loop] = {f"{options.callers} callers": ClosedLoop(options.callers, options.seconds)}
    with Callers(options.clients, options.connections) as callers:
        peaks = [callers.measure(server.address, work, peak_loop, server.cpu).throughput]
        rows = []
        for name in (f"{options.callers} callers", f"{options.factor:g} × the peak"):
            rate = options.factor * statistics.median(peaks)
            loop = loops.get(name) or OpenLoop(rate, options.seconds)
            with _health(server.address) as health:
                load = callers.measure(server.address, work, loop, server.cpu, tolerant=True)
            rows.append(_row(name, load, health))
            peaks.append(callers.measure(server.address, work, peak_loop, server.cpu).throughput)
    peak = statistics.median(peaks)
    for row in rows:
        row["share_of_peak"] = row["answered_per_second"] / peak
    log.info("bench overload: done")
    return {"peak": peak, "peaks": peaks, "results": rows}


def _row(name: str, load: Load, health: Sequence[float]) -> dict[str, Any]:
    failed = dict(sorted(load.failed.items()))
    return {
        "load": name,
        "answered_per_second": load.throughput,
        "share_of_peak": 0.0,
        "p50_ms": load.percentile(50),
        "p99_ms": load.percentile(99),
        "failed": ", ".join(f"{number} {code}" for code, number in failed.items()) or "none",
        "health_p50_ms": float(np.percentile(health, 50)),
        "health_worst_ms": float(np.max(health)),
        "health_asked": len(health),
    }


@contextmanager
def _health(address: str) -> Iterator[list[float]]:
    """Ask for health all the time while the block runs; yield the milliseconds of each answer.

    An answer that does not come counts as the whole timeout.
    """
    over, taken = threading.Event(), list[float]()

    def ask_for_health() -> None:
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while not over.wait(_HEALTH_SECONDS):
                began = time.monotonic()
                try:
                    stub.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT)
                except grpc.RpcError as error:
                    log.warning("health: %s", error)
                    taken.append(1e3 * _HEALTH_TIMEOUT)
                    continue
                taken.append(1e3 * (time.monotonic() - began))

    thread = threading.Thread(target=ask_for_health, name="health")
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()
