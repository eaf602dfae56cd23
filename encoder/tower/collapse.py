"""Collapse of a tower: users for whom it gives all unseen items the same score."""

import logging
from dataclasses import dataclass

import numpy as np

from encoder.dataset import Dataset
from encoder.tower.tower import Tower

log = logging.getLogger(__name__)

_USERS = 512  # in the sample
_ITEMS = 4_096  # scored for each user
_SAME = 1e-5  # of the greatest score that the lengths allow: a smaller difference is rounding


@dataclass(frozen=True)
class Collapse:
    """Numbers of users: those checked, and those of them for whom all unseen items score alike."""

    checked: int
    alike: int


def measure_collapse(tower: Tower, data: Dataset, seed: int = 0) -> Collapse:
    """Count the users to whom a tower gives equal scores only, in a sample of users and items; warn if any.

    Users without any view are not counted, nor those who have seen all of the items but one.

    Args:
        tower: fitted.
        data: that it was fitted on.
        seed: of the sample.
    """
    rng = np.random.default_rng(seed)
    with_view = (np.diff(data.seen.indptr) > 0) | (data.text_counts > 0) | (np.diff(data.ties.indptr) > 0)
    users = np.flatnonzero(with_view)
    users = np.sort(rng.choice(users, min(_USERS, len(users)), replace=False))
    views = tower.views(data, users)
    vectors = tower.vectors(views)  # (B, D)
    items = tower.item_vectors(data)
    known = np.flatnonzero(items.any(axis=1))
    known = np.sort(rng.choice(known, min(_ITEMS, len(known)), replace=False))
    items = items[known]  # (M, D)
    scores = vectors @ items.T  # (B, M)
    unseen = np.ones(scores.shape, dtype=bool)
    unseen[data.seen[users][:, known].nonzero()] = False
    highest = np.where(unseen, scores, -np.inf).max(axis=1, initial=-np.inf)
    lowest = np.where(unseen, scores, np.inf).min(axis=1, initial=np.inf)
    scale = np.linalg.norm(vectors, axis=1) * np.linalg.norm(items, axis=1).max(initial=0.0)
    counted = views.amounts.any(axis=1) & (unseen.sum(axis=1) > 1)
    alike = counted & ~(highest - lowest > _SAME * scale)
    collapse = Collapse(int(counted.sum()), int(alike.sum()))
    if collapse.alike:
        log.warning(
            "%d of %d people looked at get the same score for all that they have not seen: the data says too "
            "little about them; more behaviours, texts or friends would help",
            collapse.alike,
            collapse.checked,
        )
    return collapse
