"""Ours and the empty method by turns, first as fast as answers come, then at shares of their own peaks."""

import logging
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scripts.bench.serve.callers import Callers, ClosedLoop, Load, OpenLoop, ask
from scripts.bench.serve.h2load import throughput_by_h2load
from scripts.bench.serve.ratios import (
    CALLERS_OF_SCALING,
    HALF,
    LoadStep,
    Rounds,
    over_empty,
    scaling_of,
    serving_ratios,
)
from scripts.bench.serve.servers import EMPTY, OURS, ServerUnderTest, empty_server
from scripts.bench.serve.work import KINDS, STORED, Work

log = logging.getLogger(__name__)

_SAMPLES = 33  # replies whose median size the empty method's has
_CONNECTIONS = 4  # of each caller where several processes share a port


@dataclass(frozen=True)
class ServeOptions:
    """What to measure: all kinds at all numbers of callers, `rounds` times by turns.

    Attributes:
        kinds: of requests.
        callers: of closed loops.
        shares: of the own peak, of open loops over stored users.
        rounds: medians are taken over these.
        seconds: of a closed loop; an open one takes `open_factor` times as long, for its p99.
        open_factor: see there.
        warm_up: calls of the mixed load before anything is measured, at most.
        even: calls of open loops come at equal distances.
        k: items wanted.
        workers: threads of each server.
        clients: processes of callers.
        processes: of each server.
        h2load: also let h2load measure throughput.
        seed: of whom to ask, and of when.
    """

    kinds: Sequence[str] = KINDS
    callers: Sequence[int] = (1, 4, 16)
    shares: Sequence[float] = (0.25, HALF, 0.75)
    rounds: int = 3
    seconds: float = 1.0
    open_factor: float = 3.0
    warm_up: int = 4096
    even: bool = False
    k: int = 50
    workers: int = 8
    clients: int = 2
    processes: int = 1
    h2load: bool = False
    seed: int = 0


Server = Callable[[int], AbstractContextManager[ServerUnderTest]]
"""Starts our server with so many processes."""


def measure_serving(
    server: Server,
    work: Sequence[Work],
    folder: Path,
    options: ServeOptions,
    *,
    scaling: bool = False,
    search_ms: Callable[[str], float] | None = None,
) -> dict[str, Any]:
    """Return results and ratios of a server of ours; files of the empty method go to a folder.

    Every ratio is the median of the rounds, in each of which both were measured right after each other.

    Args:
        server: starts ours.
        work: what to ask.
        folder: for files.
        options: what to measure.
        scaling: also measure one process alone, before, where there are to be several.
        search_ms: measures a bare search behind a query to the server at an address.

    Raises:
        CallFailedError: a call got an error.
        CommandFailedError: a server does not start.
    """
    rounds: dict[tuple[LoadStep, str], list[Load]] = {}
    sizes: dict[str, int] = {}
    h2load: list[dict[str, Any]] = []
    by_h2load: list[dict[str, Any]] = []
    search: float | None = None
    phases = [1, options.processes] if scaling and options.processes > 1 else [options.processes]
    for processes in phases:
        alone = processes != options.processes
        some = [one for one in work if one.kind == STORED] if alone else work
        with server(processes) as ours:
            replies = _replies(ours.address, some, options.warm_up)
            sizes |= {kind: len(reply) for kind, reply in replies.items()}
            connections = _CONNECTIONS if processes > 1 else 1
            with (
                empty_server(folder, replies, options.workers, processes) as empty,
                Callers(options.clients, connections) as callers,
            ):
                turns = _Turns(callers, (ours, empty), processes, rounds)
                if scaling and options.processes > 1:
                    stored = [one for one in some if one.kind == STORED]
                    turns.closed(stored, [CALLERS_OF_SCALING * processes], options)
                    if options.h2load:
                        by_h2load += _by_h2load(
                            (ours, empty), stored, options, [CALLERS_OF_SCALING * processes]
                        )
                if not alone:
                    turns.closed(some, options.callers, options)
                if not alone:
                    search = search_ms(ours.address) if search_ms else None
                    turns.open(some, options)
                    h2load = (
                        _by_h2load((ours, empty), some, options, options.callers) if options.h2load else []
                    )
    log.info("bench serve: done")
    queries = {one.kind: one.queries for one in work}
    return {
        "results": [_row(step, name, loads, queries, sizes) for (step, name), loads in rounds.items()],
        "beside": _beside(rounds),
        "h2load": h2load,
        "cost": _cost(rounds, options.processes, search),
        "scaling": scaling_of(rounds, options.processes),
        "scaling_by_h2load": _scaling_by_h2load(by_h2load),
        "ratios": serving_ratios(rounds, options.processes),
        "machine": {"cpus": os.cpu_count(), "load_average": os.getloadavg()[0]},
    }


