"""The rating head of a home beside surprise's models, on the same rows."""

import logging
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.dataset import load_dataset
from encoder.heads.examples import Examples, rating_examples
from encoder.heads.model import FrozenVectors
from encoder.heads.report import predict_examples
from encoder.heads.subjects import asked
from encoder.runtime import Model
from encoder.text import TextCache, TextEncoder
from evaluation.classification import mae, rmse
from store.export import Export
from store.home import Home

log = logging.getLogger(__name__)

RESAMPLES = 1_000
Floats = NDArray[np.float64]
Predict = Callable[[Examples], Floats]


class SurpriseMissingError(LookupError):
    """The library to compare with is not installed."""

    def __init__(self) -> None:
        super().__init__("bench ratings needs scikit-surprise: pip install scikit-surprise")


def check_library() -> None:
    """Check that scikit-surprise is installed.  Raises: SurpriseMissingError."""
    if find_spec("surprise") is None:
        raise SurpriseMissingError


def measure_ratings(
    home: Home, model: Model, factors: tuple[int, ...], epochs: tuple[int, ...]
) -> dict[str, Any]:
    """Measure the rating head of a model and surprise's models on the test ratings.

    Intervals are of the head's mean error less the other's, over ratings, by bootstrap over users.

    Args:
        home: where the text model and the export of the model lie; with held-out rows valid and test.
        model: with a rating head.
        factors: of the matrix factorisation, to choose from.
        epochs: as `factors`.

    Raises:
        NoHeadError: the model has no rating head.
        NoExamplesError: a split has no ratings.
    """
    head = model.head("rating")
    encoder = TextEncoder.load(home.text_models / model.text_model_id)
    with (
        Export.open(home.exports / model.export_id) as export,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        data = load_dataset(export, encoder, cache)
    train, valid, test = (rating_examples(data, split) for split in ("train", "valid", "test"))
    vectors = FrozenVectors.of_model(model, data)
    some = asked(test, data, vectors.of_users, head.actions)
    examples, ours = some.examples, predict_examples(head, some, vectors.items)
    predicted = {"Triptych": ours}
    for name, predict in _peers(train, valid, factors, epochs).items():
        predicted[name] = predict(examples)
    return {
        "model_id": model.model_id,
        "results": [
            {
                "model": name,
                "rmse": rmse(examples.labels, one),
                "mae": mae(examples.labels, one),
                "squared_error_ci95": _less(
                    examples, (ours - examples.labels) ** 2, (one - examples.labels) ** 2
                ),
                "absolute_error_ci95": _less(
                    examples, np.abs(ours - examples.labels), np.abs(one - examples.labels)
                ),
            }
            for name, one in predicted.items()
        ],
    }


def _peers(
    train: Examples, valid: Examples, factors: tuple[int, ...], epochs: tuple[int, ...]
) -> dict[str, Predict]:
    """Fit surprise's models to train, the factorisation with the settings that are best on valid."""
    from surprise import SVD, BaselineOnly, Dataset, KNNBaseline, Reader

    given = float(train.labels.min()), float(train.labels.max())
    triples = [
        (user, item, rating, None)
        for user, item, rating in zip(
            train.users.tolist(), train.items.tolist(), train.labels.tolist(), strict=True
        )
    ]
    rows = Dataset(Reader(rating_scale=given)).construct_trainset(triples)

    def predictor(model: Any) -> Predict:
        model.fit(rows)

        def predict(examples: Examples) -> Floats:
            pairs = zip(examples.users.tolist(), examples.items.tolist(), strict=True)
            return np.array([model.predict(user, item).est for user, item in pairs])

        return predict

    best, chosen, said = np.inf, None, ""
    for number, rounds, regularised in product(factors, epochs, (0.05, 0.08, 0.1)):
        model = SVD(n_factors=number, n_epochs=rounds, lr_all=0.01, reg_all=regularised, random_state=0)
        predict = predictor(model)
        reached = rmse(valid.labels, predict(valid))
        log.info("SVD, %d factors, %d epochs, %g: valid RMSE %.4f", number, rounds, regularised, reached)
        if reached < best:
            best, chosen, said = (
                reached,
                predict,
                f"SVD, {number} factors, {rounds} epochs, reg {regularised:g}",
            )
    similar = {"name": "pearson_baseline", "user_based": False}
    peers = {
        "BaselineOnly": predictor(BaselineOnly(verbose=False)),
        "KNNBaseline, items": predictor(KNNBaseline(k=40, sim_options=similar, verbose=False)),
    }
    return ({said: chosen} if chosen is not None else {}) | peers


def _less(examples: Examples, ours: Floats, theirs: Floats) -> list[float]:
    """Return the 95 % interval of the mean of ours less theirs over examples, by bootstrap over users."""
    users, position = np.unique(examples.users, return_inverse=True)
    sums, counts = np.bincount(position, ours - theirs), np.bincount(position)
    drawn = np.random.default_rng(0).integers(len(users), size=(RESAMPLES, len(users)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return [float(end) for end in np.percentile(means, [2.5, 97.5])]
