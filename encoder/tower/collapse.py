"""Whether a tower tells items apart for the people whom it serves."""

import logging
from dataclasses import dataclass

import numpy as np

from encoder.dataset import Dataset
from encoder.tower.tower import Tower

log = logging.getLogger(__name__)

_USERS = 512  # that are looked at
_ITEMS = 4_096  # that are scored for each
_SAME = 1e-5  # of the greatest score that the lengths allow: what differs less is rounding


@dataclass(frozen=True)
class Collapse:
    """How many people with a view were looked at, and for how many all unseen items score alike."""

    checked: int
    alike: int


def measure_collapse(tower: Tower, data: Dataset, seed: int = 0) -> Collapse:
    """Count for whom a tower tells nothing apart, over a sample of people and items, and log if anybody.

    People without any view are left out, and so is who has seen all of the items but one.

    Args:
        tower: fitted.
        data: what it was fitted on.
        seed: of the sample.
    """
    rng = np.random.default_rng(seed)
    there = (np.diff(data.seen.indptr) > 0) | (data.text_counts > 0) | (np.diff(data.ties.indptr) > 0)
    users = np.flatnonzero(there)
    users = np.sort(rng.choice(users, min(_USERS, len(users)), replace=False))
    views = tower.views(data, users)
    vectors = tower.vectors(views)  # (B, D)
    items = tower.item_vectors(data.item_text_vectors)
    known = np.flatnonzero(items.any(axis=1))
    known = np.sort(rng.choice(known, min(_ITEMS, len(known)), replace=False))
    items = items[known]  # (M, D)
    scores = vectors @ items.T  # (B, M)
    unseen = np.ones(scores.shape, dtype=bool)
    unseen[data.seen[users][:, known].nonzero()] = False
    highest = np.where(unseen, scores, -np.inf).max(axis=1, initial=-np.inf)
    lowest = np.where(unseen, scores, np.inf).min(axis=1, initial=np.inf)
    scale = np.linalg.norm(vectors, axis=1) * np.linalg.norm(items, axis=1).max(initial=0.0)
    judged = views.amounts.any(axis=1) & (unseen.sum(axis=1) > 1)
    alike = judged & ~(highest - lowest > _SAME * scale)
    found = Collapse(int(judged.sum()), int(alike.sum()))
    if found.alike:
        log.warning(
            "%d of %d people looked at get the same score for all that they have not seen: the data says too "
            "little about them; more behaviours, texts or friends would help",
            found.alike,
            found.checked,
        )
    return found
