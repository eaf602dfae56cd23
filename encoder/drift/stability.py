"""Whether a number is distributed as it was; plain Python, for processes that load nothing else.

Two distributions over the same bins are compared by the population stability index

    PSI = Σ_b (a_b − e_b) ln(a_b / e_b)

with a share of at least 1e-4 in each bin. Below 0.1 is taken for no drift, above 0.25 for a great one.

Source: Siddiqi 2006, Credit Risk Scorecards, section 6 (system stability report).
"""

from collections.abc import Sequence
from math import log

BINS = 10  # at most
AXES = 2
QUANTITIES = (  # of a person, which `DriftReference` makes
    "amount_H",
    "amount_T",
    "amount_S",
    "vector_length",
    *(f"vector_axis_{number + 1}" for number in range(AXES)),
    "best_score",
)
_LEAST_SHARE = 1e-4


def stability_index(actual: Sequence[float], expected: Sequence[float]) -> float:
    """Return the population stability index of weights in bins, which need not sum to 1, against others."""
    shares = [[max(one / sum(side), _LEAST_SHARE) for one in side] for side in (actual, expected)]
    return float(sum((a - e) * log(a / e) for a, e in zip(*shares, strict=True)))
