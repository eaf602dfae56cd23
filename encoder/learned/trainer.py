"""Training of a learned block: AdamW, early stopping on held-out rows, checkpoints, TensorBoard."""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.learned import checkpoint
from encoder.learned.batches import Steps
from encoder.learned.checkpoint import Progress
from encoder.learned.config import LearnConfig
from encoder.learned.losses import Ranking, step_loss
from encoder.learned.model import Inputs, LearnedBlock
from encoder.tower.tower import Block
from encoder.views import FloatArray

CHECK_EVERY = 4
FULL_SOFTMAX_ITEMS = 20_000
SAMPLED = 4_096
Score = Callable[[Block], float]


class LearningDivergedError(RuntimeError):
    """The loss of a learned block is no longer a number."""

    def __init__(self, epoch: int) -> None:
        super().__init__(
            f"training of the learned block diverged in epoch {epoch}: use a smaller learning_rate "
            "(--config), or --fusion ridge"
        )
        self.epoch = epoch


class Run:
    """A module, its optimizer and what they have reached."""

    def __init__(
        self,
        data: Dataset,
        options: LearnConfig,
        popularity: FloatArray,
        targets: npt.NDArray[np.bool_],
        folder: Path,
    ) -> None:
        self._options = options
        self._popularity, self._targets = popularity, targets
        self._folder = folder
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(options.seed)
        self._block = LearnedBlock(len(data.items), data.item_text, options).to(self._device)
        small = {"log_scale", "gates", "slopes"}  # a few scalars, which decay would pull to a wrong place
        named = list(self._block.named_parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for name, p in named if name not in small]},
            {"params": [p for name, p in named if name in small], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(
            groups,
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
        )
        negatives = options.negatives or (SAMPLED if len(data.items) > FULL_SOFTMAX_ITEMS else 0)
        self._ranking = Ranking(torch.from_numpy(popularity), negatives, options.seed)
        self._mean = {name: p.detach().clone() for name, p in named}
        self._best = dict(self._mean)
        self.progress = Progress()
        found = checkpoint.load(folder)
        if found is not None:
            self._restore(*found)

    def epoch(self, steps: Steps) -> float:
        """Train for one epoch and return the mean loss of its steps.  Raises: LearningDivergedError."""
        number = self.progress.epoch
        torch.manual_seed(self._options.seed * 1_000_003 + number)  # so that a resumed run draws the same
        self._ranking.seed(number)
        self._block.train()
        total = 0.0
        bf16 = self._device.type == "cuda" and torch.cuda.is_bf16_supported()
        for step in steps.epoch(number):
            inputs = Inputs.of(step, self._device)
            with torch.autocast("cuda", torch.bfloat16) if bf16 else nullcontext():
                loss = step_loss(self._block, self._ranking, step, inputs, self._options)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self._average()
            total += float(loss.detach())
        self.progress.epoch += 1
        if not np.isfinite(total):
            raise LearningDivergedError(self.progress.epoch)
        return total / max(1, steps.per_epoch)

    def check(self, score: Score | None, *, last: bool) -> dict[str, float]:
        """Compare with the best so far, write a checkpoint, and return the figures."""
        progress = self.progress
        figures = {}
        if score is None:
            progress.best_epoch = progress.epoch
        else:
            figures["ndcg@20"] = reached = score(self._with(self._mean))
            progress.checks.append((progress.epoch, reached))
            if reached > progress.best_ndcg:
                progress.best_epoch, progress.best_ndcg = progress.epoch, reached
            progress.finished = progress.epoch - progress.best_epoch >= self._options.patience * CHECK_EVERY
        if progress.best_epoch == progress.epoch:
            self._best = {name: mean.clone() for name, mean in self._mean.items()}
        progress.finished |= last
        now = {name: p.detach() for name, p in self._block.named_parameters()}
        kept = {"now": now, "mean": self._mean, "best": self._best}
        tensors = {
            f"{which}.{name}": tensor for which, all_of in kept.items() for name, tensor in all_of.items()
        }
        checkpoint.save(self._folder, progress, tensors | checkpoint.optimizer_tensors(self._optimizer))
        return figures

    def best(self) -> Block:
        """Return the block of the best check."""
        return self._with(self._best)

    @torch.no_grad()
    def _average(self) -> None:
        keep = self._options.averaging
        for name, parameter in self._block.named_parameters():
            self._mean[name].lerp_(parameter, 1.0 - keep)

    def _with(self, tensors: dict[str, Tensor]) -> Block:
        """Return the block of other weights; those of the module stay."""
        now = {name: p.detach().clone() for name, p in self._block.named_parameters()}
        self._load(tensors)
        block = self._block.block(self._popularity, self._targets)
        self._load(now)
        return block

    def _restore(self, progress: Progress, tensors: dict[str, Tensor]) -> None:
        self.progress = progress
        self._load(_below(tensors, "now."))
        self._mean, self._best = _below(tensors, "mean."), _below(tensors, "best.")
        checkpoint.restore_optimizer(self._optimizer, tensors)

    def _load(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._block.named_parameters():
                parameter.copy_(tensors[name])


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t.clone() for name, t in tensors.items() if name.startswith(prefix)}


log = logging.getLogger(__name__)

Report = Callable[[dict[str, float], int], None]


@dataclass(frozen=True)
class Learned:
    """A trained block, at its best epoch, and how it got there: (epoch, NDCG@20) of every check."""

    block: Block
    epoch: int
    ndcg: float | None
    checks: list[tuple[int, float]]
    seconds: float


def learn(
    data: Dataset,
    config: TowerConfig,
    options: LearnConfig,
    score: Score | None,
    folder: Path,
    report: Report | None = None,
) -> Learned:
    """Return a block trained on the visible rows of a data set.

    A run with the same data, settings and folder goes on from the last checkpoint there. Equal seeds give
    equal blocks on the same machine.

    Args:
        data: held-out rows of it are not looked at.
        config: how events are weighted.
        options: of training; negatives 0 means the full softmax up to FULL_SOFTMAX_ITEMS items.
        score: NDCG@20 of a block on held-out rows; None trains for all the epochs.
        folder: of checkpoints and TensorBoard's files.
        report: takes the figures of an epoch and its number, besides TensorBoard.
    """
    began = time.perf_counter()
    folder = folder / _key(data, config, options, scored=score is not None)
    options = options.for_users(int((np.diff(data.seen.indptr) > 0).sum()))
    steps = Steps(data, config, options)
    events = data.events(config)  # an item that only actions of weight 0 name was never learned
    popularity = np.bincount(events.indices, minlength=len(data.items)).astype(np.float32)
    run = Run(data, options, popularity, steps.targets, folder)
    if run.progress.epoch:
        log.info("training goes on after epoch %d (%s)", run.progress.epoch, folder.name)
    with (
        SummaryWriter(str(folder)) as writer,
        tqdm(
            total=options.epochs, initial=run.progress.epoch, desc="train", unit="epoch", disable=None
        ) as bar,
    ):
        while run.progress.epoch < options.epochs and not run.progress.finished:
            figures = {"loss": run.epoch(steps)}
            last = run.progress.epoch == options.epochs
            if run.progress.epoch % CHECK_EVERY == 0 or last:
                figures |= run.check(score, last=last)
            for name, value in figures.items():
                writer.add_scalar(name, value, run.progress.epoch)
            if report is not None:
                report(figures, run.progress.epoch)
            bar.set_postfix_str(f"NDCG@20 {run.progress.best_ndcg:.4f}" if score else "")
            bar.update()
    progress = run.progress
    ndcg = progress.best_ndcg if score else None
    reached = "" if ndcg is None else f", NDCG@20 {ndcg:.4f}"
    log.info("trained: epoch %d of %d%s", progress.best_epoch, progress.epoch, reached)
    return Learned(run.best(), progress.best_epoch, ndcg, progress.checks, time.perf_counter() - began)


def members(options: LearnConfig) -> list[LearnConfig]:
    """Return the settings of each member: the same but for the seed."""
    return [replace(options, seed=options.seed + 1_000 * i) for i in range(options.members)]


def _key(data: Dataset, config: TowerConfig, options: LearnConfig, *, scored: bool) -> str:
    """Return a name that only the same rows, held-out ones too, texts and settings give."""
    digest = hashlib.sha256(json.dumps([config.as_json(), options.as_json(), scored]).encode())
    rows, texts = data.history, data.texts
    arrays = [rows.users, rows.items, rows.weights, rows.ts, texts.users, texts.items, texts.vectors]
    arrays += [data.ties.indptr, data.ties.indices, data.ties.data, data.item_text]
    for name, held in sorted([*data.held_out.items(), ("", rows)]):
        digest.update("\0".join([name, *held.actions.names]).encode())
        arrays += [held.users, held.items, held.actions.codes]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)  # the buffer itself, no copy
    return digest.hexdigest()[:16]
