"""Statistics of heads and of their baselines: scaling, item means, calibration."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, logsumexp

from encoder.arrays import IntArray
from encoder.heads.examples import Examples, Floats
from encoder.views import FloatArray
from evaluation.calibration import log_losses

_ROUNDS = 10
_BINS = (5, 10, 20)
_LEAST_FOR_HINGES = 200  # examples of either label


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of each feature (D,) over the rows that train names, float64.

    A feature that does not vary there has deviation 1.
    """

    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, vectors: FloatArray) -> "Scaling":
        """Compute the statistics of vectors (n, D)."""
        mean = vectors.mean(axis=0, dtype=np.float64)
        deviation = vectors.std(axis=0, dtype=np.float64)
        varies = deviation > 1e-6 * max(float(deviation.max(initial=0.0)), 1e-30)
        return cls(mean, np.where(varies, deviation, 1.0))

    def apply(self, vectors: FloatArray) -> FloatArray:
        """Standardise vectors: (n, D) float32."""
        return np.asarray((vectors - self.mean) / self.deviation, dtype=np.float32)


def item_means(examples: Examples, n_items: int, shrinkage: float) -> tuple[float, Floats]:
    """Compute the mean label μ and each item's mean (N,), shrunk: μ + Σ (label − μ) / (count + shrinkage).

    Source:
        Koren 2010, "Factor in the neighbors", TKDD 4(1), section 2.1: baseline estimates.
    """
    mean = float(examples.labels.mean())
    residual = np.bincount(examples.items, weights=examples.labels - mean, minlength=n_items)
    counts = np.bincount(examples.items, minlength=n_items)
    return mean, mean + residual / (counts + shrinkage)


def rating_biases(examples: Examples, n_items: int, shrinkage: float) -> Floats:
    """Compute how far an item is rated above what its raters give on average, (N,), shrunk.

    Biases of users and items are computed by turns, each Σ (what the others leave) / (count + shrinkage).

    Source:
        Koren 2010, as `item_means`.
    """
    users, position = np.unique(examples.users, return_inverse=True)
    residual = examples.labels - examples.labels.mean()
    counts = np.bincount(position), np.bincount(examples.items, minlength=n_items)
    of_user, of_item = np.zeros(len(users)), np.zeros(n_items)
    for _ in range(_ROUNDS):
        left = np.bincount(examples.items, residual - of_user[position], minlength=n_items)
        of_item = left / (counts[1] + shrinkage)
        of_user = np.bincount(position, residual - of_item[examples.items]) / (counts[0] + shrinkage)
    return of_item


def platt_line(scores: Floats, labels: Floats) -> tuple[float, float]:
    """Fit slope a and intercept b that maximise the likelihood of σ(a score + b), by scikit-learn.

    A slight ridge on a, of the standardised scores, keeps it finite where the labels are separable.

    Source:
        Platt 1999, "Probabilistic outputs for support vector machines", equations 2 and 3.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  only where a head is fitted or measured

    centre, scale = float(scores.mean()), float(scores.std()) or 1.0
    if labels.min() == labels.max():  # nothing to tell apart: one label in (n + 2) is of the other kind
        return 0.0, float(logit((labels.sum() + 1) / (len(labels) + 2)))
    model = LogisticRegression(C=1e4 / len(labels), max_iter=1_000, tol=1e-9)
    model.fit(((scores - centre) / scale)[:, None], labels)
    slope = float(model.coef_[0, 0]) / scale
    return slope, float(model.intercept_[0]) - slope * centre


@dataclass(frozen=True)
class Hinges:
    """A bent line on top of log-odds z: z + Σ weights_k max(z − knots_k, 0); it never falls.

    Shapes:
        knots, weights: (m,) float64; none leave z as it is.
    """

    knots: Floats
    weights: Floats

    def apply(self, z: Floats) -> Floats:
        """Bend log-odds (n,)."""
        return np.asarray(z + np.maximum(z[:, None] - self.knots, 0.0) @ self.weights)


def bent_line(scores: Floats, labels: Floats) -> tuple[float, float, Hinges]:
    """Fit slope, intercept and hinges, so that σ(hinges(slope score + intercept)) fits labels.

    It is `platt_line` without hinges unless a bent one has less log loss in five-fold cross-validation; of
    several numbers of bins the best counts.

    Source:
        Zadrozny and Elkan 2002, "Transforming classifier scores into accurate multiclass probability
        estimates", KDD: isotonic regression; here of bins, and joined by lines.
    """
    from sklearn.model_selection import StratifiedKFold  # noqa: PLC0415

    slope, intercept = platt_line(scores, labels)
    straight = slope, intercept, Hinges(np.zeros(0), np.zeros(0))
    if min(labels.sum(), len(labels) - labels.sum()) < _LEAST_FOR_HINGES or slope <= 0:
        return straight
    z = slope * scores + intercept
    losses = dict.fromkeys((0, *_BINS), 0.0)
    for rest, judged in StratifiedKFold(5, shuffle=True, random_state=0).split(z, labels):
        for bins in losses:
            offset, hinges = _bent(z[rest], labels[rest], bins)
            p = expit(hinges.apply(z[judged] + offset))
            losses[bins] += float(log_losses(labels[judged], p).sum())
    best = min(losses, key=lambda bins: losses[bins])
    offset, hinges = _bent(z, labels, best)
    return slope, intercept + offset, hinges


def _bent(z: Floats, labels: Floats, bins: int) -> tuple[float, Hinges]:
    """Return what is added to log-odds z (n,), and hinges after it, through the means of equally large bins.

    Below the first bin and behind the last the slope is 1, between them never negative.
    """
    from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415

    if not bins:
        return 0.0, Hinges(np.zeros(0), np.zeros(0))
    parts = np.array_split(np.argsort(z, kind="stable"), bins)
    at = np.array([z[part].mean() for part in parts])
    of_z = np.array([expit(z[part]).mean() for part in parts])
    seen = np.array([labels[part].sum() for part in parts])
    sizes = np.array([len(part) for part in parts])
    rates = (seen + of_z) / (sizes + 1)  # as if one example more were as predicted
    rates = IsotonicRegression().fit_transform(np.arange(bins), rates, sample_weight=sizes)
    wanted = at + logit(rates) - logit(of_z)
    keep = np.append(True, np.diff(at) > 1e-6)
    at, wanted = at[keep], np.maximum.accumulate(wanted[keep])
    slopes = np.concatenate([[1.0], np.diff(wanted) / np.diff(at), [1.0]])
    offset = float(wanted[0] - at[0])
    return offset, Hinges(at + offset, np.diff(slopes))


def fit_line(scores: Floats, labels: Floats) -> tuple[float, float]:
    """Fit slope and intercept by least squares, by scikit-learn; slope 0 where the scores do not vary."""
    from sklearn.linear_model import LinearRegression  # noqa: PLC0415

    model = LinearRegression().fit(scores[:, None], labels)
    return float(model.coef_[0]), float(model.intercept_)


def fit_temperature(logits: Floats, classes: IntArray, weights: Floats) -> float:
    """Fit the factor of logits (n, C) that minimises the weighted cross-entropy of classes (n,), in 0.05..20.

    Source:
        Guo et al. 2017, "On calibration of modern neural networks", ICML, section 4.2 (its inverse).
    """

    def loss(log_factor: float) -> float:
        scaled = np.exp(log_factor) * logits
        own = scaled[np.arange(len(classes)), classes]
        return float(weights @ (logsumexp(scaled, axis=1) - own))

    found = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded")
    return float(np.exp(found.x))
