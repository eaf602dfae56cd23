"""How a tower ranks held-out rows, from each view and from all: the figures that a model keeps of itself."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.arrays import IntArray
from encoder.config import VIEWS
from encoder.dataset import Dataset
from encoder.products import in_threads
from encoder.tower.select import HeldOutScorer
from encoder.tower.tower import Tower
from encoder.views import FloatArray, Matrix
from evaluation.bootstrap import ci95
from evaluation.metrics import mean_over_users, ndcg, recall
from evaluation.ranking import top_k

SUBSETS = ("H", "T", "S", "TS", "HTS")
_K = 20
_BATCH = 256

log = logging.getLogger(__name__)


def held_out_figures(tower: Tower, data: Dataset, split: str, rows: str) -> dict[str, Any]:
    """Return recall and NDCG at 20 with 95 % intervals, from each of SUBSETS, as JSON values.

    Full ranking over all items by the float64 tower, over the users whom settings are chosen on. A subset is
    left out where the data has none of its views; a person who has none of them is ranked by popularity, as
    in serving.

    Args:
        tower: as it was chosen.
        data: whose held-out rows are ranked.
        split: their name.
        rows: what they are called in the figures.
    """
    scorer = HeldOutScorer(data, split)
    views, items = scorer.views(tower), tower.id_vectors
    popularity = np.asarray(data.seen.sum(axis=0), dtype=np.float32)
    there = dict(zip(VIEWS, np.any(views.present, axis=0).tolist(), strict=True))

    def figures(subset: str) -> dict[str, Any]:
        some = views.only(tuple(subset))
        known = np.asarray(some.present.any(axis=1))
        scores = _Scores(tower.vectors(some).astype(np.float32), items, known, popularity)
        starts = range(0, len(some), _BATCH)
        ranked = np.concatenate(list(in_threads(lambda start: scores.rank(start, scorer.seen), starts)))
        return _means(ranked, scorer)

    by_view = {subset: figures(subset) for subset in SUBSETS if any(there[view] for view in subset)}
    if whole := by_view.get("HTS"):
        reached = (whole["recall"], whole["ndcg"], len(views))
        log.info("on %s: recall@20 %.4f, NDCG@20 %.4f, %d users", rows, *reached)
    return {"rows": rows, "users": len(views), "by_view": by_view}


@dataclass(frozen=True)
class _Scores:
    """What users (n, D) are ranked by: items (N, D), or popularity (N,) where they are not known (n,)."""

    vectors: FloatArray
    items: FloatArray
    known: npt.NDArray[np.bool_]
    popularity: FloatArray

    def rank(self, start: int, seen: Matrix) -> IntArray:
        """Return the rows of the best 20 unseen items of a batch of users."""
        some = slice(start, start + _BATCH)
        scores = self.vectors[some] @ self.items.T
        scores[~self.known[some]] = self.popularity
        return top_k(scores, seen[some], _K)


def _means(ranked: IntArray, scorer: HeldOutScorer) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, metric in (("recall", recall), ("ndcg", ndcg)):
        values = metric(ranked, scorer.relevant, _K)
        figures[name] = float(mean_over_users(values))
        figures[f"{name}_ci95"] = list(ci95(values, seed=0))
    return figures
