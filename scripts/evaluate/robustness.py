"""How recall falls as a view of the ranked users is removed or replaced by noise: `evaluate --robustness`.

A view is made of elements: the events of H, the texts of T, the friends of S. A setting names a view, a share
and a mode, and hits each element of the view with the share as its probability, independently, by seed:

- removed: an element that is hit is left out. A share of 100 % leaves the view absent.
- noise: an event that is hit names an item drawn uniformly from all items, with its action, weight and time
  as before; a text is one drawn uniformly from all texts of other users; a friend is a user drawn uniformly
  from all others, with the same strength of tie.

All settings of a view hit by the same draws: both modes the same elements, a larger share those of a smaller
one and more. Only what the ranked users give the tower changes. The model, the index, the masks, the targets
and every other view stay, so friends' histories in S are whole while H is perturbed.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.arrays import IntArray
from encoder.config import VIEWS
from encoder.dataset import Dataset
from encoder.progress import watched
from encoder.tower import dataset_views
from encoder.views import ViewBatch
from scripts.evaluate.protocol import Evaluator

REMOVED, NOISE = "removed", "noise"
MODES = (REMOVED, NOISE)
SHARES = (0.1, 0.3, 0.5, 1.0)
_K = "20"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """A view, how its elements are changed, and the share that is."""

    view: str
    mode: str
    share: float


def robustness_figures(
    evaluator: Evaluator, views: tuple[str, ...], among: npt.NDArray[np.bool_], seed: int = 0
) -> dict[str, Any]:
    """Return the figures at 20 of every setting, and unchanged, as JSON values.

    Args:
        evaluator: ranks by the protocol of the main figures.
        views: the views that are on; of them, each that the data has is perturbed in turn.
        among: (len(evaluator.users),) bool, the users that the figures are over.
        seed: of the draws.
    """
    tested = [view for view in views if evaluator.present[view]]
    settings = [Setting(view, mode, share) for view in tested for mode in MODES for share in SHARES]
    log.info("robustness: %s settings", len(settings))
    by_view: dict[str, Any] = {view: {mode: {} for mode in MODES} for view in tested}
    for setting in watched(settings, "robustness", "setting"):
        percent = f"{setting.share:.0%}".removesuffix("%")
        batch = perturbed_views(evaluator, views, setting, seed)
        ranked = evaluator.rank_batch(batch, f"{setting.view} {setting.mode} {percent} %")
        by_view[setting.view][setting.mode][percent] = evaluator.metrics(ranked, among)[_K]
    log.info("robustness: done")
    unchanged = evaluator.metrics(evaluator.rank(views), among)[_K]
    return {"seed": seed, "k": int(_K), "unchanged": unchanged, "by_view": by_view}


def perturbed_views(evaluator: Evaluator, views: tuple[str, ...], setting: Setting, seed: int) -> ViewBatch:
    """Return the raw views of the ranked users under a setting, with only some views on."""
    rng = np.random.default_rng([seed, VIEWS.index(setting.view)])
    changed = _CHANGES[setting.view](evaluator.data, setting, rng)
    model = evaluator.pair.model
    events = changed.events(model.config)
    batch = dataset_views(changed, events, model.table, model.widths, evaluator.users)
    return evaluator.views.with_view(setting.view, batch).only(views)


def perturbed(
    elements: IntArray, noise: IntArray, share: float, mode: str, draws: npt.NDArray[np.float64]
) -> IntArray:
    """Return the elements (n,), where the draw (n,) in [0, 1) is below the share −1 or the noise (n,)."""
    return np.where(draws < share, noise if mode == NOISE else -1, elements)


def other_users(owners: IntArray, users: int, rng: np.random.Generator) -> IntArray:
    """Return for each element a user drawn uniformly from all users but its owner (n,)."""
    drawn = rng.integers(users - 1, size=len(owners))
    return drawn + (drawn >= owners)


def others_texts(owners: IntArray, rng: np.random.Generator) -> IntArray:
    """Return for each text one drawn uniformly from the texts of other users (n,), −1 if there is none."""
    order = np.argsort(owners, kind="stable")  # the texts of one user lie side by side
    first, after = (np.searchsorted(owners, owners, side, order) for side in ("left", "right"))
    others = len(owners) - (after - first)
    drawn = rng.integers(np.maximum(others, 1))
    drawn += np.where(drawn >= first, after - first, 0)  # steps over the owner's own
    return np.where(others > 0, order[np.minimum(drawn, len(owners) - 1)], -1)


def _history(data: Dataset, setting: Setting, rng: np.random.Generator) -> Dataset:
    rows = data.history
    draws = rng.random(len(rows.items))
    noise = rng.integers(len(data.items), size=len(rows.items))
    items = perturbed(rows.items, noise, setting.share, setting.mode, draws)
    return replace(data, history=replace(rows, items=items))  # item −1 is no event


def _text(data: Dataset, setting: Setting, rng: np.random.Generator) -> Dataset:
    texts = data.texts
    draws = rng.random(len(texts.users))
    own = np.arange(len(texts.users), dtype=np.int64)
    chosen = perturbed(own, others_texts(texts.users, rng), setting.share, setting.mode, draws)
    kept = chosen >= 0
    return replace(data, texts=replace(texts.where(kept), vectors=texts.vectors[chosen[kept]]))


def _social(data: Dataset, setting: Setting, rng: np.random.Generator) -> Dataset:
    ties = data.ties.tocoo()
    owners, friends = ties.row.astype(np.int64), ties.col.astype(np.int64)
    draws = rng.random(len(friends))
    noise = other_users(owners, len(data.users), rng)
    friends = perturbed(friends, noise, setting.share, setting.mode, draws)
    kept = friends >= 0
    changed = sparse.csr_array((ties.data[kept], (owners[kept], friends[kept])), shape=ties.shape)
    return replace(data, ties=changed)


_CHANGES: dict[str, Callable[[Dataset, Setting, np.random.Generator], Dataset]] = {
    "H": _history,
    "T": _text,
    "S": _social,
}
