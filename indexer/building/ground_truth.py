"""What an exact search finds, so that others can be judged by it, and how long a search takes."""

import statistics
import time
from collections.abc import Callable, Iterator
from copy import copy

import numpy as np

from indexer.files import FloatArray, IntArray
from indexer.search.exact import best_of_all, best_of_parts, best_of_some, scores_of

TUNED_K = 100
SHORT_K = 10
_TIMED = 7  # single searches behind a median
_RUNS = 3  # of each of them
_BLOCK = 1 << 18  # vectors at a time
_TIE = 1e-5  # relative; scores this close are equal


class GroundTruth:
    """What an exact search finds for some queries.

    Args:
        vectors: (N, D), may be memory-mapped.
        queries: (Q, D) user vectors that the index was not made from.
        allowed: rows that count; None are all of them.

    Attributes:
        k: results that are looked at: TUNED_K, or as many as there are.
    """

    def __init__(self, vectors: FloatArray, queries: FloatArray, allowed: IntArray | None = None) -> None:
        self.vectors, self.queries, self.allowed = vectors, np.ascontiguousarray(queries), allowed
        self.k = min(TUNED_K, len(vectors) if allowed is None else len(allowed))
        if allowed is not None:
            self._best = best_of_some(vectors, allowed, self.queries, self.k)[1]  # (Q, k), best first
        else:
            self._best = best_of_parts(list(self._blocks()), self.k)[1]

    def shorter(self, k: int) -> "GroundTruth":
        """Return a judge of the best k alone, without another exact search."""
        other = copy(self)
        other.k = min(k, self.k)
        return other

    def recall(self, rows: IntArray) -> float:
        """Return the share of the best k that candidates (Q, n) hold; what ties with the last counts."""
        rows = np.sort(rows, axis=1)
        rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1  # counted once
        last = self._best[:, self.k - 1 : self.k]
        good = scores_of(self.vectors, self.queries, rows) >= last - _TIE * np.maximum(np.abs(last), 1.0)
        return float(np.minimum(good.sum(axis=1), self.k).mean() / self.k)

    def _blocks(self) -> Iterator[tuple[IntArray, FloatArray]]:
        for start in range(0, len(self.vectors), _BLOCK):
            block = np.ascontiguousarray(self.vectors[start : start + _BLOCK])
            rows, scores = best_of_all(block, self.queries, min(self.k, len(block)))
            yield rows + start, scores


GroundTruths = tuple[GroundTruth, GroundTruth]


def ground_truths(vectors: FloatArray, queries: FloatArray, allowed: IntArray | None = None) -> GroundTruths:
    """Return judges of TUNED_K results and of SHORT_K."""
    truth = GroundTruth(vectors, queries, allowed)
    return truth, truth.shorter(SHORT_K)


def seconds_of(search: Callable[[FloatArray], object], queries: FloatArray, size: int = 1) -> float:
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
