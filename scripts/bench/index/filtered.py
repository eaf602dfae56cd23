"""Searches with filters: how much of the exact answer ours find, and how fast beside other engines."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from indexer.files import FloatArray, IntArray
from indexer.filters import Filter
from indexer.index import Index
from indexer.search import Searched
from scripts.bench.index.engines import FilteringEngine, Numbers, Range
from scripts.bench.index.synthetic import NEAR, RANDOM
from scripts.bench.index.timing import Search, ann_recall, beside, figures, threads, time_by_turns

OURS = "triptych"
ENGINE_SHARES = (0.01, 0.1, 0.5, 1.0)
ASKED, EQUAL = "the recall asked for", "our recall"  # what an engine's effort reaches
_ALIKE = 0.0005  # of ANN recall: 256 queries for 10 items tell no less
SHARES = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def filter_figures(
    index: Index,
    factory: str,
    queries: FloatArray,
    centre: FloatArray,
    shares: Sequence[float],
    k: int,
    seconds: float,
) -> Iterator[dict[str, Any]]:
    """Yield what a search finds with filters, beside brute force over what they let pass.

    Each share is tried with items drawn at random and with those nearest to one user, which is what a kind
    or a category is like. `scan` says whether every allowed item was compared.

    Args:
        index: built by `synthetic.build_index`.
        factory: what to call it.
        queries: (Q, D) that it was not tuned with.
        centre: (D,) that `near` is measured from.
        shares: of the items, that pass.
        k: results per query.
        seconds: of timing each.
    """
    near = near_of(index, centre)
    for share in shares:
        least = float(np.quantile(near, 1 - share)) if share < 1 else -np.inf
        for subset, wanted in (
            ("random", Filter(ranges=((RANDOM, 0.0, share),))),
            ("near", Filter(ranges=((NEAR, least, np.inf),))),
        ):
            exact = index.brute_force(queries, k, None, wanted)
            rows = index.search(queries, k, None, wanted)[0]
            passing = int((near >= least).sum()) if subset == "near" else int(share * len(index))
            search_params = index.policy.search_params(passing, len(index.main))
            one = partial(_one, index, queries, k, wanted)
            with threads(1):
                taken = time_by_turns({"ours": one}, len(queries), seconds)["ours"]
            yield {
                "factory": factory,
                "share": share,
                "items": subset,
                "passing": passing,
                "ann_recall": ann_recall(rows, exact),
                "fewest": int((rows >= 0).sum(axis=1).min()),
                "there_are": int((exact[0] >= 0).sum(axis=1).min()),
                "p50_ms": figures(taken, 1)["p50_ms"],
                "scan": search_params is None,
            }


def _one(index: Index, queries: FloatArray, k: int, wanted: Filter | None, number: int) -> Searched:
    return index.search(queries[number : number + 1], k, None, wanted)


def engine_figures(
    index: Index,
    engines: Sequence[FilteringEngine],
    numbers: Numbers,
    queries: FloatArray,
    k: int,
    recall: float,
    seconds: float,
) -> Iterator[dict[str, Any]]:
    """Yield what our search with filters and that of other engines take, by turns in one run.

    Ours is as it was tuned. Each engine is searched with the least of its efforts that reaches a recall with
    the filter, and with the least that reaches the recall of ours, or its last. Each share is tried with
    items drawn at random and with those nearest to one user. All are asked every query once before.
    `ours_over` is the time of ours over that of the engine, the median of turns.

    Args:
        index: built by `synthetic.build_index`.
        engines: over the same items.
        numbers: (N,) float64 of each attribute, which the filters are ranges of.
        queries: (Q, D) that it was not tuned with.
        k: results per query.
        recall: ANN recall@k that the engines are to reach.
        seconds: of timing each.
    """
    for share in ENGINE_SHARES:
        for name, values in numbers.items() if share < 1 else [(RANDOM, numbers[RANDOM])]:
            most = float(values.max())
            least = float(np.quantile(values, 1 - share))
            wanted = Filter(ranges=((name, least, most),)) if share < 1 else None
            condition = Range(name, least, most) if share < 1 else None
            exact = index.brute_force(queries, k, None, wanted)
            one = partial(_one, index, queries, k, wanted)
            ours = ann_recall(np.concatenate([one(number)[0] for number in range(len(queries))]), exact)
            searches: dict[str, Search] = {OURS: one}
            found: dict[str, dict[str, Any]] = {
                OURS: {"engine": OURS, "at": "tuned", "effort": 0, "ann_recall": ours}
            }
            for engine in engines:
                for at, enough in ((ASKED, recall), (EQUAL, ours - _ALIKE)):
                    effort, reached = _least_effort(engine, queries, k, enough, exact, condition)
                    search = f"{engine.name}, {at}"
                    searches[search] = partial(_found, engine, queries, k, effort, condition)
                    found[search] = {
                        "engine": engine.name,
                        "at": at,
                        "effort": effort,
                        "ann_recall": reached,
                    }
            with threads(1):
                times = time_by_turns(searches, len(queries), seconds)
            for search, taken in times.items():
                yield {
                    **found[search],
                    "share": share,
                    "items": "all" if share == 1 else name,
                    "p50_ms": figures(taken, 1)["p50_ms"],
                    "p99_ms": figures(taken, 1)["p99_ms"],
                    "ours_over": beside(taken, times[OURS])["over_bare"],
                }


def near_of(index: Index, centre: FloatArray) -> FloatArray:
    """Return the attribute `near` (N,) of the items of an index."""
    step = 65_536
    return np.concatenate([index.main.vectors[i : i + step] @ centre for i in range(0, len(index), step)])


def _least_effort(
    engine: FilteringEngine, queries: FloatArray, k: int, recall: float, exact: Searched, wanted: Range | None
) -> tuple[int, float]:
    """Return the least effort of an engine that reaches an ANN recall, or the last, and what it reaches."""
    reached = 0.0
    for effort in engine.efforts:
        rows = [engine.find(query[None], k, effort, wanted) for query in queries]
        reached = ann_recall(np.concatenate(rows), exact)
        if reached >= recall:
            break
    return effort, reached


def _found(
    engine: FilteringEngine, queries: FloatArray, k: int, effort: int, wanted: Range | None, number: int
) -> IntArray:
    return engine.find(queries[number : number + 1], k, effort, wanted)
