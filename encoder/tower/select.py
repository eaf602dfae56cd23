"""Choice of the settings of the closed form on held-out rows, never on test."""

import logging
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from encoder.arrays import IntArray
from encoder.config import TowerConfig, Weighting
from encoder.dataset import Dataset
from encoder.products import in_threads
from encoder.progress import LongStage
from encoder.tower.closed_form import Decompositions, fit_closed_form
from encoder.tower.tower import Tower, dataset_views
from encoder.views import Matrix, ViewBatch, count_newer, event_matrix, history_view
from evaluation.metrics import mean_over_users, ndcg
from evaluation.ranking import top_k

log = logging.getLogger(__name__)

DIMS = (64, 128, 256, 512)
DAMPINGS = (0.0, 0.1, 0.3, 1.0)
USER_EXPONENTS = (0.5, 0.3)
ITEM_EXPONENTS = (0.4, 0.3)  # tried with the best of the rest, found at 0.5
WEIGHTINGS: tuple[Weighting, ...] = ("log", "binary")
GATES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
SOME_GATES = (0.05, 0.2, 0.6)
_FINALISTS = 2  # alignments that are tried with every gate
_EQUAL = (1.0, 1.0, 1.0)  # the gates of MAXVAR
# λ, and whether T is centred, which lets λ be smaller.
ALIGNMENTS = ((0.3, True), (1.0, True), (10.0, True), (1.0, False), (10.0, False))
HALF_LIVES = (2.0, 5.0, 10.0, 20.0, 50.0)
FIRST_VISITS = 0.25  # share of the score without histories in what is chosen
MAX_USERS = 5_000
MAX_EVENTS = 1_000_000  # of the users that settings are chosen on
_BATCH = 256


@dataclass(frozen=True)
class Trial:
    """One setting and the NDCG@20 that it reached.

    Attributes:
        config: the setting.
        ndcg: with all views.
        cold: without histories; `ndcg` where that was not measured.
    """

    config: TowerConfig
    ndcg: float
    cold: float

    @property
    def balanced(self) -> float:
        """The score that settings are chosen by: a share of it is for people on their first visit."""
        return balanced(self.ndcg, self.cold)


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
        needed = np.zeros(len(data.users), dtype=bool)  # their histories make the views of the users
        needed[self._users] = needed[data.ties[self._users].indices] = True
        self._rows = data.history.where(needed[data.history.users])

    @property
    def users(self) -> npt.NDArray[np.int64]:
        """(n,) rows of the users that are scored."""
        return self._users

    def score(self, vectors: npt.NDArray[np.floating], items: npt.NDArray[np.float32]) -> float:
        """Return the mean NDCG@20 of user vectors (n, D) by full ranking over items (N, D)."""

        def rank(start: int) -> npt.NDArray[np.int64]:
            some = slice(start, start + _BATCH)
            return top_k(vectors[some].astype(np.float32) @ items.T, self.seen[some], 20)

        ranked = list(in_threads(rank, range(0, len(vectors), _BATCH)))
        return float(mean_over_users(ndcg(np.concatenate(ranked), self.relevant, 20)))

    def score_tower(self, tower: Tower) -> float:
        """Return the mean NDCG@20 of a tower on all views of the users."""
        return self.score(tower.vectors(self.views(tower)), tower.id_vectors)

    def views(self, tower: Tower) -> ViewBatch:
        """Return the raw views of the users, as a tower takes them."""
        events = event_matrix(self._rows, self._data.shape, tower.config)
        return dataset_views(self._data, events, tower.table, tower.widths, self._users)


