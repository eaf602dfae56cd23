"""What every metric of labelled examples asks of its input; each check raises ExamplesError."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class ExamplesError(ValueError):
    """Labels, predictions and weights do not make one table that a metric is defined on."""


def check_binary(labels: ArrayLike) -> Floats:
    """Return labels as float64 after checking that each is 0 or 1."""
    y = check_finite("labels", labels)
    wrong = (y != 0) & (y != 1)
    if wrong.any():
        raise ExamplesError(f"label {y[wrong][0]} of example {int(wrong.argmax())} is neither 0 nor 1")
    return y


def check_finite(name: str, values: ArrayLike) -> Floats:
    """Return values as float64 after checking that all are finite."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ExamplesError(f"{name} hold {array[at]} at {at}")
    return array


def weights_or_ones(weights: ArrayLike | None, n: int) -> Floats:
    """Return the weights (n,) float64, checked, or ones where none are given."""
    w = np.ones(n) if weights is None else check_finite("weights", weights)
    if len(w) != n:
        raise ExamplesError(f"{len(w)} weights for {n} examples")
    if n and (w.min() < 0 or not w.sum() > 0):
        raise ExamplesError(f"weights are {w.min()}..{w.max()}: none may be negative, nor all 0")
    return w


def check_one_table(*columns: NDArray[np.generic]) -> None:
    """Raise unless all columns have the same length."""
    if len({len(column) for column in columns}) != 1:
        raise ExamplesError(
            f"columns of {', '.join(str(len(c)) for c in columns)} examples are not one table"
        )


def check_some(column: NDArray[np.generic]) -> None:
    """Raise where there is no example."""
    if not len(column):
        raise ExamplesError("there are no examples")


def check_probabilities(p: Floats) -> None:
    """Raise unless every value is in [0, 1]."""
    if p.min() < 0 or p.max() > 1:
        raise ExamplesError(f"probabilities are {p.min()}..{p.max()}, not in 0..1")


def check_classes(classes: Ints, n_classes: int) -> None:
    """Raise unless every class is in 0..n_classes−1."""
    if classes.min() < 0 or classes.max() >= n_classes:
        raise ExamplesError(f"classes {classes.min()}..{classes.max()} are not in 0..{n_classes - 1}")


def divide(part: Floats, whole: Floats) -> Floats:
    """Return part / whole, NaN where whole is 0."""
    quotient = np.full(len(whole), np.nan)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient
