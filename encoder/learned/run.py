"""The state of one training of a learned block, and the losses of its steps."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.learned import checkpoint
from encoder.learned.batches import Step, Steps
from encoder.learned.config import LearnConfig
from encoder.learned.losses import RankingLoss, step_loss
from encoder.learned.model import Inputs, LearnedBlock, to_numpy
from encoder.learned.parallel.group import RankGroup
from encoder.learned.start import BlockStart
from encoder.tower import Block
from encoder.training_loop import EpochFigures, Progress, Training, adamw, do_nothing
from encoder.views import FloatArray

CHECK_EVERY = 4  # epochs
FULL_SOFTMAX_ITEMS = 20_000
SAMPLED = 4_096
_TRUST = ("trust.log_pseudo_counts", "trust.log_sharpness", "trust.expected")
_TRUST_RATE = 20.0  # times the rate of the tables, at which so few steps would hardly move them
# Scalars, which decay would pull to a wrong place.
_NO_DECAY = ("log_scale", "gates", "slopes", *_TRUST)

Score = Callable[[Block], float]


class LearningDivergedError(RuntimeError):
    """The loss of a learned block is infinite or no number."""

    def __init__(self, epoch: int) -> None:
        super().__init__(
            f"training of the learned block diverged in epoch {epoch}: use a smaller learning_rate "
            "(--config), or --fusion ridge"
        )
        self.epoch = epoch


class StepLoss(nn.Module):
    """The loss of a step, or of the part of it that one rank has, as a module with the block's parameters."""

    def __init__(self, block: LearnedBlock, ranking: RankingLoss, options: LearnConfig) -> None:
        super().__init__()
        self.block = block
        self._ranking, self._options = ranking, options

    def forward(self, step: Step, inputs: Inputs) -> Tensor:
        """Compute the loss, a scalar."""
        return step_loss(self.block, self._ranking, step, inputs, self._options)


class TrainingRun:
    """The state of one training: module, optimizer, mean of the weights, progress; saved as a checkpoint.

    Attributes:
        folder: of checkpoints.
        parameters: of the module, by name.
        progress: of the training; that of the last checkpoint in the folder, where there is one.
        checks: (epoch, NDCG@20) of every check.
    """

    def __init__(
        self,
        data: Dataset,
        config: TowerConfig,
        options: LearnConfig,
        folder: Path,
        device: torch.device,
        start: BlockStart | None = None,
    ) -> None:
        """Begin a training, or go on from the last checkpoint.

        Args:
            data: held-out rows of it are not looked at.
            config: how events are weighted.
            options: of training, with the users per step filled in.
            folder: of checkpoints.
            device: of the module.
            start: weights of an earlier block.

        Raises:
            StartMismatchError: a parameter of `start` has another shape.
        """
        self._options = options
        self.folder = folder
        self._steps = Steps(data, config, options)
        events = data.events(config)  # an item that only actions of weight 0 name was never learned
        self._popularity = np.bincount(events.indices, minlength=len(data.items)).astype(np.float32)
        self._device = device
        torch.manual_seed(options.seed)
        self._block = LearnedBlock(len(data.items), data.item_text_vectors, options).to(device)
        if start is not None:
            self._block.start_from(start.weights, start.rows)
        self.parameters = dict(self._block.named_parameters())
        self._optimizer = adamw(
            self.parameters,
            options.learning_rate,
            options.weight_decay,
            lambda name, _: name not in _NO_DECAY,
            dict.fromkeys(_TRUST, _TRUST_RATE),
        )
        negatives = options.negatives or (SAMPLED if len(data.items) > FULL_SOFTMAX_ITEMS else 0)
        self._ranking = RankingLoss(torch.from_numpy(self._popularity), negatives, options.seed)
        self._group: RankGroup | None = None
        self._loss: Callable[[Step, Inputs], Tensor] = StepLoss(self._block, self._ranking, options)
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

    @property
    def is_over(self) -> bool:
        """Whether no further epoch is to follow."""
        return self.progress.finished or self.progress.epoch >= self._options.epochs

    def join(self, group: RankGroup) -> None:
        """Compute a part of each step from now on, and leave the others to the other ranks."""
        self._group = group
        self._loss = group.adding(StepLoss(self._block, self._ranking, self._options))

    def training(
        self,
        held_out: Callable[[], float] | None,
        keep: Callable[[], None] = do_nothing,
        after_step: Callable[[int], object] = do_nothing,
        after_check: Callable[[Progress], object] = do_nothing,
        after_epoch: Callable[[EpochFigures], object] = do_nothing,
    ) -> Training:
        """Return the loop over the epochs; the arguments are those of `Training`."""
        return Training(
            self.parameters,
            self._optimizer,
            self._losses,
            held_out,
            keep,
            self._options.epochs,
            self._options.patience * CHECK_EVERY,
            check_every=CHECK_EVERY,
            diverged=lambda epoch, *_: LearningDivergedError(epoch),
            after_step=after_step,
            after_check=after_check,
            after_epoch=after_epoch,
        )

    def held_out_loss(self, score: Score) -> float:
        """Judge the mean of the weights and note its NDCG@20; return −NDCG@20."""
        ndcg = score(self._with(self._mean))
        self.checks.append((self.progress.epoch, ndcg))
        return -ndcg

    @torch.no_grad()
    def average(self) -> None:
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
        tensors |= checkpoint.optimizer_tensors(self._optimizer)
        checkpoint.save(self.folder, progress, self.checks, tensors)

    def best_block(self) -> Block:
        """Return the block of the best check."""
        return self._with(self._best)

    def best_weights(self) -> dict[str, FloatArray]:
        """Return the weights of the best check as arrays."""
        return {name: to_numpy(tensor) for name, tensor in self._best.items()}

    def _losses(self, epoch: int) -> Iterator[Tensor]:
        """Yield the losses of the steps of an epoch; the same epoch draws the same, also in a resumed run."""
        number = epoch - 1
        torch.manual_seed(self._options.seed * 1_000_003 + number)
        self._ranking.seed(number)
        bf16 = self._device.type == "cuda" and torch.cuda.is_bf16_supported()
        for step in self._steps.epoch(number):
            inputs, own = self._inputs(step)
            with torch.autocast("cuda", torch.bfloat16) if bf16 else nullcontext():
                loss = self._loss(own, inputs)
            yield loss

    def _inputs(self, step: Step) -> tuple[Inputs, Step]:
        """Return a step as tensors, and the step; of several ranks, the part of this one.

        What is left out is drawn for the whole step in any case, so that it does not depend on the ranks; of
        several on the CPU, because cards of other kinds draw other numbers.
        """
        if self._group is None:
            draws = self._block.draw(step.users, self._device)
        else:
            draws = self._block.draw(step.users, torch.device("cpu")).part(self._group.part)
            step = step.part(self._group.part)
        return Inputs.of(step, self._device, draws), step

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
        checkpoint.restore_optimizer(self._optimizer, tensors)

    @torch.no_grad()
    def _load(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return copies of the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): t.clone() for name, t in tensors.items() if name.startswith(prefix)}
