"""Statistics of heads and of their baselines: scaling, item means, calibration; numpy only."""

from dataclasses import dataclass

import numpy as np

from encoder.heads.examples import Examples, Floats
from encoder.views import FloatArray


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


def fit_logistic(scores: Floats, labels: Floats) -> tuple[float, float]:
    """Fit slope a and intercept b that maximise the likelihood of σ(a score + b), by Newton's method.

    A ridge of 1e-4 on a, on standardised scores, keeps it finite where the labels are separable.

    Source:
        Platt 1999, "Probabilistic outputs for support vector machines", equations 2 and 3.
    """
    centre, scale = float(scores.mean()), float(scores.std()) or 1.0
    x = np.stack([(scores - centre) / scale, np.ones(len(scores))], axis=1)  # (n, 2)
    ridge = np.array([1e-4, 0.0])
    base = float(np.clip(labels.mean(), 1e-6, 1 - 1e-6))
    theta = np.array([0.0, np.log(base / (1 - base))])
    for _ in range(50):
        p = sigmoid(x @ theta)
        gradient = x.T @ (p - labels) / len(x) + ridge * theta
        curvature = (x * (p * (1 - p))[:, None]).T @ x / len(x) + np.diag(ridge) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        theta = theta - step / max(1.0, float(np.abs(step).max()))  # far steps overshoot
        if np.abs(step).max() < 1e-9:
            break
    return float(theta[0] / scale), float(theta[1] - theta[0] * centre / scale)


def fit_line(scores: Floats, labels: Floats) -> tuple[float, float]:
    """Fit slope and intercept by least squares; slope 0 where the scores do not vary."""
    centred = scores - scores.mean()
    spread = float(centred @ centred)
    slope = float(centred @ (labels - labels.mean())) / spread if spread > 0 else 0.0
    return slope, float(labels.mean() - slope * scores.mean())


def sigmoid(x: Floats) -> Floats:
    """Return 1 / (1 + e^−x)."""
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def logit(p: Floats) -> Floats:
    """Return ln(p / (1 − p)), the inverse of `sigmoid`."""
    return np.asarray(np.log(p) - np.log1p(-p))
