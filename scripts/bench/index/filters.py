"""How a search fares with filters that let anything from next to nothing to everything pass."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from indexer.files import FloatArray
from indexer.filters.filter import Filter
from indexer.index import Index
from indexer.search.exact import Searched
from scripts.bench.index.build import NEAR, RANDOM
from scripts.bench.index.timing import ann_recall, figures, threads, timed

SHARES = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def sweep(
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
        index: built by `bench_index_build.build`.
        factory: what to call it.
        queries: (Q, D) that it was not tuned with.
        centre: (D,) that `near` is measured from.
        shares: of the items, that pass.
        k: results per query.
        seconds: of timing each.
    """
    near = np.concatenate([index.main.vectors[i : i + 65_536] @ centre for i in range(0, len(index), 65_536)])
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
                taken = timed({"ours": one}, len(queries), seconds)["ours"]
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


def _one(index: Index, queries: FloatArray, k: int, wanted: Filter, number: int) -> Searched:
    return index.search(queries[number : number + 1], k, None, wanted)