def _replies(address: str, work: Sequence[Work], warm_up: int) -> dict[str, bytes]:
    """Return a reply of the median size for each kind, after a pass over those that may be asked twice."""
    found = {}
    for one in work:
        replies = ask(address, one, _SAMPLES if one.once else max(_SAMPLES, warm_up // one.queries))
        found[one.kind] = sorted(replies, key=len)[len(replies) // 2]
    return found


class _Turns:
    """Measures both servers right after each other, in another order each round."""

    def __init__(
        self,
        callers: Callers,
        servers: tuple[ServerUnderTest, ServerUnderTest],
        processes: int,
        rounds: dict[tuple[LoadStep, str], list[Load]],
    ) -> None:
        self._callers, self._servers, self._processes, self._rounds = callers, servers, processes, rounds

    def closed(self, work: Sequence[Work], callers: Sequence[int], options: ServeOptions) -> None:
        """Measure each kind with each number of callers."""
        steps = [
            (one, number, r) for r in range(options.rounds) for one in work for number in range(len(callers))
        ]
        for one, number, turn in tqdm(steps, desc="bench serve, callers", disable=None):
            part = one.part(turn * len(callers) + number, options.rounds * len(callers))
            step = LoadStep(one.kind, callers[number], processes=self._processes)
            for server in self._by_turns(turn):
                self._measure(server, part, ClosedLoop(callers[number], options.seconds), step)

    def open(self, work: Sequence[Work], options: ServeOptions) -> None:
        """Measure stored users at shares of what each server answered at most."""
        stored = [one for one in work if one.kind == STORED]
        steps = [(one, s, r) for r in range(options.rounds) for one in stored for s in options.shares]
        for one, share, turn in tqdm(steps, desc="bench serve, rates", disable=None):
            for server in self._by_turns(turn):
                rate = share * self._peak(server.name)
                loop = OpenLoop(
                    rate, options.open_factor * options.seconds, options.even, options.seed + turn
                )
                self._measure(server, one, loop, LoadStep(one.kind, share=share, processes=self._processes))

    def _peak(self, name: str) -> float:
        return max(
            statistics.median(load.throughput for load in loads)
            for (step, who), loads in self._rounds.items()
            if who == name and step.kind == STORED and step.callers and step.processes == self._processes
        )

    def _by_turns(self, turn: int) -> Iterator[ServerUnderTest]:
        return iter(self._servers[:: -1 if turn % 2 else 1])

    def _measure(
        self, server: ServerUnderTest, work: Work, loop: ClosedLoop | OpenLoop, step: LoadStep
    ) -> None:
        asked = work if server.name != EMPTY else work.at_empty()
        at_rate = isinstance(loop, OpenLoop)  # a machine that others slow down may not keep up
        load = self._callers.measure(server.address, asked, loop, server.cpu, tolerant=at_rate)
        if load.failed:
            log.warning("bench serve: %s at %s of its peak: %s", server.name, step.share, dict(load.failed))
        self._rounds.setdefault((step, server.name), []).append(load)


def _scaling_by_h2load(rows: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Return what servers gain from one process to several by h2load; None where that was not measured.

    h2load takes so little of the processors that what is seen is what the servers gain from them.
    """
    if not rows:
        return None
    one, many = rows
    return {name: many[key] / one[key] for name, key in (("ours", "triptych"), ("empty", "empty"))}


def _by_h2load(
    servers: tuple[ServerUnderTest, ServerUnderTest],
    work: Sequence[Work],
    options: ServeOptions,
    numbers: Sequence[int],
) -> list[dict[str, Any]]:
    """Return the throughput of the first stored user, again and again, by h2load."""
    rows = []
    for one in [one for one in work if one.kind == STORED]:
        for callers in numbers:
            ours, empty = (
                statistics.median(
                    throughput_by_h2load(server.address, asked, callers, options.seconds)
                    for _ in range(options.rounds)
                )
                for server, asked in zip(servers, (one, one.at_empty()), strict=True)
            )
            rows.append(
                {
                    "kind": "one stored user",
                    "callers": callers,
                    "triptych": ours,
                    "empty": empty,
                    "ratio": ours / empty,
                }
            )
    return rows


def _row(
    step: LoadStep, name: str, loads: Sequence[Load], queries: Mapping[str, int], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """Return the medians of the rounds of one step and server."""

    def median(figure: Callable[[Load], float]) -> float:
        return statistics.median(figure(load) for load in loads)

    each = queries[step.kind]
    return {
        "kind": step.kind,
        "server": name,
        "processes": step.processes,
        "callers": step.callers or None,
        "share_of_peak": step.share or None,
        "throughput": median(lambda load: load.throughput),
        "p50_ms": median(lambda load: load.percentile(50)),
        "p90_ms": median(lambda load: load.percentile(90)),
        "p99_ms": median(lambda load: load.percentile(99)),
        "server_cpu_ms_per_query": median(lambda load: 1e3 * load.server_cpu / len(load.latencies) / each),
        "client_cpu_ms_per_query": median(lambda load: 1e3 * load.client_cpu / len(load.latencies) / each),
        "client_behind_p99_ms": median(lambda load: _p99(load.behind)) if step.share else None,
        "failed": sum(sum(load.failed.values()) for load in loads),
        "calls": sum(len(load.latencies) for load in loads),
        "reply_bytes": sizes[step.kind],
    }


def _cost(rounds: Rounds, processes: int, search: float | None) -> dict[str, float] | None:
    """Return what a stored user's query of one caller takes, p50, beside its parts, in milliseconds."""
    step = LoadStep(STORED, 1, processes=processes)
    if search is None or (step, OURS) not in rounds:
        return None
    ours, empty = (
        statistics.median(load.percentile(50) for load in rounds[step, name]) for name in (OURS, EMPTY)
    )
    beyond = ours - empty - 1.15 * search
    return {"query_ms": ours, "empty_ms": empty, "faiss_ms": search, "beyond_empty_and_1.15_faiss_ms": beyond}


def _p99(values: Any) -> float:
    return float(sorted(values)[int(0.99 * len(values))]) if len(values) else 0.0


def _beside(rounds: Rounds) -> list[dict[str, Any]]:
    """Return ours over the empty method for every step."""
    return [
        {
            "kind": step.kind,
            "processes": step.processes,
            "callers": step.callers or None,
            "share_of_peak": step.share or None,
            "throughput": over_empty(rounds, step, lambda load: load.throughput),
            "p50": over_empty(rounds, step, lambda load: load.percentile(50)),
            "p99": over_empty(rounds, step, lambda load: load.percentile(99)),
            "server_cpu": over_empty(
                rounds, step, lambda load: max(load.server_cpu, 1e-9) / len(load.latencies)
            ),
        }
        for step, name in rounds
        if name == EMPTY
    ]
