"""How well probabilities of clicks are calibrated: losses by example, and reliability by tenths."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from evaluation.classification import Floats, checked_probabilities

BINS = 10
_SMALLEST = 1e-15


def log_losses(labels: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Return −y ln p − (1 − y) ln(1 − p) of each example, (n,); p is kept 1e-15 from 0 and 1.

    Raises:
        ExamplesError: as `evaluation.classification.log_loss`, of which these are the terms.
    """
    y, p = checked_probabilities(labels, probabilities)
    p = np.clip(p, _SMALLEST, 1 - _SMALLEST)
    return np.asarray(-np.where(y == 1, np.log(p), np.log1p(-p)))


def brier_scores(labels: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Return (p − y)² of each example, (n,).

    Raises:
        ExamplesError: as `log_losses`.

    Source:
        Brier 1950, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78.
    """
    y, p = checked_probabilities(labels, probabilities)
    return np.asarray((p - y) ** 2)


def reliability(
    observed: ArrayLike, probabilities: ArrayLike, bins: int, weights: ArrayLike | None = None
) -> list[dict[str, Any]]:
    """Compare predictions with what was observed in equally large bins: {"mean", "rate", "count"} of each.

    By hand, because `sklearn.calibration.calibration_curve` tells no counts, joins bins of equal predictions
    silently and takes no weights.

    Args:
        observed: (n,) in 0..1: labels, or shares.
        probabilities: (n,).
        bins: so many; fewer examples than bins make a bin each.
        weights: (n,) of the examples; the count is their sum.

    Source:
        Niculescu-Mizil and Caruana 2005, "Predicting good probabilities with supervised learning", ICML.
    """
    y, p = np.asarray(observed, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    w = np.ones(len(p)) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    return [
        {
            "mean": float(np.average(p[part], weights=w[part])),
            "rate": float(np.average(y[part], weights=w[part])),
            "count": float(w[part].sum()),
        }
        for part in np.array_split(order, bins)
        if len(part)
    ]
