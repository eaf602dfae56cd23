"""Choice of the settings of the closed form on held-out rows, never on test."""

import logging
from dataclasses import dataclass, replace
from itertools import product
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from encoder.config import TowerConfig, Weighting
from encoder.dataset import Dataset
from encoder.tower.closed_form import fit_closed_form
from encoder.tower.spectral import spectrum
from encoder.tower.tower import Tower, dataset_views
from encoder.views import Matrix, count_newer, history_view
from evaluation.metrics import mean_over_users, ndcg
from evaluation.ranking import top_k

log = logging.getLogger(__name__)

DIMS = (64, 128, 256, 512)
DAMPINGS = (0.0, 0.1, 0.3, 1.0)
USER_EXPONENTS = (0.5, 0.3)
ITEM_EXPONENTS = (0.4, 0.3)  # tried with the best of the rest, found at 0.5
WEIGHTINGS: tuple[Weighting, ...] = ("log", "binary")
GATES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
RIDGES = (1.0, 10.0)
HALF_LIVES = (2.0, 5.0, 10.0, 20.0, 50.0)
MAX_USERS = 5_000
_BATCH = 1_000


@dataclass(frozen=True)
class Trial:
    """One setting and the NDCG@20 that it reached."""

    config: TowerConfig
    ndcg: float


class HeldOutScorer:
    """Scores towers by NDCG@20 on one held-out split, over at most `most` users, drawn by seed."""

    def __init__(self, data: Dataset, split: str, seed: int = 0, most: int = MAX_USERS) -> None:
        self._data = data
        relevant = data.relevant(split)
        users = np.flatnonzero(np.diff(relevant.indptr))
        if len(users) > most:
            users = np.sort(np.random.default_rng(seed).choice(users, most, replace=False))
        self._users: npt.NDArray[np.int64] = users.astype(np.int64)
        self.relevant: Matrix = relevant[self._users]
        self.seen: Matrix = data.seen[self._users]

    @property
    def users(self) -> npt.NDArray[np.int64]:
        """(n,) rows of the users that are scored."""
        return self._users

    def score(self, vectors: npt.NDArray[np.floating], items: npt.NDArray[np.float32]) -> float:
        """Return the mean NDCG@20 of user vectors (n, D) by full ranking over items (N, D)."""
        ranked = [
            top_k(vectors[i : i + _BATCH].astype(np.float32) @ items.T, self.seen[i : i + _BATCH], 20)
            for i in range(0, len(vectors), _BATCH)
        ]
        return float(mean_over_users(ndcg(np.concatenate(ranked), self.relevant, 20)))

    def score_tower(self, tower: Tower) -> float:
        """Return the mean NDCG@20 of a tower on all views of the users."""
        views = tower.views(self._data, self._users)
        return self.score(tower.vectors(views), tower.item_vectors(self._data.item_text_vectors))


def choose_config(data: Dataset, split: str, base: TowerConfig, dims: tuple[int, ...] = DIMS) -> list[Trial]:
    """Try settings and return each with its NDCG@20 on `split`, the chosen one last.

    First the history table alone (weighting, exponents, dim, damping). Then λ and the gates of T and S, with
    the best table of each damping: what is best alone need not be best together. Gates stay above 0 where the
    data has the view, because it serves users without a history. Last, whether older events count less.
    """
    scorer = HeldOutScorer(data, split)
    trials = sorted(_history_trials(data, scorer, base, dims), key=_ndcg)
    log.info("history table: %s, NDCG@20 %.4f on %s", _describe(trials[-1].config), trials[-1].ndcg, split)
    if data.text.any() or data.ties.nnz:
        best = {trial.config.damping: trial.config for trial in trials}  # the last, so the best, of each
        with tqdm(total=len(best) * len(RIDGES), desc="alignment", unit="λ", disable=None) as bar:
            fused = [trial for config in best.values() for trial in _fusion_trials(data, scorer, config, bar)]
        trials += sorted(fused, key=_ndcg)
        chosen = trials[-1]
        log.info("with T and S: %s, NDCG@20 %.4f on %s", _describe(chosen.config), chosen.ndcg, split)
    chosen = trials[-1]
    for half_life in half_lives(data):
        config = replace(chosen.config, half_life=half_life)
        trials.append(Trial(config, scorer.score_tower(fit_closed_form(data, config))))
    best_life = max(trials[trials.index(chosen) :], key=_ndcg)
    trials.remove(best_life)
    return [*trials, best_life]


