"""When a filter is better served by a scan, and how hard to search otherwise; all measured."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from indexer.arrays import FloatArray, IntArray
from indexer.building.autotune import min_probes
from indexer.building.ground_truth import TUNED_K, ground_truths, seconds_of
from indexer.filters.policy import FilterPolicy
from indexer.search.ann import AnnIndex
from indexer.search.exact import best_of_masked, best_of_some
from indexer.search.search_params import SearchParams

SHARES = (0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
_BATCH = 16  # queries of an exact search with a filter, timed together
_QUERIES = 128
_CENTRES = 2  # items, and users, whose nearest items are a filter, for each share
_MISSES = 0.5  # of those that the asked ANN recall allows
_BLOCK = 1 << 18  # vectors at a time


def filter_policy(
    vectors: FloatArray, index: AnnIndex | None, queries: FloatArray, base: SearchParams, target: float
) -> FilterPolicy:
    """Return when to scan what a filter allows and how hard to search otherwise, from trials.

    Each share is tried with items drawn at random, and with those nearest to some items and users, which is
    what a filter by kind is like; the worst counts, and half of the misses that the asked recall allows are
    kept for filters that were not tried. Shares below the first at which a scan is as quick, or at which no
    effort reaches the recall, are scanned.
    """
    target = 1.0 - (1.0 - target) * _MISSES
    rng = np.random.default_rng(0)
    queries = queries[:_QUERIES]
    efforts: list[tuple[float, SearchParams]] = []
    for share in SHARES:
        count = int(share * len(vectors))
        if count < TUNED_K:
            return FilterPolicy(share, tuple(efforts))
        search_params = base
        for allowed in _subsets(vectors, queries, count, rng):
            mask = np.zeros(len(vectors), dtype=bool)
            mask[allowed] = True
            if index is None:  # single queries are scanned either way
                scan, passing = (
                    seconds_of(one, queries, _BATCH)
                    for one in (partial(_scan, vectors, allowed), partial(_pass_over, vectors, mask))
                )
                if scan <= passing:
                    return FilterPolicy(share, ())
                continue
            if not index.filters:
                return FilterPolicy(1.0, ())
            bits = np.packbits(mask, bitorder="little")
            reached = min_probes(index, ground_truths(vectors, queries, allowed), target, search_params, bits)
            scan = seconds_of(partial(_scan, vectors, allowed), queries)
            if reached is None or scan <= reached.seconds:
                return FilterPolicy(share, tuple(efforts))
            search_params = reached.search_params
        efforts.append((share, search_params))
    return FilterPolicy(SHARES[-1], tuple(efforts))


def _scan(vectors: FloatArray, allowed: IntArray, queries: FloatArray) -> object:
    return best_of_some(vectors, allowed, queries, TUNED_K)


def _pass_over(vectors: FloatArray, mask: npt.NDArray[np.bool_], queries: FloatArray) -> object:
    return best_of_masked(vectors, mask, queries, TUNED_K)


def _subsets(
    vectors: FloatArray, queries: FloatArray, count: int, rng: np.random.Generator
) -> Iterator[IntArray]:
    yield np.sort(rng.permutation(len(vectors))[:count])
    near = np.empty(len(vectors), dtype=np.float32)
    items = vectors[np.sort(rng.integers(len(vectors), size=_CENTRES))]
    for centre in (*items, *queries[rng.integers(len(queries), size=_CENTRES)]):
        for start in range(0, len(vectors), _BLOCK):
            near[start : start + _BLOCK] = vectors[start : start + _BLOCK] @ centre
        yield np.sort(np.argpartition(-near, count - 1)[:count])
