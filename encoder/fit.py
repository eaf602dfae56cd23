"""Fitting a tower: settings are chosen on held-out rows, learned blocks trained and mixed in."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encoder.config import TowerConfig
from encoder.dataset import Dataset, hold_out
from encoder.learned import LearnConfig
from encoder.learned.parallel import TrainingWorkers
from encoder.left_out import LeftOutShares
from encoder.tower import Block, ChosenTrust, Decompositions, Spectrum, Tower, fit_closed_form, spectrum
from encoder.tower.cold_items import choose_content, fit_content
from encoder.tower.held_out import held_out_figures
from encoder.tower.mix import Mix, choose_mix, compressed, mixed, with_half_life
from encoder.tower.select import HeldOutScorer, Trial, choose_config
from encoder.views import FloatArray
from encoder.warm_start import Kept, KeptSettings, WarmStart
from evaluation.split import VALID, mark

if TYPE_CHECKING:
    from encoder.learned.trainer import ReportEpoch, TrainedBlock

log = logging.getLogger(__name__)

LEAST_JUDGES = 50  # users with held-out rows; what fewer choose is noise
_INNER_SHARE = 0.1
_INNER = "inner"
# Where no held-out rows can choose one. Without damping, a table of full rank scores every unseen item 0.
_DAMPING = 0.3


@dataclass(frozen=True)
class TrainOptions:
    """Options of training; what they leave open is chosen on held-out rows.

    Attributes:
        base: settings that are not searched (fusion, actions) and, with `search` off, all of them.
        search: whether to choose the settings on held-out rows.
        dims: embedding dims of the closed form to choose from.
        learn: settings of the learned blocks; None leaves the closed form alone.
        max_dim: to how many coordinates closed form and learned blocks together are compressed.
        left_out: shares of users and items that training never sees, reported apart by `evaluate`; drawn by
            its own seed.
        seed: of every random draw but those of `learn`, which has its own.
        start: the model to start from, whose settings and left-out users stand for all of the above.
    """

    base: TowerConfig = field(default_factory=TowerConfig)
    search: bool = True
    dims: tuple[int, ...] = (64, 128, 256, 512)
    learn: LearnConfig | None = None
    max_dim: int = 512
    left_out: LeftOutShares = field(default_factory=LeftOutShares)
    seed: int = 0
    start: WarmStart | None = None


@dataclass(frozen=True)
class FittedTower:
    """A tower, how it was chosen and trained as JSON values, and what the next training starts from."""

    tower: Tower
    facts: dict[str, Any]
    kept: Kept


def fit(
    data: Dataset,
    options: TrainOptions,
    training: Path,
    report: "ReportEpoch | None" = None,
    workers: TrainingWorkers | None = None,
) -> FittedTower:
    """Fit a tower to the visible rows of a data set.

    Settings are chosen on the valid split; without one, on a tenth of train, and everything is then fitted
    once more on the whole of train with the settings chosen. Last it is chosen there how far the views are
    trusted, also where all settings were given. Where rows of fewer than LEAST_JUDGES users can
    be held out, nothing is chosen or learned: a damped closed form of low rank is fitted, and the facts say
    why.

    Args:
        data: its held-out rows serve for choosing only.
        options: of training.
        training: folder of checkpoints and of TensorBoard's files.
        report: takes the figures of each epoch of a learned block.
        workers: train learned blocks together with this process; None leaves it alone.
    """
    choosing, split, unchosen = _choosing(data, options)
    trials: list[Trial] = []
    config = _unchosen(options) if options.search else options.base
    if split and options.search:
        spectra = Decompositions(choosing, options.base, max(options.dims))
        trials = choose_config(choosing, split, options.base, options.dims, spectra)
        config = trials[-1].config
        events, svd = spectra.of(config, config.dim)
        closed = fit_closed_form(choosing, config, events, svd)
        del spectra, events
    else:
        closed, svd = fit_with_spectrum(choosing, config)
    if split is None or options.learn is None:
        trust = _trust(closed, choosing, split, options.seed)
        judged = closed.trusting(trust)
        content = choose_content(judged, choosing, split, options.seed)
        if choosing is not data:
            closed, svd = fit_with_spectrum(data, config)
        settings = KeptSettings(config, None, (), 0.0, config.half_life, options.max_dim, trust, content)
        reached = trials[-1].ndcg if trials else None
        facts = chosen_facts(data, split, reached, trials, None) | {"unchosen": unchosen}
        tower = finished(closed, data, settings)
        measured = measured_facts(judged, choosing, split) if split else {}
        return FittedTower(tower, facts | measured | {"trust": trust.as_json()}, Kept(settings, svd.right))
    runs = _learn(choosing, closed, split, options.learn, training, report, workers)
    blocks = [run.block for run in runs]
    mix = choose_mix(closed, blocks, choosing, split)
    weighed = with_half_life(mixed(closed, blocks, mix.weight, choosing), mix.half_life)
    trust = _trust(weighed, choosing, split, options.seed)
    judged = weighed.trusting(trust)
    content = choose_content(judged, choosing, split, options.seed)
    learned = learned_facts(options.learn, runs, mix)
    best = tuple(run.epoch for run in runs)
    if choosing is not data:
        closed, svd = fit_with_spectrum(data, config)
        if mix.weight:
            runs = _train_again(data, config, runs, options.learn, training, report, workers)
    settings = KeptSettings(
        config, options.learn, best, mix.weight, mix.half_life, options.max_dim, trust, content
    )
    tower = finished(mixed(closed, [run.block for run in runs], mix.weight, data), data, settings)
    members = tuple(run.weights for run in runs) if mix.weight else ()
    facts = chosen_facts(data, split, max(mix.ndcg_by_half_life.values()), trials, learned)
    facts |= measured_facts(judged, choosing, split)
    kept = Kept(settings, svd.right, members)
    return FittedTower(tower, facts | {"trust": trust.as_json()}, kept)


def finished(tower: Tower, data: Dataset, settings: KeptSettings) -> Tower:
    """Return a mixed tower as it serves: with half-life, trust and maps for new items, compressed."""
    whole = with_half_life(tower, settings.half_life).trusting(settings.trust)
    return fit_content(compressed(whole, data, settings.max_dim), data, settings.content)


def fit_with_spectrum(
    data: Dataset, config: TowerConfig, start: FloatArray | None = None
) -> tuple[Tower, Spectrum]:
    """Fit the closed form and return it with its decomposition, which may start from right vectors (N, R)."""
    events = data.events(replace(config, half_life=0.0))
    svd = spectrum(events, config.dim, config.user_exponent, config.item_exponent, start=start)
    return fit_closed_form(data, config, events, svd), svd


def _choosing(data: Dataset, options: TrainOptions) -> tuple[Dataset, str | None, str | None]:
    """Return the data to choose settings on, the held-out split in it, and why nothing can be chosen."""
    judges = count_judges(data, "valid")
    if judges >= LEAST_JUDGES:
        return data, "valid", None
    if not (options.search or options.learn):
        return data, None, None
    if "valid" in data.held_out:
        log.warning(
            "valid has rows of %d users, and a choice needs %d: it is left aside", judges, LEAST_JUDGES
        )
    rows = data.history
    share = _INNER_SHARE
    inner = mark("random", rows.users, rows.items, rows.ts, valid=share, test=0.0, seed=options.seed) == VALID
    choosing = hold_out(data, inner, _INNER)
    judges = count_judges(choosing, _INNER)
    if judges < LEAST_JUDGES or not choosing.events(options.base).nnz:
        reason = f"held-out rows of {judges} users can be had, and a choice needs {LEAST_JUDGES}"
        settings = "damped, of low rank" if options.search else "as they were given"
        log.warning(
            "nothing is chosen on the data, no block is learned: %s; settings are %s", reason, settings
        )
        return data, None, reason
    log.info("no valid split: choosing on %d train rows held out by event group, then one refit", inner.sum())
    return choosing, _INNER, None


def count_judges(data: Dataset, split: str) -> int:
    """Return the number of users with rows in a held-out split: they are the cases that a choice rests on."""
    return int((np.diff(data.relevant(split).indptr) > 0).sum())


def _unchosen(options: TrainOptions) -> TowerConfig:
    """Return the settings for data that no setting can be chosen on."""
    dim = min(options.dims, key=lambda dim: abs(dim - options.base.dim))
    return replace(options.base, dim=dim, damping=_DAMPING)


def _learn(
    data: Dataset,
    closed: Tower,
    split: str,
    options: LearnConfig,
    training: Path,
    report: "ReportEpoch | None",
    workers: TrainingWorkers | None,
) -> list["TrainedBlock"]:
    """Train the member blocks, stopped early by NDCG@20 on a held-out split."""
    from encoder.learned.trainer import member_settings, train_block  # noqa: PLC0415  torch, only where something is learned

    scorer = HeldOutScorer(data, split)

    def score(block: Block) -> float:
        return scorer.score_tower(Tower(closed.config, (block,)))

    return [
        train_block(data, closed.config, one, score, training, report, None, workers)
        for one in member_settings(options)
    ]


def _trust(tower: Tower, data: Dataset, split: str | None, seed: int) -> ChosenTrust:
    """Choose how far the views are trusted, in all blocks alike."""
    from encoder.tower.trust import choose_trust  # noqa: PLC0415  torch

    return choose_trust(tower, data, split, seed)


def _train_again(
    data: Dataset,
    config: TowerConfig,
    runs: list["TrainedBlock"],
    options: LearnConfig,
    training: Path,
    report: "ReportEpoch | None",
    workers: TrainingWorkers | None,
) -> list["TrainedBlock"]:
    """Train the blocks on other data for as many epochs as were best."""
    from encoder.learned.trainer import member_settings, train_block  # noqa: PLC0415

    pairs = zip(member_settings(options), runs, strict=True)
    return [
        train_block(data, config, replace(one, epochs=run.epoch), None, training, report, None, workers)
        for one, run in pairs
    ]


def learned_facts(options: LearnConfig, runs: "list[TrainedBlock]", mix: Mix) -> dict[str, Any]:
    """Return how learned blocks were trained and mixed in, as metrics.json keeps it."""
    return {
        "settings": options.as_json(),
        "checks": [run.checks for run in runs],
        "best_epochs": [run.epoch for run in runs],
        "seconds": [run.seconds for run in runs],
        "weight": mix.weight,
        "half_life": mix.half_life,
        "ndcg@20_by_weight": mix.ndcg_by_weight,
        "ndcg@20_by_half_life": mix.ndcg_by_half_life,
    }


def measured_facts(tower: Tower, data: Dataset, split: str) -> dict[str, Any]:
    """Return how a tower ranks held-out rows, as metrics.json keeps it."""
    return {"held_out": held_out_figures(tower, data, split, rows_of_split(split))}


def rows_of_split(split: str) -> str:
    """Return what people call the rows that a choice was made on."""
    return "a tenth of train" if split == _INNER else split


def chosen_facts(
    data: Dataset,
    split: str | None,
    reached: float | None,
    trials: list[Trial],
    learned: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return how a tower was chosen and trained, as metrics.json keeps it."""
    return {
        "chosen_on": None if reached is None or split is None else rows_of_split(split),
        "ndcg@20": reached,
        "trials": [{"config": t.config.as_json(), "ndcg@20": t.ndcg} for t in trials],
        "unchosen": None,
        "learned": learned,
        "views": {"H": True, "T": bool(data.text.any()), "S": bool(data.ties.nnz)},
    }
