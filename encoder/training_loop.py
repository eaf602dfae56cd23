"""The loop that trains everything here that torch learns: AdamW, early stopping, the best weights kept."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Progress:
    """The progress of a training.

    Attributes:
        epoch: epochs done.
        best_epoch: the epoch whose weights were kept last; 0 before any.
        best_loss: the held-out loss of those weights; a caller may set a first one, which must be beaten.
        finished: whether no further epoch is to follow.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    finished: bool = False


@dataclass(frozen=True)
class EpochFigures:
    """The figures of one epoch.

    Attributes:
        epoch: its number, from 1 on.
        training: mean loss of its steps.
        held_out: the held-out loss after it; NaN where the epoch was not checked, or nothing is held out.
        seconds: training and check together.
    """

    epoch: int
    training: float
    held_out: float
    seconds: float


def do_nothing(*_: object) -> None:
    """Do nothing: the default of a hook of `Training`."""


@dataclass(frozen=True)
class Training:
    """Parameters of the loop: the losses, when to stop, the optimizer, and hooks.

    Attributes:
        parameters: by name, in the order in which the norm of the gradient adds them up.
        optimizer: of these parameters.
        losses: yields the loss of each step of an epoch, which counts from 1; the optimizer has moved the
            weights before the next loss is computed.
        held_out: gives the loss of the weights as they are on held-out data, lower is better; None trains
            for all epochs, and the last weights count as the best.
        keep: remembers the weights as they are, the best so far.
        epochs: at most.
        patience: epochs without a better held-out loss after which training stops.
        check_every: epochs from one check to the next; the last epoch is always checked.
        clip: largest norm of the gradient; None leaves it as it is.
        schedule: changes the learning rate after each step.
        diverged: makes the error to raise of an epoch, a step (from 0 on, over all epochs) and its loss that
            is infinite or no number; None trains on.
        after_step: called with the step's number while its gradients are still there.
        after_check: called when a check has brought the progress up to date, to write a checkpoint.
        after_epoch: called with the figures of each epoch.
    """

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    losses: Callable[[int], Iterable[Tensor]]
    held_out: Callable[[], float] | None
    keep: Callable[[], None]
    epochs: int
    patience: int
    check_every: int = 1
    clip: float | None = None
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None
    diverged: Callable[[int, int, float], Exception] | None = None
    after_step: Callable[[int], object] = do_nothing
    after_check: Callable[[Progress], object] = do_nothing
    after_epoch: Callable[[EpochFigures], object] = do_nothing


def train_epochs(training: Training, progress: Progress) -> None:
    """Train until the epochs are over or the held-out loss no longer falls; `progress` is kept up to date.

    The weights are left as the last step made them: `training.keep` saw the best ones.

    Raises:
        Exception: what `training.diverged` makes.
    """
    step = 0
    while progress.epoch < training.epochs and not progress.finished:
        began = time.perf_counter()
        total, first = 0.0, step
        for loss in training.losses(progress.epoch + 1):
            total += _take_step(training, loss, progress.epoch + 1, step)
            step += 1
        progress.epoch += 1
        held_out = math.nan
        if progress.epoch % training.check_every == 0 or progress.epoch == training.epochs:
            held_out = _check(training, progress)
        mean = total / max(1, step - first)
        training.after_epoch(EpochFigures(progress.epoch, mean, held_out, time.perf_counter() - began))


def _take_step(training: Training, loss: Tensor, epoch: int, step: int) -> float:
    """Move the weights by the gradient of a loss and return its value."""
    loss.backward()  # type: ignore[no-untyped-call]
    if training.clip is not None:
        nn.utils.clip_grad_norm_(training.parameters.values(), training.clip)
    training.optimizer.step()
    value = float(loss.detach())  # waits for a GPU, so only now
    if training.diverged is not None and not math.isfinite(value):
        raise training.diverged(epoch, step, value)
    training.after_step(step)
    training.optimizer.zero_grad()
    if training.schedule is not None:
        training.schedule.step()
    return value


def _check(training: Training, progress: Progress) -> float:
    """Compare the weights with the best so far, keep them if they are better, and return their loss."""
    loss = math.nan if training.held_out is None else training.held_out()
    if training.held_out is None or loss < progress.best_loss:
        progress.best_epoch = progress.epoch
        progress.best_loss = progress.best_loss if training.held_out is None else loss
        training.keep()
    progress.finished = (
        progress.epoch == training.epochs or progress.epoch - progress.best_epoch >= training.patience
    )
    training.after_check(progress)
    return loss


def adamw(
    parameters: Mapping[str, nn.Parameter],
    rate: float,
    decay: float,
    decays: Callable[[str, nn.Parameter], bool],
    faster: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """Return AdamW over named parameters; the weights of those for which `decays` is true decay.

    `faster` gives factors of the rate by name; where it names none, the rate is the same for all.

    Source:
        Loshchilov and Hutter 2019, "Decoupled weight decay regularization", ICLR.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, one in parameters.items():
        settings = (decay if decays(name, one) else 0.0, rate * (faster or {}).get(name, 1.0))
        groups.setdefault(settings, []).append(one)
    return torch.optim.AdamW(
        [{"params": group, "weight_decay": own, "lr": lr} for (own, lr), group in groups.items()],
        lr=rate,
        fused=True,
    )


class BestWeights:
    """A copy of the best weights so far, on the CPU."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self.keep()

    def keep(self) -> None:
        """Copy the weights as they are now."""
        self._kept = {name: one.detach().cpu().clone() for name, one in self._parameters.items()}

    @torch.no_grad()
    def restore(self) -> None:
        """Set the weights to what was copied last."""
        for name, one in self._parameters.items():
            one.copy_(self._kept[name])
