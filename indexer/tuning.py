"""The effort that reaches an asked ANN recall, and when a filter is better served by a scan; all measured."""

import logging
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from indexer.approximate import Approximate, Bits
from indexer.arrays import FloatArray, IntArray
from indexer.effort import Effort
from indexer.exact import best_of_all, best_of_masked, best_of_parts, best_of_some, scores_of
from indexer.policy import FilterPolicy

log = logging.getLogger(__name__)

TUNED_K = 100
REFINES = (1, 2, 4, 8)
SHARES = (0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
_TIMED = 7  # single searches behind a median
_RUNS = 3  # of each of them
_BATCH = 16  # queries of an exact search with a filter, timed together
_FILTER_QUERIES = 128
_CENTRES = 2  # items whose nearest ones are a filter, for each share
_BLOCK = 1 << 18  # vectors at a time
_TIE = 1e-5  # relative; scores this close are equal


@dataclass(frozen=True)
class Reached:
    """An effort with its ANN recall at TUNED_K and seconds per query."""

    effort: Effort
    recall: float
    seconds: float


class Judge:
    """What an exact search finds for some queries.

    Args:
        vectors: (N, D), may be memory-mapped.
        queries: (Q, D) user vectors that the index was not made from.
        allowed: rows that count; None are all of them.
    """

    def __init__(self, vectors: FloatArray, queries: FloatArray, allowed: IntArray | None = None) -> None:
        self.vectors, self.queries, self.allowed = vectors, np.ascontiguousarray(queries), allowed
        rows = len(vectors) if allowed is None else len(allowed)
        self.k = min(TUNED_K, rows)
        if allowed is not None:
            best = best_of_some(vectors, allowed, self.queries, self.k)[1]
        else:
            best = best_of_parts(list(self._blocks()), self.k)[1]
        self._least = best[:, -1] - _TIE * np.maximum(np.abs(best[:, -1]), 1.0)  # (Q,)

    def recall(self, rows: IntArray) -> float:
        """Return the share of the best k that candidates (Q, n) hold; what ties with the last counts."""
        rows = np.sort(rows, axis=1)
        rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1  # counted once
        good = scores_of(self.vectors, self.queries, rows) >= self._least[:, None]
        return float(np.minimum(good.sum(axis=1), self.k).mean() / self.k)

    def _blocks(self) -> Iterator[tuple[IntArray, FloatArray]]:
        for start in range(0, len(self.vectors), _BLOCK):
            block = np.ascontiguousarray(self.vectors[start : start + _BLOCK])
            rows, scores = best_of_all(block, self.queries, min(self.k, len(block)))
            yield rows + start, scores


def tune(index: Approximate, judge: Judge, target: float) -> Reached | None:
    """Return the quickest effort that reaches an ANN recall, or None where no effort does.

    For each refinement the fewest probes that reach it are found by bisection; the quickest pair wins.
    """
    best: Reached | None = None
    for refine in (1,) if index.full else REFINES:  # scores that are exact need no second look
        reached = fewest(index, judge, target, Effort(1, refine))
        if reached is None:
            continue
        log.info(
            "tuning: %d probes, refinement %d: ANN recall@%d %.4f, %.2f ms a query",
            *(reached.effort.probes, refine, judge.k, reached.recall, 1e3 * reached.seconds),
        )
        if best is not None and reached.seconds > best.seconds:
            break  # more refinement only makes it slower
        best = reached
    return best


def fewest(
    index: Approximate, judge: Judge, target: float, start: Effort, bits: Bits | None = None
) -> Reached | None:
    """Return the effort with the fewest probes, to an eighth, that reaches an ANN recall; None for none."""

    def recall(probes: int) -> float:
        count = judge.k * start.refine
        return judge.recall(index.search(judge.queries, count, Effort(probes, start.refine), bits))

    most, low, high = index.most_probes, 0, min(start.probes, index.most_probes)
    while (found := recall(high)) < target:
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while low and high - low > max(1, high // 8):
        middle = (low + high) // 2
        at = recall(middle)
        if at >= target:
            high, found = middle, at
        else:
            low = middle
    effort = Effort(high, start.refine)

    def search(queries: FloatArray) -> object:
        return index.scored(judge.vectors, queries, judge.k, effort, bits)

    return Reached(effort, found, _seconds(search, judge.queries))


def filter_policy(
    vectors: FloatArray, index: Approximate | None, queries: FloatArray, base: Effort, target: float
) -> FilterPolicy:
    """Return when to scan what a filter allows and how hard to search otherwise, from trials.

    Each share is tried with items drawn at random, and with those nearest to one item and to another, which
    is what a filter by kind is like; the worst counts. Shares below the first at which a scan is as quick,
    or at which no effort reaches the asked recall, are scanned.
    """
    rng = np.random.default_rng(0)
    queries = queries[:_FILTER_QUERIES]
    efforts: list[tuple[float, Effort]] = []
    for share in SHARES:
        count = int(share * len(vectors))
        if count < TUNED_K:
            return FilterPolicy(share, tuple(efforts))
        effort = base
        for allowed in _subsets(vectors, count, rng):
            mask = np.zeros(len(vectors), dtype=bool)
            mask[allowed] = True
            if index is None:  # single queries are scanned either way
                scan, passing = (
                    _seconds(one, queries, _BATCH)
                    for one in (partial(_scan, vectors, allowed), partial(_pass_over, vectors, mask))
                )
                if scan <= passing:
                    return FilterPolicy(share, ())
                continue
            if not index.filters:
                return FilterPolicy(1.0, ())
            bits = np.packbits(mask, bitorder="little")
            judge = Judge(vectors, queries, allowed)
            reached = fewest(index, judge, target, effort, bits)
            scan = _seconds(partial(_scan, vectors, allowed), queries)
            if reached is None or scan <= reached.seconds:
                return FilterPolicy(share, tuple(efforts))
            effort = reached.effort
        efforts.append((share, effort))
    return FilterPolicy(SHARES[-1], tuple(efforts))


def _scan(vectors: FloatArray, allowed: IntArray, queries: FloatArray) -> object:
    return best_of_some(vectors, allowed, queries, TUNED_K)


def _pass_over(vectors: FloatArray, mask: npt.NDArray[np.bool_], queries: FloatArray) -> object:
    return best_of_masked(vectors, mask, queries, TUNED_K)


def _subsets(vectors: FloatArray, count: int, rng: np.random.Generator) -> Iterator[IntArray]:
    yield np.sort(rng.permutation(len(vectors))[:count])
    near = np.empty(len(vectors), dtype=np.float32)
    for _ in range(_CENTRES):
        centre = vectors[int(rng.integers(len(vectors)))]
        for start in range(0, len(vectors), _BLOCK):
            near[start : start + _BLOCK] = vectors[start : start + _BLOCK] @ centre
        yield np.sort(np.argpartition(-near, count - 1)[:count])


def _seconds(search: Callable[[FloatArray], object], queries: FloatArray, size: int = 1) -> float:
    """Return the seconds of a search for `size` queries: the median over a few, each at its best of three.

    The best, because whatever else the machine does only ever adds.
    """
    starts = range(0, min(_TIMED * size, len(queries)), size)
    times = [[0.0] * _RUNS for _ in starts]
    for run in range(_RUNS):
        for start, of_query in zip(starts, times, strict=True):
            began = time.perf_counter()
            search(queries[start : start + size])
            of_query[run] = time.perf_counter() - began
    return statistics.median(map(min, times))
