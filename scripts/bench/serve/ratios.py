"""Ours over the empty method, from the rounds in which the two took turns."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scripts.bench.serve.callers import Load
from scripts.bench.serve.servers import EMPTY, OURS
from scripts.bench.serve.work import BATCH, BATCH_SIZE, STORED, UNCACHED

RATIOS = ("stored_c1", "stored_c16", "uncached_c16", "batch16", "p99_half_load", "processes_scaling")
HALF = 0.5
CALLERS_OF_SCALING = 16  # of each process, so that as many wait together whatever their number


@dataclass(frozen=True)
class LoadStep:
    """One thing that is measured: a kind, and either callers or a share of the own peak.

    Attributes:
        kind: of the requests.
        callers: of a closed loop; 0 of an open one.
        share: of the peak, of an open loop; 0 of a closed one.
        processes: of the server.
    """

    kind: str
    callers: int = 0
    share: float = 0.0
    processes: int = 1


Rounds = Mapping[tuple[LoadStep, str], Sequence[Load]]
"""The loads of every round of a step, by the name of the server."""


def over_empty(rounds: Rounds, step: LoadStep, figure: Callable[[Load], float]) -> float | None:
    """Return a figure of ours over the empty method's, the median of the rounds.

    Rounds in which calls failed tell nothing and are left out. None if there is no other.
    """
    pairs = zip(rounds.get((step, OURS), ()), rounds.get((step, EMPTY), ()), strict=True)
    found = [figure(ours) / figure(empty) for ours, empty in pairs if not (ours.failed or empty.failed)]
    return statistics.median(found) if found else None


def serving_ratios(rounds: Rounds, processes: int = 1) -> dict[str, float | None]:
    """Return the six ratios of `RATIOS`; None of what was not measured.

    stored_c1, stored_c16, uncached_c16: throughput over the empty method's. batch16: time of a query in a
    batch of 16 over that of one alone, both with one caller. p99_half_load: p99 at half of the own peak over
    the empty method's at half of its own. processes_scaling: what ours gains from one process to `processes`
    over what the empty method gains, with 16 callers for each process.
    """

    def throughput(kind: str, callers: int, processes: int = processes) -> float | None:
        return over_empty(rounds, LoadStep(kind, callers, processes=processes), lambda load: load.throughput)

    scaling = scaling_of(rounds, processes)
    return {
        "stored_c1": throughput(STORED, 1),
        "stored_c16": throughput(STORED, 16),
        "uncached_c16": throughput(UNCACHED, 16),
        "batch16": _batch(rounds, processes),
        "p99_half_load": over_empty(
            rounds, LoadStep(STORED, share=HALF, processes=processes), lambda load: load.percentile(99)
        ),
        "processes_scaling": scaling["ours"] / scaling["empty"] if scaling else None,
    }


def scaling_of(rounds: Rounds, processes: int) -> dict[str, float] | None:
    """Return what servers gain from one process to several; None where that was not measured.

    ours, empty: throughput of all processes over that of one, the quotient of medians; cpu_ours, cpu_empty:
    the same of the processor time of the server per call.
    """
    one = LoadStep(STORED, CALLERS_OF_SCALING)
    many = LoadStep(STORED, CALLERS_OF_SCALING * processes, processes=processes)
    if processes == 1 or not all((step, OURS) in rounds for step in (one, many)):
        return None

    def growth(server: str, figure: Callable[[Load], float]) -> float:
        before, after = (
            statistics.median(figure(load) for load in rounds[step, server]) for step in (one, many)
        )
        return after / before

    figures: dict[str, Callable[[Load], float]] = {
        "": lambda load: load.throughput,
        "cpu_": lambda load: max(load.server_cpu, 1e-9) / len(load.latencies),
    }
    return {
        f"{prefix}{name}": growth(server, figure)
        for prefix, figure in figures.items()
        for name, server in (("ours", OURS), ("empty", EMPTY))
    }


def _batch(rounds: Rounds, processes: int) -> float | None:
    batches = rounds.get((LoadStep(BATCH, 1, processes=processes), OURS), ())
    singles = rounds.get((LoadStep(STORED, 1, processes=processes), OURS), ())
    found = [
        single.throughput / (BATCH_SIZE * batch.throughput)
        for batch, single in zip(batches, singles, strict=False)
    ]
    return statistics.median(found) if found else None
