"""Intervals of a mean over users, by the percentile bootstrap."""

import numpy as np

from evaluation.ranking import Floats

RESAMPLES = 1_000
_DRAWS_AT_ONCE = 2_000_000


class UnpairedError(ValueError):
    """Two arrays do not hold values of the same users."""


def ci95(values: Floats, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean over users; users whose value is NaN do not count.

    1,000 resamples of the users with replacement, 2.5th and 97.5th percentile of their means, in memory that
    does not grow with the number of resamples. Without users both ends are NaN.

    Source:
        Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    counted = values[~np.isnan(values)]
    if not len(counted):
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(counted))
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, at_once):
        stop = min(start + at_once, RESAMPLES)
        drawn = generator.integers(len(counted), size=(stop - start, len(counted)), dtype=np.int32)
        means[start:stop] = counted[drawn].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def paired_ci95(a: Floats, b: Floats, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean of a − b over the same users; a beats b where it lies above 0.

    Raises:
        UnpairedError: the arrays differ in length, or in which users have a value.
    """
    if a.shape != b.shape:
        raise UnpairedError(f"{len(a)} users against {len(b)}")
    apart = np.isnan(a) != np.isnan(b)
    if apart.any():
        raise UnpairedError(f"user {int(apart.argmax())} has a value in one array only")
    return ci95(a - b, seed)
