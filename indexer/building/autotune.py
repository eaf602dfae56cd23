"""Autotuning: the index kind, search parameters and filter policy that reach an ANN recall, all measured."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from encoder.jobs import IN_PROCESS, Jobs
from indexer.building.efforts import TunedParams, min_probes, recall_of
from indexer.building.factory import Choice, cagra_degree
from indexer.building.filter_tuning import filter_policy
from indexer.building.ground_truth import SHORT_K, TUNED_K, GroundTruths, exact_scores, ground_truths
from indexer.building.shards import build_shards
from indexer.files import VECTORS_FILE, FloatArray, map_vectors
from indexer.search import EXACT, AnnIndex, FilterPolicy, SearchParams, open_shards

log = logging.getLogger(__name__)

REFINES = (1, 2, 4, 8, 16)
LEASTS = (1, 3, 10)  # times the candidates that a short list is refined from anyway


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
    enough = (params for params in tried if recall_of(index, truths[1], params, None) >= target)
    return replace(best, search_params=next(enough, tried[-1]))


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
    folder: Path,
    queries: FloatArray,
    choice: Choice,
    target: float,
    *,
    float16: bool = False,
    jobs: Jobs = IN_PROCESS,
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
        jobs: who writes the FAISS files and finds the ground truth; searches are timed in this process.

    Raises:
        FactoryError: FAISS does not understand a factory.
    """
    vectors = map_vectors(folder / VECTORS_FILE)
    exact: FloatArray | None = None
    for factory in (choice.factory, *choice.fallbacks):
        if factory == EXACT or not len(vectors):
            break
        files = build_shards(folder, factory, jobs)
        # A graph is tuned on the CPU: a card looks at as many candidates from more starting points.
        cpu = cagra_degree(factory) is not None
        index = open_shards([folder / name for name in files], SearchParams(), cpu=cpu, float16=float16)
        exact = exact_scores(folder, queries, jobs) if exact is None else exact
        tuned = tune(index, _truths(vectors, queries, exact, 0), target)
        reached = tuned and min_probes(
            index, _truths(vectors, queries, exact, 1), target, tuned.search_params
        )
        if reached:
            policy = filter_policy(vectors, index, queries, reached.search_params, target)
            return FittedIndex(factory, files, reached.search_params, reached.recall, policy)
        log.warning(
            "%s does not reach ANN recall@%d %.4f: going on with a finer kind", factory, TUNED_K, target
        )
    policy = filter_policy(vectors, None, queries, SearchParams(), target)
    return FittedIndex(EXACT, {}, SearchParams(), 1.0, policy)


def _truths(vectors: FloatArray, queries: FloatArray, exact: FloatArray | None, first: int) -> GroundTruths:
    """Return the ground truth of every other query from a first one on, with scores that may be known."""
    return ground_truths(vectors, queries[first::2], scores=None if exact is None else exact[first::2])
