"""The least effort of a search that reaches an ANN recall."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from indexer.building.ground_truth import GroundTruth, seconds_of
from indexer.files import FloatArray
from indexer.search import AnnIndex, Bits, SearchParams


@dataclass(frozen=True)
class TunedParams:
    """Search parameters with their ANN recall at TUNED_K and seconds per query."""

    search_params: SearchParams
    recall: float
    seconds: float


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

    def with_probes(nprobe: int) -> SearchParams:
        return replace(start, nprobe=nprobe)

    reached = least_effort(index, truths, target, with_probes, start.nprobe, index.max_nprobe, bits)
    return None if reached is None else reached[1]


def least_effort(
    index: AnnIndex,
    truths: Sequence[GroundTruth],
    target: float,
    params_of: Callable[[int], SearchParams],
    start: int,
    most: int,
    bits: Bits | None,
) -> tuple[int, TunedParams] | None:
    """Find a small number whose parameters reach an ANN recall, and what they reach; None where none do.

    From `start` it is doubled until the recall is reached, then bisected to an eighth; `start` itself is not
    reduced.

    Args:
        index: to be searched.
        truths: what is to be found; the recall must be reached against each.
        target: ANN recall.
        params_of: gives the parameters for a number.
        start: the first that is tried.
        most: the last.
        bits: bitmap of the rows that a filter allows; None for all.
    """

    def recalls(number: int) -> list[float]:
        params = params_of(number)
        return [recall_of(index, truth, params, bits) for truth in truths]

    low, high = 0, min(start, most)
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
    search_params, first = params_of(high), truths[0]

    def search(queries: FloatArray) -> object:
        return index.scored(first.vectors, queries, first.k, search_params, bits)

    return high, TunedParams(search_params, found[0], seconds_of(search, first.queries))


def recall_of(index: AnnIndex, truth: GroundTruth, search_params: SearchParams, bits: Bits | None) -> float:
    """Return the ANN recall of a search with a filter, None for no filter, against its ground truth."""
    return truth.recall(index.search(truth.queries, search_params.candidates(truth.k), search_params, bits))
