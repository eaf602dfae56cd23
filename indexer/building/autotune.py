"""The effort that reaches an asked ANN recall, measured."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.building.factory import Choice, cagra_degree
from indexer.building.ground_truth import (
    SHORT_K,
    TUNED_K,
    GroundTruth,
    GroundTruths,
    ground_truths,
    seconds_of,
)
from indexer.building.shards import build_shards
from indexer.files import VECTORS_FILE, FloatArray, IntArray, map_vectors
from indexer.search.ann import EXACT, AnnIndex, Bits, FilterPolicy, SearchParams, open_shards
from indexer.search.exact import best_of_masked, best_of_some

log = logging.getLogger(__name__)
REFINES = (1, 2, 4, 8, 16)
LEASTS = (1, 3, 10)  # times as many candidates as a short list is refined from anyway
SHARES = (0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
_BATCH = 16  # queries of an exact search with a filter, timed together
_QUERIES = 128
_CENTRES = 2  # items, and users, whose nearest items are a filter, for each share
_MISSES = 0.5  # of those that the asked ANN recall allows
_BLOCK = 1 << 18  # vectors at a time


@dataclass(frozen=True)
class TunedParams:
    """An effort with its ANN recall at TUNED_K and seconds per query."""

    search_params: SearchParams
    recall: float
    seconds: float


def tune(index: AnnIndex, truths: GroundTruths, target: float) -> TunedParams | None:
    """Return the quickest effort that reaches an ANN recall, or None where no effort does.

    For each refinement the fewest probes that reach it are found by bisection; the quickest pair wins. Then
    the candidates of a short list are made as few as reach it, too.

    Args:
        index: to be searched.
        truths: of TUNED_K results and of SHORT_K.
        target: ANN recall.
    """
    best: TunedParams | None = None
    for refine in (1,) if index.full else REFINES:  # scores that are exact need no second look
        reached = min_probes(index, truths[:1], target, SearchParams(1, refine))
        if reached is None:
            continue
        log.info(
            "tuning: %d probes, refinement %d: ANN recall@%d %.4f, %.2f ms a query",
            *(reached.search_params.probes, refine, truths[0].k, reached.recall, 1e3 * reached.seconds),
        )
        if best is not None and reached.seconds > best.seconds:
            break  # more refinement only makes it slower
        best = reached
    if best is None or index.full:
        return best
    search_params = [
        replace(best.search_params, least=SHORT_K * best.search_params.refine * factor) for factor in LEASTS
    ]
    enough = (
        search_params
        for search_params in search_params
        if _recall(index, truths[1], search_params, None) >= target
    )
    return replace(best, search_params=next(enough, search_params[-1]))


def min_probes(
    index: AnnIndex,
    truths: Sequence[GroundTruth],
    target: float,
    start: SearchParams,
    bits: Bits | None = None,
) -> TunedParams | None:
    """Return the effort with the fewest probes, to an eighth, that reaches an ANN recall; None for none.

    All judges must see it reached. The figures are the first one's.
    """

    def recalls(probes: int) -> list[float]:
        search_params = replace(start, probes=probes)
        return [_recall(index, truth, search_params, bits) for truth in truths]

    most, low, high = index.most_probes, 0, min(start.probes, index.most_probes)
    while min(found := recalls(high)) < target:
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while low and high - low > max(1, high // 8):
        middle = (low + high) // 2
        at = recalls(middle)
        if min(at) >= target:
            high, found = middle, at
        else:
            low = middle
    search_params, first = replace(start, probes=high), truths[0]

    def search(queries: FloatArray) -> object:
        return index.scored(first.vectors, queries, first.k, search_params, bits)

    return TunedParams(search_params, found[0], seconds_of(search, first.queries))


def _recall(index: AnnIndex, truth: GroundTruth, search_params: SearchParams, bits: Bits | None) -> float:
    return truth.recall(index.search(truth.queries, search_params.looked_at(truth.k), search_params, bits))


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


@dataclass(frozen=True)
class FittedIndex:
    """A kind of index, its FAISS files, and what was measured on it."""

    factory: str
    files: list[str]
    search_params: SearchParams
    recall: float
    policy: FilterPolicy

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {
            "factory": self.factory,
            "shards": len(self.files),
            **self.search_params.as_json(),
            f"ann_recall@{TUNED_K}": self.recall,
            "filters": self.policy.as_json(),
        }


def fit(
    folder: Path, queries: FloatArray, choice: Choice, target: float, *, float16: bool = False
) -> FittedIndex:
    """Return the first of the kinds of a choice that reaches an ANN recall; the last one is exact.

    Half of the queries choose the effort. The other half must reach the recall too, which raises it where
    it does not, and gives the figure.

    Args:
        folder: with the main part; FAISS files are written there.
        queries: (Q, D) user vectors.
        choice: kinds, coarse ones first.
        target: ANN recall at TUNED_K.
        float16: hold full vectors as halves on cards.

    Raises:
        FactoryError: FAISS does not understand a factory.
    """
    vectors = map_vectors(folder / VECTORS_FILE)
    for factory in (choice.factory, *choice.finer):
        if factory == EXACT or not len(vectors):
            break
        files = build_shards(folder, factory)
        # A graph is tuned as a CPU searches it: a card looks at as many candidates from more places.
        cpu = cagra_degree(factory) is not None
        index = open_shards([folder / name for name in files], SearchParams(), cpu=cpu, float16=float16)
        tuned = tune(index, ground_truths(vectors, queries[::2]), target)
        reached = tuned and min_probes(
            index, ground_truths(vectors, queries[1::2]), target, tuned.search_params
        )
        if reached:
            policy = filter_policy(vectors, index, queries, reached.search_params, target)
            return FittedIndex(factory, files, reached.search_params, reached.recall, policy)
        log.warning(
            "%s does not reach ANN recall@%d %.4f: going on with a finer kind", factory, TUNED_K, target
        )
    policy = filter_policy(vectors, None, queries, SearchParams(), target)
    return FittedIndex(EXACT, [], SearchParams(), 1.0, policy)
