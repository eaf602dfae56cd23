"""Training of a learned block: early stopping on held-out rows, checkpoints, TensorBoard."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.learned import checkpoint
from encoder.learned.batches import Steps
from encoder.learned.config import LearnConfig
from encoder.learned.losses import RankingLoss, step_loss
from encoder.learned.model import Inputs, LearnedBlock, to_numpy
from encoder.learned.start import BlockStart
from encoder.progress import LongStage
from encoder.tower import Block
from encoder.training_loop import EpochFigures, Progress, Training, adamw, train_epochs
from encoder.views import FloatArray

CHECK_EVERY = 4  # epochs
FULL_SOFTMAX_ITEMS = 20_000
SAMPLED = 4_096
_TRUST = ("trust.log_pseudo_counts", "trust.log_sharpness", "trust.expected")
_TRUST_RATE = 20.0  # times the rate of the tables, at which so few steps would hardly move them
# Scalars, which decay would pull to a wrong place.
_NO_DECAY = ("log_scale", "gates", "slopes", *_TRUST)

Score = Callable[[Block], float]
ReportEpoch = Callable[[dict[str, float], int], None]

log = logging.getLogger(__name__)


class LearningDivergedError(RuntimeError):
    """The loss of a learned block is infinite or no number."""

    def __init__(self, epoch: int) -> None:
        super().__init__(
            f"training of the learned block diverged in epoch {epoch}: use a smaller learning_rate "
            "(--config), or --fusion ridge"
        )
        self.epoch = epoch


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
) -> TrainedBlock:
    """Train a block on the visible rows of a data set.

    A run with the same data, settings, start and folder goes on from the last checkpoint there. Equal seeds
    give equal blocks on the same machine.

    Args:
        data: held-out rows of it are not looked at.
        config: how events are weighted.
        options: of training; negatives 0 means the full softmax up to FULL_SOFTMAX_ITEMS items.
        score: gives the NDCG@20 of a block on held-out rows; None trains for all the epochs.
        folder: of checkpoints and TensorBoard's files.
        report: takes the figures of an epoch and its number, besides TensorBoard; of a run that goes on,
            first the NDCG@20 of each check before, so that it hears all checks whenever one was killed.
        start: weights of an earlier block; where `score` is given, they stay unless an epoch beats them.

    Raises:
        LearningDivergedError: the loss is infinite or no number.
        StartMismatchError: a parameter of `start` has another shape.
    """
    began = time.perf_counter()
    source = None if start is None else start.source
    folder = folder / _key(data, config, options, scored=score is not None, source=source)
    options = options.for_users(int((np.diff(data.seen.indptr) > 0).sum()))
    run = _Run(data, config, options, folder, start)
    progress, steps = run.progress, run.steps_per_epoch
    if start is not None and score is not None and not run.checks:
        progress.best_loss = run.held_out_loss(score)
        run.keep()
    if progress.epoch:
        log.info("training goes on after epoch %d (%s)", progress.epoch, folder.name)
        for epoch, known in run.checks:
            if report is not None and epoch:  # 0 is the start itself
                report({"ndcg@20": known}, epoch)

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

    def after_step(step: int) -> None:
        run.average(step)
        stage.advance()

    training = Training(
        run.parameters,
        run.optimizer,
        run.losses,
        partial(run.held_out_loss, score) if score else None,
        run.keep,
        options.epochs,
        options.patience * CHECK_EVERY,
        check_every=CHECK_EVERY,
        diverged=lambda epoch, *_: LearningDivergedError(epoch),
        after_step=after_step,
        after_check=run.save,
        after_epoch=after_epoch,
    )
    with (
        SummaryWriter(str(folder)) as writer,
        LongStage("learned block", steps * options.epochs, "step", done=steps * progress.epoch) as stage,
    ):
        train_epochs(training, progress)
    ndcg = -progress.best_loss if score else None
    reached = "" if ndcg is None else f", NDCG@20 {ndcg:.4f}"
    log.info("trained: epoch %d of %d%s", progress.best_epoch, progress.epoch, reached)
    seconds = time.perf_counter() - began
    block, weights = run.best_block(), run.best_weights()
    return TrainedBlock(block, progress.best_epoch, ndcg, run.checks, seconds, weights)


def member_settings(options: LearnConfig) -> list[LearnConfig]:
    """Return the settings of each member block; they differ in the seed alone."""
    return [replace(options, seed=options.seed + 1_000 * i) for i in range(options.members)]


class _Run:
    """The state of one training: module, optimizer, mean of the weights, progress; saved as a checkpoint."""

    def __init__(
        self,
        data: Dataset,
        config: TowerConfig,
        options: LearnConfig,
        folder: Path,
        start: BlockStart | None,
    ) -> None:
        self._options = options
        self._folder = folder
        self._steps = Steps(data, config, options)
        events = data.events(config)  # an item that only actions of weight 0 name was never learned
        self._popularity = np.bincount(events.indices, minlength=len(data.items)).astype(np.float32)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(options.seed)
        self._block = LearnedBlock(len(data.items), data.item_text_vectors, options).to(self._device)
        if start is not None:
            self._block.start_from(start.weights, start.rows)
        self.parameters = dict(self._block.named_parameters())
        self.optimizer = adamw(
            self.parameters,
            options.learning_rate,
            options.weight_decay,
            lambda name, _: name not in _NO_DECAY,
            dict.fromkeys(_TRUST, _TRUST_RATE),
        )
        negatives = options.negatives or (SAMPLED if len(data.items) > FULL_SOFTMAX_ITEMS else 0)
        self._ranking = RankingLoss(torch.from_numpy(self._popularity), negatives, options.seed)
        self._mean = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._best = dict(self._mean)
        self.progress = Progress(best_loss=checkpoint.WORST_LOSS)
        self.checks: list[tuple[int, float]] = []
        found = checkpoint.load(folder)
        if found is not None:
            self._restore(*found)

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of an epoch."""
        return self._steps.per_epoch

    def losses(self, epoch: int) -> Iterator[Tensor]:
        """Yield the losses of the steps of an epoch; the same epoch draws the same, also in a resumed run."""
        number = epoch - 1
        torch.manual_seed(self._options.seed * 1_000_003 + number)
        self._ranking.seed(number)
        self._block.train()
        bf16 = self._device.type == "cuda" and torch.cuda.is_bf16_supported()
        for step in self._steps.epoch(number):
            inputs = Inputs.of(step, self._device)
            with torch.autocast("cuda", torch.bfloat16) if bf16 else nullcontext():
                loss = step_loss(self._block, self._ranking, step, inputs, self._options)
            yield loss

    def held_out_loss(self, score: Score) -> float:
        """Judge the mean of the weights and note its NDCG@20; return −NDCG@20."""
        ndcg = score(self._with(self._mean))
        self.checks.append((self.progress.epoch, ndcg))
        return -ndcg

    @torch.no_grad()
    def average(self, _: int) -> None:
        """Move the running mean of the weights after a step."""
        for name, parameter in self.parameters.items():
            self._mean[name].lerp_(parameter, 1.0 - self._options.averaging)

    def keep(self) -> None:
        """Remember the mean of the weights as the best."""
        self._best = {name: mean.clone() for name, mean in self._mean.items()}

    def save(self, progress: Progress) -> None:
        """Write a checkpoint."""
        groups: dict[str, Mapping[str, Tensor]]
        groups = {"now": self.parameters, "mean": self._mean, "best": self._best}
        tensors = {
            f"{group}.{name}": tensor for group, named in groups.items() for name, tensor in named.items()
        }
        tensors |= checkpoint.optimizer_tensors(self.optimizer)
        checkpoint.save(self._folder, progress, self.checks, tensors)

    def best_block(self) -> Block:
        """Return the block of the best check."""
        return self._with(self._best)

    def best_weights(self) -> dict[str, FloatArray]:
        """Return the weights of the best check as arrays."""
        return {name: to_numpy(tensor) for name, tensor in self._best.items()}

    def _with(self, tensors: dict[str, Tensor]) -> Block:
        """Return the block of other weights; those of the module stay."""
        now = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._load(tensors)
        block = self._block.block(self._popularity, self._steps.targets)
        self._load(now)
        return block

    def _restore(
        self, progress: Progress, checks: list[tuple[int, float]], tensors: dict[str, Tensor]
    ) -> None:
        self.progress, self.checks = progress, checks
        self._load(_below(tensors, "now."))
        self._mean, self._best = _below(tensors, "mean."), _below(tensors, "best.")
        checkpoint.restore_optimizer(self.optimizer, tensors)

    @torch.no_grad()
    def _load(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return copies of the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): t.clone() for name, t in tensors.items() if name.startswith(prefix)}


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