def half_lives(data: Dataset) -> tuple[float, ...]:
    """Return the half-lives to choose from beside 0; none where no user has two times."""
    return HALF_LIVES if count_newer(data.history.users, data.history.ts).any() else ()


def _ndcg(trial: Trial) -> float:
    return trial.ndcg


def _history_trials(
    data: Dataset, scorer: HeldOutScorer, base: TowerConfig, dims: tuple[int, ...]
) -> list[Trial]:
    weightings = WEIGHTINGS if len(np.unique(data.events(base).data)) > 1 else WEIGHTINGS[:1]  # all the same
    tables = [
        replace(base, weighting=weighting, user_exponent=exponent)
        for weighting, exponent in product(weightings, USER_EXPONENTS)
    ]
    total = (len(tables) + len(ITEM_EXPONENTS)) * len(dims) * len(DAMPINGS)
    with tqdm(total=total, desc="history table", unit="setting", disable=None) as bar:
        trials = [trial for config in tables for trial in _table_trials(data, scorer, config, dims, bar)]
        best = max(trials, key=_ndcg).config
        for exponent in ITEM_EXPONENTS:
            trials += _table_trials(data, scorer, replace(best, item_exponent=exponent), dims, bar)
    return trials


def _table_trials(
    data: Dataset, scorer: HeldOutScorer, config: TowerConfig, dims: tuple[int, ...], bar: "tqdm[NoReturn]"
) -> list[Trial]:
    """Try one decomposition with every dim and every damping that ranks unseen items."""
    events = data.events(config)
    svd = spectrum(events, max(dims), config.user_exponent, config.item_exponent)
    trials = []
    for dim, damping in product(sorted({min(dim, len(svd.singular)) for dim in dims}), DAMPINGS):
        if svd.ranks_unseen(dim, damping):
            vectors = history_view(events[scorer.users], svd.table(dim, damping))
            reached = scorer.score(vectors, svd.items(dim))
            trials.append(Trial(replace(config, dim=dim, damping=damping), reached))
    bar.update(len(dims) * len(DAMPINGS))
    return trials


def _fusion_trials(
    data: Dataset, scorer: HeldOutScorer, best: TowerConfig, bar: "tqdm[NoReturn]"
) -> list[Trial]:
    events = data.events(best)
    svd = spectrum(events, best.dim, best.user_exponent, best.item_exponent)
    text_gates = GATES if data.text.any() else (0.0,)
    social_gates = GATES if data.ties.nnz else (0.0,)
    learned = [(1.0, text, social) for text, social in product(text_gates, social_gates)]
    trials = []
    for ridge in RIDGES:
        tower = fit_closed_form(data, replace(best, ridge=ridge), events, svd)
        views = dataset_views(data, events, tower.table, users=scorer.users)
        items = tower.item_vectors(data.item_text_vectors)
        for gates in learned if best.fusion == "ridge" else [(1.0, 1.0, 1.0)]:
            config = replace(tower.config, gates=gates)
            vectors = tower.gated(gates).vectors(views)
            trials.append(Trial(config, scorer.score(vectors, items)))
        bar.update()
    return trials


def _describe(config: TowerConfig) -> str:
    return (
        f"dim {config.dim}, {config.weighting} counts, exponents {config.user_exponent} and "
        f"{config.item_exponent}, damping {config.damping}, λ {config.ridge}, gates {config.gates}, "
        f"half-life {config.half_life:g}"
    )