def choose_config(
    data: Dataset,
    split: str,
    base: TowerConfig,
    dims: tuple[int, ...] = DIMS,
    whole: Decompositions | None = None,
) -> list[Trial]:
    """Try settings and return each with its NDCG@20 on `split`, the chosen one last.

    First the history table alone (weighting, exponents, dim, damping), on a sample of the users where their
    events are more than MAX_EVENTS; as the best dim and damping depend on how much data there is, they are
    then chosen once more on all of it. Then λ, whether T is centred, and the gates of T and S, with the best
    table of each damping, because what is best alone need not be best together; here first visits have a
    share in the score (`Trial.balanced`). Gates stay above 0 where the data has the view, because it serves
    users without a history. Last, whether older events count less.

    Args:
        data: its rows of `split` serve for scoring only.
        split: a held-out split.
        base: settings that are not chosen.
        dims: to choose from.
        whole: of all users and the greatest dim, where the caller wants to use the spectra again.
    """
    scorer = HeldOutScorer(data, split)
    whole = Decompositions(data, base, max(dims)) if whole is None else whole
    users = sample_users(data, scorer.users)
    sample = whole if users is None else Decompositions(data, base, max(dims), users)
    trials = sorted(_history_trials(data, scorer, base, dims, sample), key=_ndcg)
    tables = trials
    if users is not None:
        log.info("history table: chosen on %d of %d users", len(users), len(data.users))
        with LongStage("history table of all users", len(dims) * len(DAMPINGS), "setting") as stage:
            tables = sorted(_table_trials(scorer, trials[-1].config, dims, whole, stage), key=_ndcg)
        trials += tables
    log.info("history table: %s, NDCG@20 %.4f on %s", _describe(trials[-1].config), trials[-1].ndcg, split)
    if data.text.any() or data.ties.nnz:
        best = {trial.config.damping: trial.config for trial in tables}  # the last, so the best, of each
        with LongStage("alignment", len(best) * len(ALIGNMENTS), "setting") as stage:
            fused = [
                trial
                for config in best.values()
                for trial in _fusion_trials(data, scorer, config, whole, users, stage)
            ]
        trials += sorted(fused, key=_balanced)
        chosen = trials[-1]
        log.info("with T and S: %s, NDCG@20 %.4f on %s", _describe(chosen.config), chosen.ndcg, split)
    chosen = trials[-1]
    aged = [replace(chosen.config, half_life=half_life) for half_life in half_lives(data)]
    with LongStage("half-life", len(aged), "setting") as stage:
        for config in aged:
            tower = fit_closed_form(data, config, *whole.of(config, config.dim), users)
            ndcg = scorer.score_tower(tower)
            trials.append(Trial(config, ndcg, ndcg))
            stage.advance()
    best_life = max(trials[trials.index(chosen) :], key=_ndcg)
    trials.remove(best_life)
    return [*trials, best_life]


def sample_users(data: Dataset, scored: IntArray, seed: int = 0) -> IntArray | None:
    """Draw users with MAX_EVENTS events at most, those that are scored first; None is all users.

    Returns:
        Their rows, ascending (n,): bounded however many users there are.
    """
    events = np.diff(data.seen.indptr)
    if events.sum() <= MAX_EVENTS:
        return None
    rng = np.random.default_rng(seed)
    others = np.setdiff1d(np.arange(len(data.users)), scored)
    order = np.concatenate([rng.permutation(scored), rng.permutation(others)])
    order = order[np.cumsum(events[order]) <= MAX_EVENTS]
    return np.sort(order).astype(np.int64)


def half_lives(data: Dataset) -> tuple[float, ...]:
    """Return the half-lives to choose from beside 0; none where no user has two times."""
    return HALF_LIVES if count_newer(data.history.users, data.history.ts).any() else ()


def balanced(ndcg: float, cold: float) -> float:
    """Return what a choice is made by: NDCG@20 with all views, and a share of that without histories.

    All views together hardly tell settings apart that serve a first visit very differently.
    """
    return (1 - FIRST_VISITS) * ndcg + FIRST_VISITS * cold


def _ndcg(trial: Trial) -> float:
    return trial.ndcg


def _balanced(trial: Trial) -> float:
    return trial.balanced


def _history_trials(
    data: Dataset, scorer: HeldOutScorer, base: TowerConfig, dims: tuple[int, ...], spectra: Decompositions
) -> list[Trial]:
    weightings = WEIGHTINGS if len(np.unique(data.events(base).data)) > 1 else WEIGHTINGS[:1]  # all the same
    tables = [
        replace(base, weighting=weighting, user_exponent=exponent)
        for weighting, exponent in product(weightings, USER_EXPONENTS)
    ]
    total = (len(tables) + len(ITEM_EXPONENTS)) * len(dims) * len(DAMPINGS)
    with LongStage("history table", total, "setting") as stage:
        trials = []
        for config in tables:
            trials += _table_trials(scorer, config, dims, spectra, stage)
        best = max(trials, key=_ndcg).config
        for exponent in ITEM_EXPONENTS:
            trials += _table_trials(scorer, replace(best, item_exponent=exponent), dims, spectra, stage)
    return trials


