"""The baselines of `evaluate --baselines`: fitted on the same train rows, ranked by the same protocol."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse

from encoder.dataset import Dataset
from encoder.progress import watched
from encoder.views import FloatArray, Matrix
from evaluation.baselines import (
    Bpr,
    Ease,
    Ials,
    ItemKnn,
    LibraryMissingError,
    Popularity,
    Scorer,
    Side,
    SideEase,
    TooManyItemsError,
    TooMuchWorkError,
    choose_als,
    choose_bpr,
    choose_ease,
    choose_knn,
    choose_side_ease,
)
from evaluation.ranking import top_k
from evaluation.split import VALID, mark
from scripts.evaluate.protocol import KS, Evaluator, IntArray

log = logging.getLogger(__name__)

_BATCH = 1_024


def baseline_figures(
    evaluator: Evaluator, fitted_on: Dataset, main: IntArray, among: "np.ndarray[Any, np.dtype[np.bool_]]"
) -> dict[str, dict[str, Any]]:
    """Return the figures of each baseline over some users, or the reason why it is left out, by name.

    Args:
        evaluator: ranks by the protocol of the model beside them.
        fitted_on: the data without the users whom the model's training did not see either.
        main: (len(evaluator.users), 20) the ranking whose gain over each baseline is "gain".
        among: (len(evaluator.users),) bool.
    """

    def figures_of(ranked: IntArray) -> dict[str, Any]:
        return evaluator.metrics(ranked, among) | {"gain": evaluator.gain(main, ranked, among)}

    popularity = Popularity.fit(fitted_on.seen)
    figures: dict[str, dict[str, Any]] = {"popularity": figures_of(_rank(popularity, evaluator))}
    choosing_data = _choosing_data(fitted_on)
    for name, choose, fit in watched(_peers(fitted_on), "baselines", "model"):
        try:
            setting, model = choose(*choosing_data)
            if "valid" not in fitted_on.held_out:  # chosen on a part of train, so fitted again on all of it
                model = fit(fitted_on.seen, setting)
        except (LibraryMissingError, TooManyItemsError, TooMuchWorkError) as error:
            log.warning("%s is left out: %s", name, error)
            figures[name] = {"left_out": str(error)}
            continue
        chosen = {"lambda": setting} if isinstance(setting, float) else asdict(setting)
        figures[name] = chosen | figures_of(_rank(model, evaluator))
    return figures


def _peers(data: Dataset) -> list[tuple[str, Callable[..., tuple[Any, Scorer]], Callable[..., Scorer]]]:
    """Return the name of each baseline with settings, the function that chooses them and its `fit`."""
    side = Side(data.item_text_vectors, data.text, data.ties)
    return [
        ("ItemKNN", choose_knn, ItemKnn.fit),
        ("iALS", choose_als, Ials.fit),
        ("BPR", choose_bpr, Bpr.fit),
        ("EASE", choose_ease, Ease.fit),
        ("EASE + T + S", partial(choose_side_ease, side=side), partial(SideEase.fit, side=side)),
    ]


def _choosing_data(data: Dataset) -> tuple[Matrix, Matrix, Matrix]:
    """Return train, targets and items not to rank, to choose settings by: of valid, or a tenth of train."""
    if "valid" in data.held_out:
        return data.seen, data.relevant("valid"), data.seen
    rows = data.history
    inner = mark("random", rows.users, rows.items, rows.ts, valid=0.1, test=0.0, seed=0)
    kept = _pairs(data, inner != VALID)
    return kept, _pairs(data, inner == VALID), kept


def _pairs(data: Dataset, rows: "np.ndarray[Any, np.dtype[np.bool_]]") -> Matrix:
    chosen = data.history.where(rows)
    pairs = sparse.csr_array(
        (np.ones(len(chosen.users), dtype=np.float32), (chosen.users, chosen.items)), shape=data.shape
    )
    pairs.sum_duplicates()
    pairs.data[:] = 1.0
    return pairs


def _rank(model: Scorer, evaluator: Evaluator) -> IntArray:
    """Return the item rows (len(users), 20) that a baseline ranks first, −1 where there are fewer."""
    users, data = evaluator.users, evaluator.data
    side = Side(data.item_text_vectors, data.text, data.ties)
    circle = side.circle(data.seen) if isinstance(model, SideEase) else None

    def scores(rows: IntArray) -> FloatArray:
        if isinstance(model, SideEase) and circle is not None:
            return model.scores(data.seen[rows], circle=circle[rows], text=data.text[rows])
        return np.ascontiguousarray(model.scores(data.seen[rows], rows))

    blocks = [users[start : start + _BATCH] for start in range(0, len(users), _BATCH)]
    return np.concatenate([top_k(scores(rows), evaluator.masked[rows], max(KS)) for rows in blocks])
