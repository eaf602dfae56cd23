"""Fitting a tower from the last model: its settings are kept, and nothing is searched."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.fit import (
    LEAST_JUDGES,
    FittedTower,
    chosen_facts,
    count_judges,
    finished,
    fit_with_spectrum,
    learned_facts,
    measured_facts,
)
from encoder.learned import LearnConfig
from encoder.learned.parallel import TrainingWorkers
from encoder.tower import Block, Tower
from encoder.tower.mix import Mix, mixed
from encoder.tower.select import HeldOutScorer
from encoder.warm_start import Kept, WarmStart

if TYPE_CHECKING:
    from encoder.learned.trainer import ReportEpoch, Score, TrainedBlock

SHARE_OF_EPOCHS = 0.25  # of the best epochs of the last search
LEAST_EPOCHS = 4
PATIENCE = 2  # checks


def retrain(
    data: Dataset,
    start: WarmStart,
    training: Path,
    report: "ReportEpoch | None" = None,
    workers: TrainingWorkers | None = None,
) -> FittedTower:
    """Fit a tower to the visible rows of a data set, starting from the last model.

    The closed form is fitted once, with the settings kept and its decomposition started from the last
    subspace. Learned blocks are trained on from the last weights for a fixed share of their best epochs; with
    a valid split that can judge them, the best weights on it are kept, the last ones among them. Weight and
    half-life stay.

    Args:
        data: its held-out rows serve for early stopping only.
        start: the last model.
        training: folder of checkpoints and of TensorBoard's files.
        report: takes the figures of each epoch of a learned block.
        workers: train learned blocks together with this process; None leaves it alone.

    Raises:
        LearningDivergedError: the loss of a learned block is infinite or no number.
        StartMismatchError: a parameter of the last model has another shape.
    """
    kept = start.kept.settings
    closed, svd = fit_with_spectrum(data, kept.closed, start.right(data))
    split = "valid" if count_judges(data, "valid") >= LEAST_JUDGES else None
    scorer = HeldOutScorer(data, split) if split else None
    runs: list[TrainedBlock] = []
    if kept.learn is not None and kept.weight:
        score = partial(_score_block, scorer, kept.closed) if scorer else None
        runs = _train_on(data, kept.closed, start, kept.learn, score, training, report, workers)
    tower = finished(mixed(closed, [run.block for run in runs], kept.weight, data), data, kept)
    reached = scorer.score_tower(tower) if scorer else None
    learned = None
    if kept.learn is not None and runs:
        learned = learned_facts(kept.learn, runs, Mix(kept.weight, kept.half_life, {}, {}))
    own = {"started_from": start.model_id, "trust": kept.trust.as_json()}
    facts = chosen_facts(data, split, reached, [], learned) | own
    if split:
        facts |= measured_facts(tower, data, split)
    return FittedTower(tower, facts, Kept(kept, svd.right, tuple(run.weights for run in runs)))


def _train_on(
    data: Dataset,
    config: TowerConfig,
    start: WarmStart,
    options: LearnConfig,
    score: "Score | None",
    training: Path,
    report: "ReportEpoch | None",
    workers: TrainingWorkers | None,
) -> list["TrainedBlock"]:
    """Train the learned blocks of the last model on."""
    from encoder.learned.trainer import member_settings, train_block  # noqa: PLC0415  torch, only where something is learned

    runs = []
    members = zip(member_settings(options), start.blocks(data), start.kept.settings.best_epochs, strict=True)
    for settings, block, best in members:
        epochs = max(LEAST_EPOCHS, round(SHARE_OF_EPOCHS * best))
        some = replace(settings, epochs=epochs, patience=PATIENCE)
        runs.append(train_block(data, config, some, score, training, report, block, workers))
    return runs


def _score_block(scorer: HeldOutScorer, config: TowerConfig, block: Block) -> float:
    """Return the NDCG@20 of a block alone."""
    return scorer.score_tower(Tower(config, (block,)))
