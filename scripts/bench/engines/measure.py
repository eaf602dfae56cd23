"""Stored users asked of each server by turns: as fast as answers come, then at half of the embedded peak."""

import logging
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scripts.bench.engines.setups import (
    EMBEDDED,
    PEERS,
    EngineAddresses,
    EngineUnderTest,
    StartedEngines,
    started_engines,
)
from scripts.bench.serve.callers import Callers, ClosedLoop, Load, OpenLoop
from scripts.bench.serve.ratios import HALF, LoadStep
from scripts.bench.serve.work import STORED, UNCACHED, Work
from store.home import Home
from triptych_client import Client

log = logging.getLogger(__name__)

KINDS = (STORED, UNCACHED)  # whose vectors are kept by the server, and must be made from what they did
_WARM_CALLERS, _WARM_SECONDS = 16, 30.0
_HEADROOM = 0.8  # of an engine's own peak: a rate beyond it is none that it can keep up with
_COMPARED = 100  # people whose answers are compared with the exact ones


@dataclass(frozen=True)
class EngineBenchOptions:
    """What to measure: each kind with each number of callers, `rounds` times, by turns.

    Attributes:
        rounds: medians are taken over these.
        seconds: of a closed loop; an open one takes `open_factor` times as long, for its p99.
        open_factor: see there.
        callers: of closed loops.
        k: items wanted.
        clients: processes of callers.
        warm_up: calls for stored users before anything is measured, at most.
        seed: of when calls of an open loop come.
    """

    rounds: int = 5
    seconds: float = 1.0
    open_factor: float = 3.0
    callers: Sequence[int] = (1, 16)
    k: int = 50
    clients: int = 2
    warm_up: int = 4096
    seed: int = 0


@dataclass(frozen=True)
class _Sample:
    """A load, and what the engine behind the server took for it; None where that is not known."""

    load: Load
    engine_cpu: float | None
    engine_bytes: int | None
    rate: float = 0.0


Samples = Mapping[tuple[LoadStep, str], Sequence[_Sample]]


