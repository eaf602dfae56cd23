"""The baselines of `evaluate --baselines`: fitted on the same train rows, ranked by the same protocol."""

import logging
from typing import Any

import numpy as np
from scipy import sparse

from encoder.dataset import Dataset
from encoder.views import Matrix
from evaluation.baselines import Ease, Popularity, TooManyItemsError, choose_ease
from evaluation.ranking import top_k
from evaluation.split import VALID, mark
from scripts.evaluating import KS, Evaluator, IntArray

log = logging.getLogger(__name__)

_BATCH = 1_024


def baseline_figures(
    evaluator: Evaluator, fitted_on: Dataset, among: "np.ndarray[Any, np.dtype[np.bool_]]"
) -> dict[str, dict[str, Any]]:
    """Return the figures of popularity and EASE over some users, or why there are none, by name.

    Args:
        evaluator: ranks by the protocol of the model beside them.
        fitted_on: the data without the users whom the model's training did not see either.
        among: (len(evaluator.users),) bool.
    """
    train = fitted_on.seen
    figures: dict[str, dict[str, Any]] = {
        "popularity": evaluator.metrics(_rank(Popularity.fit(train), evaluator), among)
    }
    try:
        lam, model = _ease(fitted_on)
        figures["EASE"] = {"lambda": lam} | evaluator.metrics(_rank(model, evaluator), among)
    except TooManyItemsError as error:
        log.warning("EASE is left out: %s", error)
        figures["EASE"] = {"left_out": str(error)}
    return figures


def _ease(data: Dataset) -> tuple[float, Ease]:
    """Return EASE with the λ that is best on valid; without valid, on a tenth of train, then refitted."""
    if "valid" in data.held_out:
        return choose_ease(data.seen, data.relevant("valid"), data.seen)
    rows = data.history
    inner = mark("random", rows.users, rows.items, rows.ts, valid=0.1, test=0.0, seed=0)
    held = _pairs(data, inner == VALID)
    kept = _pairs(data, inner != VALID)
    lam, _ = choose_ease(kept, held, kept)
    return lam, Ease.fit(data.seen, lam)


def _pairs(data: Dataset, rows: "np.ndarray[Any, np.dtype[np.bool_]]") -> Matrix:
    chosen = data.history.where(rows)
    pairs = sparse.csr_array(
        (np.ones(len(chosen.users), dtype=np.float32), (chosen.users, chosen.items)), shape=data.shape
    )
    pairs.sum_duplicates()
    pairs.data[:] = 1.0
    return pairs


def _rank(model: Popularity | Ease, evaluator: Evaluator) -> IntArray:
    users, data = evaluator.users, evaluator.data
    ranked = [
        top_k(
            np.ascontiguousarray(model.scores(data.seen[users[i : i + _BATCH]])),
            evaluator.masked[users[i : i + _BATCH]],
            max(KS),
        )
        for i in range(0, len(users), _BATCH)
    ]
    return np.concatenate(ranked)
