"""The effort that reaches an asked ANN recall, measured."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from indexer.arrays import FloatArray
from indexer.building.ground_truth import SHORT_K, GroundTruth, GroundTruths, seconds_of
from indexer.search.ann import AnnIndex, Bits
from indexer.search.search_params import SearchParams

log = logging.getLogger(__name__)

REFINES = (1, 2, 4, 8, 16)
LEASTS = (1, 3, 10)  # times as many candidates as a short list is refined from anyway


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
