"""The effort that reaches an asked ANN recall, measured."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from indexer.arrays import FloatArray
from indexer.building.ground_truth import SHORT_K, Judge, Judges, seconds_of
from indexer.search.ann import Approximate, Bits
from indexer.search.search_params import Effort

log = logging.getLogger(__name__)

REFINES = (1, 2, 4, 8, 16)
LEASTS = (1, 3, 10)  # times as many candidates as a short list is refined from anyway


@dataclass(frozen=True)
class Reached:
    """An effort with its ANN recall at TUNED_K and seconds per query."""

    effort: Effort
    recall: float
    seconds: float


def tune(index: Approximate, judges: Judges, target: float) -> Reached | None:
    """Return the quickest effort that reaches an ANN recall, or None where no effort does.

    For each refinement the fewest probes that reach it are found by bisection; the quickest pair wins. Then
    the candidates of a short list are made as few as reach it, too.

    Args:
        index: to be searched.
        judges: of TUNED_K results and of SHORT_K.
        target: ANN recall.
    """
    best: Reached | None = None
    for refine in (1,) if index.full else REFINES:  # scores that are exact need no second look
        reached = fewest(index, judges[:1], target, Effort(1, refine))
        if reached is None:
            continue
        log.info(
            "tuning: %d probes, refinement %d: ANN recall@%d %.4f, %.2f ms a query",
            *(reached.effort.probes, refine, judges[0].k, reached.recall, 1e3 * reached.seconds),
        )
        if best is not None and reached.seconds > best.seconds:
            break  # more refinement only makes it slower
        best = reached
    if best is None or index.full:
        return best
    efforts = [replace(best.effort, least=SHORT_K * best.effort.refine * factor) for factor in LEASTS]
    enough = (effort for effort in efforts if _recall(index, judges[1], effort, None) >= target)
    return replace(best, effort=next(enough, efforts[-1]))


def fewest(
    index: Approximate, judges: Sequence[Judge], target: float, start: Effort, bits: Bits | None = None
) -> Reached | None:
    """Return the effort with the fewest probes, to an eighth, that reaches an ANN recall; None for none.

    All judges must see it reached. The figures are the first one's.
    """

    def recalls(probes: int) -> list[float]:
        effort = replace(start, probes=probes)
        return [_recall(index, judge, effort, bits) for judge in judges]

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
    effort, first = replace(start, probes=high), judges[0]

    def search(queries: FloatArray) -> object:
        return index.scored(first.vectors, queries, first.k, effort, bits)

    return Reached(effort, found[0], seconds_of(search, first.queries))


def _recall(index: Approximate, judge: Judge, effort: Effort, bits: Bits | None) -> float:
    return judge.recall(index.search(judge.queries, effort.looked_at(judge.k), effort, bits))
