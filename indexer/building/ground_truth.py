"""Ground truth: what brute force finds, which ANN recall is measured against; and the time of a search."""

import statistics
import time
from collections.abc import Callable
from copy import copy

import numpy as np

from indexer.files import FloatArray, IntArray
from indexer.search import best_of_all, best_of_some, scores_of

TUNED_K = 100
SHORT_K = 10
_TIMED = 7  # searches whose median is taken
_RUNS = 3  # of each of them
_TIE = 1e-5  # relative; scores this close are equal


class GroundTruth:
    """What brute force finds for some queries.

    Args:
        vectors: (N, D), may be memory-mapped.
        queries: (Q, D).
        allowed: (n,) sorted rows to search among; None for all.
        k: results to be compared.

    Attributes:
        k: the same, or fewer where there are fewer rows.
    """

    def __init__(
        self, vectors: FloatArray, queries: FloatArray, allowed: IntArray | None = None, k: int = TUNED_K
    ) -> None:
        self.vectors, self.queries, self.allowed = vectors, np.ascontiguousarray(queries), allowed
        self.k = min(k, len(vectors) if allowed is None else len(allowed))
        if allowed is None:
            self._scores = best_of_all(vectors, self.queries, self.k)[1]  # (Q, k), best first
        else:
            self._scores = best_of_some(vectors, allowed, self.queries, self.k)[1]

    def shorter(self, k: int) -> "GroundTruth":
        """Return the ground truth of the best k alone, without another search."""
        other = copy(self)
        other.k = min(k, self.k)
        return other

    def recall(self, rows: IntArray) -> float:
        """Return the share of the best k that candidates (Q, n) hold; a tie with the k-th counts."""
        rows = np.sort(rows, axis=1)
        rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1  # each counts once
        last = self._scores[:, self.k - 1 : self.k]
        good = scores_of(self.vectors, self.queries, rows) >= last - _TIE * np.maximum(np.abs(last), 1.0)
        return float(np.minimum(good.sum(axis=1), self.k).mean() / self.k)


GroundTruths = tuple[GroundTruth, GroundTruth]


def ground_truths(vectors: FloatArray, queries: FloatArray, allowed: IntArray | None = None) -> GroundTruths:
    """Return the ground truth of TUNED_K results and of SHORT_K."""
    truth = GroundTruth(vectors, queries, allowed)
    return truth, truth.shorter(SHORT_K)


def seconds_of(search: Callable[[FloatArray], object], queries: FloatArray, size: int = 1) -> float:
    """Time a search for `size` queries: the median over a few, each at its best of three, in seconds.

    The best, because other work of the machine only ever adds time.
    """
    starts = range(0, min(_TIMED * size, len(queries)), size)
    times = [[0.0] * _RUNS for _ in starts]
    for run in range(_RUNS):
        for start, of_query in zip(starts, times, strict=True):
            began = time.perf_counter()
            search(queries[start : start + size])
            of_query[run] = time.perf_counter() - began
    return statistics.median(map(min, times))
