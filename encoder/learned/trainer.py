"""Training of a learned block: early stopping on held-out rows, checkpoints, TensorBoard, lost workers."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.jobs import WorkerLostError
from encoder.learned.config import LearnConfig
from encoder.learned.folders import alone_in
from encoder.learned.parallel import TrainingWorkers
from encoder.learned.parallel.group import RankGroup, RankTask
from encoder.learned.parallel.leader import LABEL, leading
from encoder.learned.run import CHECK_EVERY, LearningDivergedError, Score, TrainingRun
from encoder.learned.start import BlockStart
from encoder.progress import LongStage
from encoder.tower import Block
from encoder.training_loop import EpochFigures, Progress, train_epochs
from encoder.views import FloatArray

TRIES = 3  # of an epoch whose workers are lost

ReportEpoch = Callable[[dict[str, float], int], None]

__all__ = [
    "CHECK_EVERY",
    "LearningDivergedError",
    "ReportEpoch",
    "Score",
    "TrainedBlock",
    "WorkersLostError",
    "member_settings",
    "train_block",
]

log = logging.getLogger(__name__)


class WorkersLostError(RuntimeError):
    """The workers that trained a learned block together were lost again and again."""

    def __init__(self, last: WorkerLostError) -> None:
        super().__init__(
            f"{last}, as others were before it, {TRIES} times without a checkpoint between: perhaps there is "
            "too little memory; what is finished is kept, so run this again with fewer jobs"
        )


@dataclass(frozen=True)
class TrainedBlock:
    """A block with the weights of its best epoch.

    Attributes:
        block: the fitted arrays.
        epoch: the best one.
        ndcg: NDCG@20 of the block on held-out rows; None where nothing was held out.
        checks: (epoch, NDCG@20) of every check.
        seconds: of the training.
        weights: parameters of the module by name, from which a later training can start.
    """

    block: Block
    epoch: int
    ndcg: float | None
    checks: list[tuple[int, float]]
    seconds: float
    weights: dict[str, FloatArray]


def train_block(
    data: Dataset,
    config: TowerConfig,
    options: LearnConfig,
    score: Score | None,
    folder: Path,
    report: ReportEpoch | None = None,
    start: BlockStart | None = None,
    workers: TrainingWorkers | None = None,
) -> TrainedBlock:
    """Train a block on the visible rows of a data set.

    A run with the same data, settings, start and folder goes on from the last checkpoint there; it waits for
    another that is at work there. Equal seeds give equal blocks on the same machine with the same number of
    workers; another number changes the order in which gradients are added, and so the last bits. Where a
    worker is lost, others go on from the last checkpoint.

    Args:
        data: held-out rows of it are not looked at.
        config: how events are weighted.
        options: of training; negatives 0 means the full softmax up to FULL_SOFTMAX_ITEMS items.
        score: gives the NDCG@20 of a block on held-out rows; None trains for all the epochs.
        folder: of checkpoints and TensorBoard's files.
        report: takes the figures of an epoch and its number, besides TensorBoard; of a run that goes on,
            first the NDCG@20 of each check before, so that it hears all checks whenever one was killed.
            Where a worker is lost, it hears of the epochs since the last check again.
        start: weights of an earlier block; where `score` is given, they stay unless an epoch beats them.
        workers: train together with this process; None leaves it alone.

    Raises:
        LearningDivergedError: the loss is infinite or no number.
        StartMismatchError: a parameter of `start` has another shape.
        WorkersLostError: workers were lost, TRIES times without a checkpoint between.
        PartFailedError: a worker raised an error.
    """
    source = None if start is None else start.source
    folder = folder / _key(data, config, options, scored=score is not None, source=source)
    with alone_in(folder):
        return _trained(data, config, options, score, folder, report, start, workers)


def _trained(
    data: Dataset,
    config: TowerConfig,
    options: LearnConfig,
    score: Score | None,
    folder: Path,
    report: ReportEpoch | None,
    start: BlockStart | None,
    workers: TrainingWorkers | None,
) -> TrainedBlock:
    """Train a block in the folder of its own."""
    began = time.perf_counter()
    options = options.for_users(int((np.diff(data.seen.indptr) > 0).sum()))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tries, reached = 0, -1
    while True:
        run = TrainingRun(data, config, options, folder, device, start)
        if report is not None and not tries:
            _report_checks(run, report)
        tries = 1 if run.progress.epoch > reached else tries + 1
        reached = run.progress.epoch
        if start is not None and score is not None and not run.checks:
            run.progress.best_loss = run.held_out_loss(score)
            run.keep()
        try:
            with _together(workers, data, config, options, run, scored=score is not None) as group:
                _train(run, options, score, report, group)
            break
        except WorkerLostError as error:
            if tries == TRIES:
                raise WorkersLostError(error) from error
            log.warning("%s: training goes on with new workers from the last checkpoint", error)
    ndcg = -run.progress.best_loss if score else None
    result = "" if ndcg is None else f", NDCG@20 {ndcg:.4f}"
    log.info("trained: epoch %d of %d%s", run.progress.best_epoch, run.progress.epoch, result)
    seconds = time.perf_counter() - began
    return TrainedBlock(
        run.best_block(), run.progress.best_epoch, ndcg, run.checks, seconds, run.best_weights()
    )


def member_settings(options: LearnConfig) -> list[LearnConfig]:
    """Return the settings of each member block; they differ in the seed alone."""
    return [replace(options, seed=options.seed + 1_000 * i) for i in range(options.members)]


def _report_checks(run: TrainingRun, report: ReportEpoch) -> None:
    """Report the checks of a run that goes on."""
    for epoch, ndcg in run.checks:
        if epoch:  # 0 is the start itself
            report({"ndcg@20": ndcg}, epoch)


@contextmanager
def _together(
    workers: TrainingWorkers | None,
    data: Dataset,
    config: TowerConfig,
    options: LearnConfig,
    run: TrainingRun,
    *,
    scored: bool,
) -> Iterator[RankGroup | None]:
    """Yield the group of workers that train with this process, or None where it trains alone."""
    if workers is None or run.is_over:
        yield None
        return
    room = workers.jobs.room(torch.cuda.device_count())
    if room.processes == 1:
        yield None
        return
    task = RankTask(
        room.address,
        0,
        room.processes,
        room.threads,
        room.with_cards,
        str(workers.folder_of(data)),
        str(run.folder),
        config.as_json(),
        options.as_json(),
        scored,
    )
    with leading(workers, room, task) as group:
        log.info("%s: trained by %d processes with %d threads each", LABEL, room.processes, room.threads)
        yield group


def _train(
    run: TrainingRun,
    options: LearnConfig,
    score: Score | None,
    report: ReportEpoch | None,
    group: RankGroup | None,
) -> None:
    """Train until the epochs are over or NDCG@20 no longer grows."""
    progress = run.progress
    if progress.epoch:
        log.info("training goes on after epoch %d (%s)", progress.epoch, run.folder.name)
    if group is not None:
        group.tell_progress(progress)
        run.join(group)

    def after_step(_: int) -> None:
        run.average()
        stage.advance()

    def after_check(progress: Progress) -> None:
        run.save(progress)
        if group is not None:  # only now: the others wait for the next step less long than saving may take
            group.tell_check(progress.epoch, -run.checks[-1][1] if score else math.nan)

    def after_epoch(figures: EpochFigures) -> None:
        values = {"loss": figures.training}
        if not math.isnan(figures.held_out):
            values["ndcg@20"] = -figures.held_out
        for name, value in values.items():
            writer.add_scalar(name, value, figures.epoch)
        if report is not None:
            report(values, figures.epoch)
        reached = f", NDCG@20 {-progress.best_loss:.4f}" if score and run.checks else ""
        stage.advance(0, note=f"epoch {figures.epoch} of at most {options.epochs}{reached}")

    held_out = partial(run.held_out_loss, score) if score else None
    steps = run.steps_per_epoch
    with (
        SummaryWriter(str(run.folder)) as writer,
        LongStage(LABEL, steps * options.epochs, "step", done=steps * progress.epoch) as stage,
    ):
        train_epochs(run.training(held_out, run.keep, after_step, after_check, after_epoch), progress)


def _key(
    data: Dataset, config: TowerConfig, options: LearnConfig, *, scored: bool, source: str | None
) -> str:
    """Return a name that only the same rows, held-out ones too, texts, settings and start give."""
    facts = [config.as_json(), options.as_json(), scored, *([source] if source else [])]
    digest = hashlib.sha256(json.dumps(facts).encode())
    rows, texts = data.history, data.texts
    arrays = [rows.users, rows.items, rows.weights, rows.ts, texts.users, texts.items, texts.vectors]
    arrays += [data.ties.indptr, data.ties.indices, data.ties.data, data.item_text_vectors]
    for name, held in sorted([*data.held_out.items(), ("", rows)]):
        digest.update("\0".join([name, *held.actions.names]).encode())
        arrays += [held.users, held.items, held.actions.codes]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)  # the buffer itself, no copy
    return digest.hexdigest()[:16]
