"""From vectors on disk to a searchable index that reaches the asked ANN recall, however much that takes."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.arrays import FloatArray, map_vectors
from indexer.building.autotune import min_probes, tune
from indexer.building.choice import EXACT, Choice
from indexer.building.factory import cagra_degree
from indexer.building.filter_tuning import filter_policy
from indexer.building.ground_truth import TUNED_K, ground_truths
from indexer.building.items import build_shards
from indexer.files import VECTORS_FILE
from indexer.filters.policy import FilterPolicy
from indexer.search.opening import open_shards
from indexer.search.search_params import SearchParams

log = logging.getLogger(__name__)


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