def measure_engines(
    kept: Home,
    work: Sequence[Work],
    users: Sequence[str],
    folder: Path,
    options: EngineBenchOptions,
    addresses: EngineAddresses,
    wanted: Sequence[str] = PEERS,
    *,
    required: bool = False,
) -> dict[str, Any]:
    """Return results of servers on copies of a home, and their ratios to the one with what is embedded.

    A ratio is the median over the rounds, in each of which all were measured right after each other.

    Args:
        kept: the home.
        work: what is asked: `KINDS`.
        users: stored ones, some of whose answers are compared with exact ones.
        folder: for the copies.
        options: what to measure.
        addresses: of engines that run already.
        wanted: beside the embedded one, of `PEERS`.
        required: raise where one of these does not start, instead of telling why.

    Raises:
        CallFailedError: a call got an error.
        EngineNotStartedError, CommandFailedError, …: as `started_engines`.
    """
    samples: dict[tuple[LoadStep, str], list[_Sample]] = {}
    with started_engines(kept, folder, addresses, wanted, required=required) as started:
        recalls = _recalls(started.found, users[:: max(1, len(users) // _COMPARED)][:_COMPARED], options.k)
        with Callers(options.clients) as callers:
            turns = _EngineTurns(callers, started.found, options, samples)
            turns.warm(work)
            turns.closed(work)
            turns.open(work)
    log.info("bench engines: done")
    return {
        "engines": _told(started, recalls),
        "results": [_row(step, name, some) for (step, name), some in samples.items()],
        "beside": (beside := _beside(samples)),
        "ratios": _ratios(beside),
        "machine": {"cpus": os.cpu_count(), "load_average": os.getloadavg()[0]},
    }


class _EngineTurns:
    """Measures all servers right after each other, in the other order every second round."""

    def __init__(
        self,
        callers: Callers,
        engines: Sequence[EngineUnderTest],
        options: EngineBenchOptions,
        samples: dict[tuple[LoadStep, str], list[_Sample]],
    ) -> None:
        self._callers, self._engines, self._options, self._samples = callers, engines, options, samples
        self._parts = options.rounds * (len(options.callers) + 1)  # of requests that are sent once

    def warm(self, work: Sequence[Work]) -> None:
        """Ask each server for the people who are asked for again and again."""
        loop = ClosedLoop(_WARM_CALLERS, _WARM_SECONDS, self._options.warm_up)
        for engine in self._engines:
            for one in (one for one in work if not one.once):
                self._callers.measure(engine.server.address, one, loop)

    def closed(self, work: Sequence[Work]) -> None:
        """Measure each kind with each number of callers."""
        numbers = range(len(self._options.callers))
        steps = [(turn, one, n) for turn in range(self._options.rounds) for one in work for n in numbers]
        for turn, one, number in tqdm(steps, desc="bench engines, callers", disable=None):
            part = one.part(turn * len(numbers) + number, self._parts)
            callers = self._options.callers[number]
            for engine in self._by_turns(turn):
                loop = ClosedLoop(callers, self._options.seconds)
                self._measure(engine, part, loop, LoadStep(one.kind, callers))

    def open(self, work: Sequence[Work]) -> None:
        """Measure each kind at half of what the embedded server answered at most.

        One that cannot keep up with that is asked at half of its own peak.
        """
        options = self._options
        steps = [(turn, one) for turn in range(options.rounds) for one in work]
        for turn, one in tqdm(steps, desc="bench engines, rates", disable=None):
            part = one.part(options.rounds * len(options.callers) + turn, self._parts)
            for engine in self._by_turns(turn):
                rate, own = HALF * self._peak(EMBEDDED, one.kind), self._peak(engine.name, one.kind)
                rate = rate if rate <= _HEADROOM * own else HALF * own
                loop = OpenLoop(rate, options.open_factor * options.seconds, seed=options.seed + turn)
                self._measure(engine, part, loop, LoadStep(one.kind, share=HALF))

    def _by_turns(self, turn: int) -> Iterator[EngineUnderTest]:
        return iter(self._engines[:: -1 if turn % 2 else 1])

    def _peak(self, name: str, kind: str) -> float:
        return max(
            statistics.median(one.load.throughput for one in some)
            for (step, who), some in self._samples.items()
            if who == name and step.kind == kind and step.callers
        )

    def _measure(
        self, engine: EngineUnderTest, work: Work, loop: ClosedLoop | OpenLoop, step: LoadStep
    ) -> None:
        taken: list[tuple[float | None, int | None]] = []

        def clock() -> float:  # read as the first call begins, and when the last has its answer
            taken.append((engine.cpu(), engine.traffic() if engine.traffic else None))
            return engine.server.cpu()

        at_rate = isinstance(loop, OpenLoop)  # a machine that others slow down may not keep up
        load = self._callers.measure(engine.server.address, work, loop, clock, tolerant=at_rate)
        if load.failed:
            log.warning("bench engines: %s at half of a peak: %s", engine.name, dict(load.failed))
        (cpu, sent), (cpu_after, sent_after) = taken
        sample = _Sample(
            load,
            None if cpu is None or cpu_after is None else cpu_after - cpu,
            None if sent is None or sent_after is None else sent_after - sent,
            loop.rate if isinstance(loop, OpenLoop) else 0.0,
        )
        self._samples.setdefault((step, engine.name), []).append(sample)


def _recalls(engines: Sequence[EngineUnderTest], users: Sequence[str], k: int) -> dict[str, float]:
    """Return by engine the share of the exact answers of some people that its answers have."""
    exact: list[set[str]] = []
    found: dict[str, float] = {}
    for engine in engines:
        with Client(engine.server.address, timeout=60.0) as client:
            if not exact:
                exact = [set(client.query(user_id=user, k=k, exact=True).item_ids) for user in users]
            answers = [set(client.query(user_id=user, k=k).item_ids) for user in users]
        same = sum(len(mine & right) for mine, right in zip(answers, exact, strict=True))
        found[engine.name] = same / sum(map(len, exact))
    return found


def _told(started: StartedEngines, recalls: Mapping[str, float]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"engine": one.name, "started": True, "recall_at_k": recalls[one.name], "what": one.about}
        for one in started.found
    ]
    return rows + [
        {"engine": name, "started": False, "recall_at_k": None, "what": reason}
        for name, reason in started.missing.items()
    ]


def _row(step: LoadStep, name: str, samples: Sequence[_Sample]) -> dict[str, Any]:
    """Return the medians of the rounds of one step and engine."""

    def median(figure: Callable[[_Sample], float | None]) -> float | None:
        values = [value for one in samples if (value := figure(one)) is not None]
        return statistics.median(values) if values else None

    return {
        "kind": step.kind,
        "engine": name,
        "callers": step.callers or None,
        "rate": median(lambda one: one.rate) if step.share else None,
        "throughput": median(lambda one: one.load.throughput),
        "p50_ms": median(lambda one: _percentile(one.load, 50)),
        "p99_ms": median(lambda one: _percentile(one.load, 99)),
        "server_cpu_ms_per_query": median(lambda one: _each(1e3 * one.load.server_cpu, one.load)),
        "engine_cpu_ms_per_query": median(lambda one: _each(one.engine_cpu, one.load, 1e3)),
        "engine_bytes_per_query": median(lambda one: _each(one.engine_bytes, one.load)),
        "client_behind_p99_ms": median(lambda one: _behind(one.load)) if step.share else None,
        "failed": sum(sum(one.load.failed.values()) for one in samples),
        "calls": sum(len(one.load.latencies) for one in samples),
    }


def _percentile(load: Load, percent: float) -> float | None:
    return load.percentile(percent) if len(load.latencies) else None


def _behind(load: Load) -> float | None:
    return float(sorted(load.behind)[int(0.99 * len(load.behind))]) if len(load.behind) else None


def _each(amount: float | None, load: Load, unit: float = 1.0) -> float | None:
    """Return an amount for each answered call; None where it is not known, or nothing was answered."""
    return None if amount is None or not len(load.latencies) else unit * amount / len(load.latencies)


def _beside(samples: Samples) -> list[dict[str, Any]]:
    """Return every engine over the embedded one for every step; at a rate where both had the same one.

    `cpu` is of the server with the engine's own processes, over the embedded server's.
    """
    rows = []
    for (step, name), some in samples.items():
        if name == EMBEDDED:
            continue
        pairs = [
            (one, other)
            for one, other in zip(some, samples[step, EMBEDDED], strict=True)
            if one.rate == other.rate and len(one.load.latencies) and len(other.load.latencies)
        ]
        rows.append(
            {
                "kind": step.kind,
                "engine": name,
                "callers": step.callers or None,
                "throughput": _median_ratio(pairs, lambda one: one.load.throughput),
                "p50": _median_ratio(pairs, lambda one: one.load.percentile(50)),
                "p99": _median_ratio(pairs, lambda one: one.load.percentile(99)),
                "cpu": _median_ratio(pairs, _whole_cpu),
            }
        )
    return rows


def _whole_cpu(sample: _Sample) -> float:
    """Return the processor seconds of a server and its engine for a query."""
    return max(sample.load.server_cpu + (sample.engine_cpu or 0.0), 1e-9) / len(sample.load.latencies)


def _median_ratio(
    pairs: Sequence[tuple[_Sample, _Sample]], figure: Callable[[_Sample], float]
) -> float | None:
    return statistics.median(figure(one) / figure(other) for one, other in pairs) if pairs else None


def _ratios(beside: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return throughput by callers, and p99 at half of the embedded peak, over the embedded server's."""
    found = {}
    for row in beside:
        name = f"{row['engine']}/{row['kind']}"
        if row["callers"]:
            found[f"{name}_c{row['callers']}"] = row["throughput"]
        else:
            found[f"{name}_p99_half_load"] = row["p99"]
    return found
