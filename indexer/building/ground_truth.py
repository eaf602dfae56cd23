"""Ground truth: what brute force finds, which ANN recall is measured against; and the time of a search."""

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from encoder.jobs import Jobs, check_shared
from encoder.progress import LongStage
from indexer.files import VECTORS_FILE, FloatArray, IntArray, map_tensors, map_vectors
from indexer.search import Searched, best_of_all, best_of_parts, best_of_some, scores_of

TUNED_K = 100
SHORT_K = 10
PART_ROWS = 1 << 18  # vectors that a worker compares at a time
_QUERIES_FILE = "queries.safetensors"
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
        scores: (Q, k) of the best among all, best first, where they are known.

    Attributes:
        k: the same, or fewer where there are fewer rows.
    """

    def __init__(
        self,
        vectors: FloatArray,
        queries: FloatArray,
        allowed: IntArray | None = None,
        k: int = TUNED_K,
        scores: FloatArray | None = None,
    ) -> None:
        self.vectors, self.queries, self.allowed = vectors, np.ascontiguousarray(queries), allowed
        self.k = min(k, len(vectors) if allowed is None else len(allowed))
        if scores is not None:
            self._scores = scores
        elif allowed is None:
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


def ground_truths(
    vectors: FloatArray,
    queries: FloatArray,
    allowed: IntArray | None = None,
    scores: FloatArray | None = None,
) -> GroundTruths:
    """Return the ground truth of TUNED_K results and of SHORT_K."""
    truth = GroundTruth(vectors, queries, allowed, scores=scores)
    return truth, truth.shorter(SHORT_K)


def exact_scores(folder: Path, queries: FloatArray, jobs: Jobs) -> FloatArray | None:
    """Return the scores (Q, k) of the best of all vectors for each query, found by workers.

    None where the vectors are too few to be divided, or there are no workers: whoever needs them searches.

    Args:
        folder: with the main part; queries and the results of each part are written below it.
        queries: (Q, D).
        jobs: the workers; each compares PART_ROWS vectors at a time.
    """
    count = len(map_vectors(folder / VECTORS_FILE))
    starts = range(0, count, PART_ROWS)
    if jobs.in_this_process or len(starts) < 2 or not len(queries):
        return None
    place = (folder / "truth").resolve()
    place.mkdir(exist_ok=True)
    save_file({"queries": np.ascontiguousarray(queries)}, place / _QUERIES_FILE)
    parts = [(number, slice(start, start + PART_ROWS)) for number, start in enumerate(starts)]

    def found() -> Iterator[Searched]:
        with LongStage("ground truth", len(parts), "part") as stage:
            for name in jobs.map(partial(search_part, place), parts, "ground truth"):
                some = map_tensors(place / name)
                yield some["rows"], some["scores"]
                stage.advance()

    scores = best_of_parts(found(), min(TUNED_K, count))[1]
    shutil.rmtree(place)
    return scores


def search_part(place: Path, part: tuple[int, slice]) -> str:
    """Write what brute force finds among some of the vectors to a file, and return its name."""
    check_shared(place)
    number, rows = part
    vectors = map_vectors(place.parent / VECTORS_FILE)[rows]
    best, scores = best_of_all(
        vectors, map_tensors(place / _QUERIES_FILE)["queries"], min(TUNED_K, len(vectors))
    )
    name = f"{number}.safetensors"
    save_file({"rows": best + rows.start, "scores": scores}, place / f"{name}.draft")
    (place / f"{name}.draft").replace(place / name)
    return name


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
