"""How people are whom a tower was fitted on: amounts, vectors and best scores, to compare later ones with."""

import numpy as np
import numpy.typing as npt

from encoder.dataset import Dataset
from encoder.drift.reference import DriftReference
from encoder.tower import Tower

_USERS = 2_000  # in the sample
_ITEMS_AT_ONCE = 8_192


def measure_reference(tower: Tower, data: Dataset, seed: int = 0) -> DriftReference | None:
    """Measure a sample of the users who have any view; None where nobody has.

    Args:
        tower: fitted.
        data: that it was fitted on.
        seed: of the sample.
    """
    with_view = (np.diff(data.seen.indptr) > 0) | (data.text_counts > 0) | (np.diff(data.ties.indptr) > 0)
    users = np.flatnonzero(with_view)
    rng = np.random.default_rng(seed)
    users = np.sort(rng.choice(users, min(_USERS, len(users)), replace=False))
    views = tower.views(data, users)
    vectors = tower.vectors(views).astype(np.float32)  # (B, D)
    items = tower.item_vectors(data)  # (N, D)
    known: npt.NDArray[np.bool_] = np.asarray(items.any(axis=1))
    seen = data.seen[users].tocsc()
    best = np.full(len(users), -np.inf, dtype=np.float32)
    for start in range(0, len(items), _ITEMS_AT_ONCE):
        some = slice(start, start + _ITEMS_AT_ONCE)
        scores = vectors @ items[some].T  # (B, n)
        scores[:, ~known[some]] = -np.inf
        scores[seen[:, some].nonzero()] = -np.inf
        best = np.maximum(best, scores.max(axis=1, initial=-np.inf))
    usable = vectors.any(axis=1) & np.isfinite(best)
    if not usable.any():
        return None
    return DriftReference.of(views.amounts[usable], vectors[usable], best[usable])
