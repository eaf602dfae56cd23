"""The recall that maximal marginal relevance costs, and the diversity it gains: `evaluate --diversity`."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.dataset import rows_of
from encoder.progress import watched
from evaluation.metrics import intra_list_diversity
from indexer.search import Exclusions
from scripts.evaluate.protocol import KS, Evaluator, IntArray
from server.query import diversified, pool_size

_BATCH = 256

log = logging.getLogger(__name__)


def diversity_figures(
    evaluator: Evaluator, views: tuple[str, ...], among: npt.NDArray[np.bool_], weight: float
) -> dict[str, Any]:
    """Return the figures by score and as reordered with λ = `weight`, as JSON values.

    They are those of every ranking, and the intra-list diversity by item vectors, which the reordering uses,
    and by item texts, which it does not; means over users with two items at least. `gain` is that of the
    reordered ranking over the plain one.

    Args:
        evaluator: ranks by the protocol of the main figures.
        views: the views that are on.
        among: (len(evaluator.users),) bool, the users that the figures are over.
        weight: λ, 0 to 1.
    """
    log.info("diversity: lambda %g", weight)
    plain, other = evaluator.rank(views), _reordered(evaluator, views, weight)
    log.info("diversity: done")
    return {
        "lambda": weight,
        "plain": _figures(evaluator, plain, among),
        "diversified": _figures(evaluator, other, among),
        "gain": evaluator.gain(other, plain, among),
    }


def _reordered(evaluator: Evaluator, views: tuple[str, ...], weight: float) -> IntArray:
    """Return item rows (len(users), 20): each list is reordered as in serving, from as many candidates."""
    model, index, k = evaluator.pair.model, evaluator.pair.index, max(KS)
    item_rows = rows_of(index.ids, evaluator.data.items)
    index_row = index.rows(evaluator.data.items.to_pylist())
    batch = evaluator.views.only(views)
    ranked = np.full((len(batch), k), -1, dtype=np.int64)
    search = index.brute_force if evaluator.exact else index.search
    for start in watched(range(0, len(batch), _BATCH), "diversity", "block", leave=False):
        chosen = np.arange(start, min(start + _BATCH, len(batch)))
        encoded = model.encode_users(batch.rows(chosen))
        masked = evaluator.masked[evaluator.users[chosen]].tocoo()
        rows = index_row[masked.col]
        excluded = Exclusions(masked.row.astype(np.int64)[rows >= 0], rows[rows >= 0])
        found, scores = search(encoded.vectors, pool_size(k), excluded)
        for place, user in enumerate(chosen.tolist()):
            candidates = found[place] >= 0
            pool, values = found[place][candidates], scores[place][candidates]
            kept = pool[diversified(values, index.vectors_of(pool), k, weight)]
            ranked[user, : len(kept)] = item_rows[kept]
        without_view = chosen[~encoded.used.any(axis=1)]
        if len(without_view):
            ranked[without_view] = evaluator.rank_popular(evaluator.users[without_view])
    return ranked


def _figures(evaluator: Evaluator, ranked: IntArray, among: npt.NDArray[np.bool_]) -> dict[str, Any]:
    data, index = evaluator.data, evaluator.pair.index
    rows = index.rows(data.items.to_pylist())
    vectors = np.zeros((len(rows), index.dim), dtype=np.float32)
    vectors[rows >= 0] = index.vectors_of(rows[rows >= 0])
    figures: dict[str, Any] = dict(evaluator.metrics(ranked, among))
    for k in KS:
        by = {"intra_list_diversity": vectors, "intra_list_diversity_texts": data.item_text_vectors}
        for name, space in by.items():
            values = intra_list_diversity(ranked[among], space, k)
            counted = values[~np.isnan(values)]
            measured = len(counted) and space.any()
            figures[str(k)] |= {name: float(counted.mean()) if measured else None}
    return figures
