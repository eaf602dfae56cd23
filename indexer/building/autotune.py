"""Autotuning: the index kind, search parameters and filter policy that reach an ANN recall, all measured."""

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
from indexer.search import (
    EXACT,
    AnnIndex,
    Bits,
    FilterPolicy,
    SearchParams,
    best_of_masked,
    best_of_some,
    open_shards,
)

log = logging.getLogger(__name__)

REFINES = (1, 2, 4, 8, 16)
LEASTS = (1, 3, 10)  # times the candidates that a short list is refined from anyway
SHARES = (0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
_BATCH = 16  # queries of an exact search with a filter that are timed together
_QUERIES = 128
_CENTRES = 2  # items, and as many users, whose nearest items a filter allows, for each share
_MISSES = 0.5  # of those that the wanted ANN recall allows
_BLOCK = 1 << 18  # vectors at a time


@dataclass(frozen=True)
class TunedParams:
    """Search parameters with their ANN recall at TUNED_K and seconds per query."""

    search_params: SearchParams
    recall: float
    seconds: float


def tune(index: AnnIndex, truths: GroundTruths, target: float) -> TunedParams | None:
    """Find the fastest search parameters that reach an ANN recall; None where no parameters do.

    For each refinement the smallest nprobe that reaches it is found by bisection; the fastest pair wins. Then
    `least` is chosen as small as reaches it for a short list.

    Args:
        index: to be searched.
        truths: of TUNED_K results and of SHORT_K.
        target: ANN recall.
    """
    best: TunedParams | None = None
    for refine in (1,) if index.full else REFINES:  # exact scores need no refinement
        reached = min_probes(index, truths[:1], target, SearchParams(1, refine))
        if reached is None:
            continue
        log.info(
            "tuning: %d probes, refinement %d: ANN recall@%d %.4f, %.2f ms a query",
            *(reached.search_params.nprobe, refine, truths[0].k, reached.recall, 1e3 * reached.seconds),
        )
        if best is not None and reached.seconds > best.seconds:
            break  # more refinement is only slower
        best = reached
    if best is None or index.full:
        return best
    tried = [
        replace(best.search_params, least=SHORT_K * best.search_params.refine * times) for times in LEASTS
    ]
    enough = (params for params in tried if _recall(index, truths[1], params, None) >= target)
    return replace(best, search_params=next(enough, tried[-1]))


def min_probes(
    index: AnnIndex,
    truths: Sequence[GroundTruth],
    target: float,
    start: SearchParams,
    bits: Bits | None = None,
) -> TunedParams | None:
    """Find the smallest nprobe or efSearch, to an eighth, that reaches an ANN recall; None where none does.

    It must be reached against each ground truth; recall and seconds are of the first.

    Args:
        index: to be searched.
        truths: what is to be found.
        target: ANN recall.
        start: the first parameters tried, and their refine and least.
        bits: bitmap of the rows that a filter allows; None for all.
    """

    def recalls(nprobe: int) -> list[float]:
        params = replace(start, nprobe=nprobe)
        return [_recall(index, truth, params, bits) for truth in truths]

    most, low, high = index.max_nprobe, 0, min(start.nprobe, index.max_nprobe)
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
    search_params, first = replace(start, nprobe=high), truths[0]

    def search(queries: FloatArray) -> object:
        return index.scored(first.vectors, queries, first.k, search_params, bits)

    return TunedParams(search_params, found[0], seconds_of(search, first.queries))


def _recall(index: AnnIndex, truth: GroundTruth, search_params: SearchParams, bits: Bits | None) -> float:
    return truth.recall(index.search(truth.queries, search_params.candidates(truth.k), search_params, bits))


def filter_policy(
    vectors: FloatArray, index: AnnIndex | None, queries: FloatArray, base: SearchParams, target: float
) -> FilterPolicy:
    """Measure when to scan the items that a filter allows, and the search parameters otherwise.

    Each share is tried with random items, and with those nearest to some items and users, as a filter by kind
    allows; the worst counts, and half of the misses that the recall allows are reserved for filters that were
    not tried. Shares below the first at which a scan is as fast, or at which no parameters reach the recall,
    are scanned.

    Args:
        vectors: (N, D) of the items.
        index: FAISS over them; None where every vector is compared.
        queries: (Q, D).
        base: search parameters without a filter.
        target: ANN recall.
    """
    target = 1.0 - (1.0 - target) * _MISSES
    rng = np.random.default_rng(0)
    queries = queries[:_QUERIES]
    by_share: list[tuple[float, SearchParams]] = []
    for share in SHARES:
        count = int(share * len(vectors))
        if count < TUNED_K:
            return FilterPolicy(share, tuple(by_share))
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
                return FilterPolicy(share, tuple(by_share))
            search_params = reached.search_params
        by_share.append((share, search_params))
    return FilterPolicy(SHARES[-1], tuple(by_share))


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
    """A kind of index, its FAISS files with their sha256, and the measured parameters and recall."""

    factory: str
    files: dict[str, str]
    search_params: SearchParams
    recall: float
    policy: FilterPolicy

    def facts(self) -> dict[str, Any]:
        """Return its entries of the manifest."""
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
    """Build the first of the kinds of a choice that reaches an ANN recall; the last one is exact.

    Half of the queries choose the search parameters. The other half must reach the recall, too, with a larger
    nprobe if necessary, and gives the figure.

    Args:
        folder: with the main part; FAISS files are written there.
        queries: (Q, D) user vectors.
        choice: the kinds.
        target: ANN recall at TUNED_K.
        float16: hold full vectors as halves on cards.

    Raises:
        FactoryError: FAISS does not understand a factory.
    """
    vectors = map_vectors(folder / VECTORS_FILE)
    for factory in (choice.factory, *choice.fallbacks):
        if factory == EXACT or not len(vectors):
            break
        files = build_shards(folder, factory)
        # A graph is tuned on the CPU: a card looks at as many candidates from more starting points.
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
    return FittedIndex(EXACT, {}, SearchParams(), 1.0, policy)
