"""How an index is searched with a filter, measured: which filters are scanned, and the effort of others."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from indexer.building.efforts import TunedParams, least_effort, min_probes
from indexer.building.ground_truth import TUNED_K, GroundTruth, ground_truths, seconds_of
from indexer.files import FloatArray, IntArray
from indexer.search import (
    AnnIndex,
    Bits,
    FilterPolicy,
    Portions,
    SearchParams,
    best_of_masked,
    best_of_some,
    bits_of,
)

SHARES = (0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
_BATCH = 16  # queries of an exact search with a filter that are timed together
_QUERIES = 128
_CENTRES = 2  # items, and as many users, whose nearest items a filter allows, for each share
_PORTIONS = 1024  # portions of the rows that a filter allows are multiples of one in so many
_MISSES = 0.5  # of those that the wanted ANN recall allows
_BLOCK = 1 << 18  # vectors at a time


def filter_policy(
    vectors: FloatArray, index: AnnIndex | None, queries: FloatArray, base: SearchParams, target: float
) -> FilterPolicy:
    """Measure when to scan the items that a filter allows, and the search parameters otherwise.

    Each share is tried with random items, and with those nearest to some items and users, as a filter by kind
    allows. Half of the misses that the recall allows are reserved for filters that were not tried. Shares
    below that at which a scan is as fast, or at which no parameters reach the recall, are scanned.

    An index of lists has a portion for random items and one for others, of which the worst counts; elsewhere
    the worst of all counts.

    Args:
        vectors: (N, D) of the items.
        index: FAISS over them; None where every vector is compared.
        queries: (Q, D).
        base: search parameters without a filter.
        target: ANN recall.
    """
    queries = queries[:_QUERIES]
    if index is None:
        return FilterPolicy(_share_to_scan(vectors, queries))
    lists = index.filtered_lists is not None
    if not lists and not index.filters:
        return FilterPolicy()
    target = 1.0 - (1.0 - target) * _MISSES
    by_share: list[tuple[float, SearchParams]] = []
    scan_share, gained = SHARES[0], 0.0  # seconds by which a search beat a scan at the share before
    params = _first_portions(index, base) if lists else base
    for share, subsets in _tried_filters(vectors, queries):
        reached = _least_params(vectors, index, queries, subsets, params if lists else base, target)
        if reached is None:
            return FilterPolicy(share, tuple(by_share))
        params, lost = reached
        if lost >= 0:  # a scan became as fast between the share before and this one
            if not by_share:
                return FilterPolicy(share)
            scan_share = share + (by_share[-1][0] - share) * lost / (lost + gained)
            return FilterPolicy(scan_share, (*by_share, (share, params)))
        by_share.append((share, params))
        scan_share, gained = share, -lost
    return FilterPolicy(scan_share, tuple(by_share))


def _least_params(
    vectors: FloatArray,
    index: AnnIndex,
    queries: FloatArray,
    subsets: Iterator[IntArray],
    params: SearchParams,
    target: float,
) -> tuple[SearchParams, float] | None:
    """Return the least parameters from some on that reach a recall with each filter of one share.

    With them comes how many seconds longer than a scan a search took at worst. None where a filter's recall
    is not reached.

    Args:
        vectors: (N, D).
        index: over them.
        queries: (Q, D).
        subsets: sorted rows that each filter allows; those of the first are random.
        params: to start from.
        target: ANN recall.
    """
    lost = -np.inf
    for number, allowed in enumerate(subsets):
        bits = bits_of(allowed, len(vectors))
        truths = ground_truths(vectors, queries, allowed)
        if params.portions is None:
            reached = min_probes(index, truths, target, params, bits)
        else:
            reached = _min_portion(index, truths, target, params, bits, even=number == 0)
        if reached is None:
            return None
        if index.filtered_lists is not None:
            index.filtered_lists.forget(bits)  # the copies of the next filter need the room
        params = reached.search_params
        lost = max(lost, reached.seconds - seconds_of(partial(_scan, vectors, allowed), queries))
    return params, float(lost)


def _share_to_scan(vectors: FloatArray, queries: FloatArray) -> float:
    """Return the largest share at which a batch is compared sooner with allowed items alone than with all.

    Single queries are compared with allowed items alone either way.
    """
    least = SHARES[0]
    for share, subsets in _tried_filters(vectors, queries):
        least = share
        for allowed in subsets:
            mask = np.zeros(len(vectors), dtype=bool)
            mask[allowed] = True
            scan, passing = (
                seconds_of(one, queries, _BATCH)
                for one in (partial(_scan, vectors, allowed), partial(_pass_over, vectors, mask))
            )
            if scan <= passing:
                return share
    return least


def _tried_filters(vectors: FloatArray, queries: FloatArray) -> Iterator[tuple[float, Iterator[IntArray]]]:
    """Yield shares, falling, each with the sorted rows that filters of this share allow.

    Smaller filters than of TUNED_K rows are not tried.
    """
    rng = np.random.default_rng(0)
    for share in SHARES:
        count = int(share * len(vectors))
        if count < TUNED_K:
            return
        yield share, _subsets(vectors, queries, count, rng)


def _first_portions(index: AnnIndex, base: SearchParams) -> SearchParams:
    """Return the portion that as many lists as without a filter hold of a filter that allows all."""
    portion = max(1, _PORTIONS * base.nprobe // index.max_nprobe) / _PORTIONS
    return replace(base, portions=Portions(portion, portion))


def _min_portion(
    index: AnnIndex,
    truths: Sequence[GroundTruth],
    target: float,
    start: SearchParams,
    bits: Bits,
    *,
    even: bool,
) -> TunedParams | None:
    """Find the least portions that reach an ANN recall with a filter, none less than those of `start`.

    The even portion is found with a filter that is `even`; with another one only the uneven portion grows.
    """
    first = start.portions
    if first is None:
        raise ValueError("the parameters have no portions to start from")

    def tried(number: int) -> SearchParams:
        return replace(start, portions=Portions(number / _PORTIONS, number / _PORTIONS))

    at = round(_PORTIONS * (first.even if even else first.uneven))
    reached = least_effort(index, truths, target, tried, at, _PORTIONS, bits)
    if reached is None:
        return None
    portion = reached[0] / _PORTIONS
    found = Portions(portion, max(portion, first.uneven)) if even else Portions(first.even, portion)
    return replace(reached[1], search_params=replace(start, portions=found))


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
