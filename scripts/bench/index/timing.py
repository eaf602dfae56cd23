"""Timing of searches that take turns, and how much of the exact answer they find."""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from indexer.files import IntArray
from indexer.search import Searched

Search = Callable[[int], object]  # of the n-th batch


@dataclass(frozen=True)
class Times:
    """Seconds that the calls of a search took.

    Shapes:
        wall, cpu: (T,) float64, of each turn: on the clock, and of processors in all threads.
    """

    wall: npt.NDArray[np.float64]
    cpu: npt.NDArray[np.float64]


def threads(count: int) -> AbstractContextManager[Any]:
    """Return a context in which FAISS and the matrix products of it and of numpy use so many threads.

    Without it their own numbers differ, and a search waits for threads that find no core.
    """
    faiss.omp_set_num_threads(count)
    limits: AbstractContextManager[Any] = threadpool_limits(count)
    return limits


def time_by_turns(searches: Mapping[str, Search], batches: int, seconds: float) -> dict[str, Times]:
    """Return the times of each search, over turns in each of which all are called with the same batch.

    So whatever else the machine does falls on all of them alike. Their order is drawn anew in each turn,
    because who comes first finds the data farthest away.

    Args:
        searches: by name.
        batches: how many there are, used one after the other.
        seconds: for each search.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in searches}
    order, rng = list(searches), random.Random(0)  # noqa: S311
    for search in searches.values():
        search(0)
    turn, end = 0, time.perf_counter() + seconds * len(searches)
    with tqdm(total=None, disable=None, leave=False, desc="turns") as bar:
        while not turn or time.perf_counter() < end:
            rng.shuffle(order)
            for name in order:
                began, used = time.perf_counter(), time.process_time()
                searches[name](turn % batches)
                times[name].append((time.perf_counter() - began, time.process_time() - used))
            turn += 1
            bar.update()
    return {name: Times(*np.array(taken).T) for name, taken in times.items()}


def figures(times: Times, batch: int) -> dict[str, float]:
    """Return queries per second at the median call, and the median and the 99th percentile of a call."""
    p50, p99 = np.percentile(times.wall, [50, 99])
    return {"throughput": float(batch / p50), "p50_ms": float(1e3 * p50), "p99_ms": float(1e3 * p99)}


def beside(ours: Times, bare: Times) -> dict[str, float]:
    """Return bare's time over ours on the clock and of processors, and what ours takes longer.

    All are medians over the turns. Where others use the machine, the time of processors says more of a search
    with one thread: a call of many milliseconds is rarely left alone.
    """
    return {
        "over_bare": float(np.median(bare.wall / ours.wall)),
        "cpu_over_bare": float(np.median(bare.cpu / ours.cpu)),
        "added_us": float(1e6 * np.median(ours.wall - bare.wall)),
    }


def ann_recall(found: IntArray, exact: Searched) -> float:
    """Return the mean share of the exact best rows that are among rows (Q, n)."""
    wanted = [rows[rows >= 0] for rows in exact[0]]
    shares = [
        len(np.intersect1d(rows, best)) / len(best)
        for rows, best in zip(found, wanted, strict=True)
        if len(best)
    ]
    return float(np.mean(shares)) if shares else 1.0