def _table_trials(
    scorer: HeldOutScorer,
    config: TowerConfig,
    dims: tuple[int, ...],
    spectra: Decompositions,
    stage: LongStage,
) -> list[Trial]:
    """Try one decomposition with every dim and every damping that ranks unseen items."""
    events, svd = spectra.of(config)
    trials = []
    for dim, damping in product(sorted({min(dim, len(svd.singular)) for dim in dims}), DAMPINGS):
        if svd.ranks_unseen(dim, damping):
            vectors = history_view(events[scorer.users], svd.table(dim, damping))
            reached = scorer.score(vectors, svd.items(dim))
            trials.append(Trial(replace(config, dim=dim, damping=damping), reached, reached))
            stage.advance(note=f"NDCG@20 {max(map(_ndcg, trials)):.4f}")
    stage.advance(len(dims) * len(DAMPINGS) - len(trials))  # dims beyond the rank, tables that rank nothing
    return trials


def _fusion_trials(
    data: Dataset,
    scorer: HeldOutScorer,
    best: TowerConfig,
    spectra: Decompositions,
    users: IntArray | None,
    stage: LongStage,
) -> list[Trial]:
    """Try the alignments with a few gates, and the best of them with every gate."""
    events, svd = spectra.of(best, best.dim)
    gated: list[_GateTrials] = []
    for ridge, centred in ALIGNMENTS:
        if not centred or (best.fusion == "ridge" and data.text.any()):
            config = replace(best, ridge=ridge, centred=centred)
            tower = fit_closed_form(data, config, events, svd, users)
            gated.append(
                _GateTrials(data, scorer, tower, dataset_views(data, events, tower.table, users=scorer.users))
            )
            gated[-1].run(SOME_GATES)
        stage.advance()
    gated.sort(key=lambda one: max(map(_balanced, one.trials.values())))
    for one in gated[-_FINALISTS:]:
        one.run(GATES)
    return [trial for one in gated for trial in one.trials.values()]


class _GateTrials:
    """The trials of one alignment with several gates.

    Attributes:
        trials: by gates.
    """

    def __init__(self, data: Dataset, scorer: HeldOutScorer, tower: Tower, views: ViewBatch) -> None:
        self.trials: dict[tuple[float, float, float], Trial] = {}
        self._scorer, self._tower, self._views = scorer, tower, views
        self._first = views.only(("T", "S"))
        self._items = tower.id_vectors
        self._has = bool(data.text.any()), bool(data.ties.nnz)
        self._cold: dict[float, float] = {}  # by the ratio of T to S, all that matters without histories

    def run(self, values: tuple[float, ...]) -> None:
        """Try all pairs of these gates of T and S that were not tried yet."""
        texts, socials = (values if has else (0.0,) for has in self._has)
        pairs = [(1.0, text, social) for text, social in product(texts, socials)]
        for gates in pairs if self._tower.config.fusion == "ridge" else [_EQUAL]:
            if gates not in self.trials:
                tower = self._tower.gated(gates)
                ratio = gates[1] / gates[2] if gates[2] else 1.0
                if ratio not in self._cold:
                    self._cold[ratio] = self._scorer.score(tower.vectors(self._first), self._items)
                ndcg = self._scorer.score(tower.vectors(self._views), self._items)
                self.trials[gates] = Trial(tower.config, ndcg, self._cold[ratio])


def _describe(config: TowerConfig) -> str:
    texts = " of centred texts" if config.centred else ""
    return (
        f"dim {config.dim}, {config.weighting} counts, exponents {config.user_exponent} and "
        f"{config.item_exponent}, damping {config.damping}, λ {config.ridge}{texts}, gates {config.gates}, "
        f"half-life {config.half_life:g}"
    )
