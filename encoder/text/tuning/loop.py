"""The training of a language model: device, texts as tensors, a linear rate, early stopping."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from encoder.progress import LongStage
from encoder.text.tuning.options import TextTrainingOptions
from encoder.training_loop import BestWeights, EpochFigures, Progress, Training, adamw, train_epochs

log = logging.getLogger(__name__)


class TextTuningDivergedError(ArithmeticError):
    """The training or held-out loss of a language model is infinite or no number."""

    def __init__(self, label: str, step: int, loss: float) -> None:
        super().__init__(f"{label}: the loss is {loss} at step {step}; try a lower learning rate")
        self.step = step


@dataclass(frozen=True)
class TuningTask:
    """One training of a language model.

    Attributes:
        label: for log and progress bar.
        model: put into training mode for a step and into evaluation mode to be judged.
        parameters: the trainable ones, by name.
        steps: of one epoch.
        loss: gives the loss of a step, by its number from 0 on over all epochs.
        held_out: gives the loss by which training stops early.
        after_step: called with the step's number while its gradients are still there.
    """

    label: str
    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
    steps: int
    loss: Callable[[int], Tensor]
    held_out: Callable[[], float]
    after_step: Callable[[int], None] = lambda _: None


@dataclass(frozen=True)
class TuningResult:
    """The result of one training.

    Attributes:
        before: held-out loss of the model as it came.
        after: the lowest held-out loss; the weights are those that gave it.
        improved: whether that is below `before`; if not, the weights are those that came.
        epochs: number, mean training loss (penalties included), held-out loss and seconds of each.
        steps: number of all steps.
        seconds: of the whole training.
    """

    before: float
    after: float
    improved: bool
    epochs: list[dict[str, float]]
    steps: int
    seconds: float


def run_tuning(task: TuningTask, options: TextTrainingOptions) -> TuningResult:
    """Train a model and leave it in evaluation mode with the weights of the lowest held-out loss.

    Raises:
        TextTuningDivergedError: a loss is infinite or no number.
    """
    started = time.perf_counter()
    total = task.steps * options.epochs
    optimizer = adamw(
        task.parameters, options.rate, options.weight_decay, lambda _, weights: weights.ndim > 1
    )
    progress = Progress()
    before = progress.best_loss = _held_out_loss(task, 0)
    best = BestWeights(task.parameters)
    epochs: list[dict[str, float]] = []
    log.info("%s: %d steps an epoch, held-out loss %.4f at first", task.label, task.steps, before)

    def losses(epoch: int) -> Iterator[Tensor]:
        task.model.train()
        yield from map(task.loss, range((epoch - 1) * task.steps, epoch * task.steps))

    def after_step(step: int) -> None:
        task.after_step(step)
        stage.advance()

    def after_epoch(figures: EpochFigures) -> None:
        epochs.append(
            {
                "epoch": figures.epoch,
                "training": figures.training,
                "held_out": figures.held_out,
                "seconds": figures.seconds,
            }
        )
        log.info(
            "%s: epoch %d, held-out loss %.4f, %.0f s",
            task.label, figures.epoch, figures.held_out, figures.seconds,
        )  # fmt: skip

    training = Training(
        task.parameters,
        optimizer,
        losses,
        lambda: _held_out_loss(task, progress.epoch * task.steps),
        best.keep,
        options.epochs,
        options.patience,
        clip=options.clip,
        schedule=linear_schedule(optimizer, options.warmup, total),
        diverged=lambda _, step, loss: TextTuningDivergedError(task.label, step, loss),
        after_step=after_step,
        after_epoch=after_epoch,
    )
    with LongStage(task.label, total, "step") as stage:
        train_epochs(training, progress)
    best.restore()
    improved = progress.best_loss < before
    if not improved:
        log.warning("%s: no epoch beat the untouched model, whose weights are kept", task.label)
    seconds = time.perf_counter() - started
    return TuningResult(before, progress.best_loss, improved, epochs, progress.epoch * task.steps, seconds)


def linear_schedule(
    optimizer: torch.optim.Optimizer, warmup: float, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return a schedule that raises the rate over a share of the steps and then lowers it linearly to 0."""
    rising = max(1, math.ceil(steps * warmup))

    def factor(step: int) -> float:
        return min((step + 1) / rising, max(steps - step, 0) / max(steps - rising, 1))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@contextmanager
def reproducible(seed: int) -> Iterator[torch.device]:
    """Yield the device to train on, with torch's random state seeded inside and untouched outside."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield device


def autocast(device: torch.device) -> Any:
    """Return a context in which products run in bfloat16 on CUDA; on a CPU everything is float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def tokenize(model: Any, texts: list[str], max_tokens: int) -> dict[str, Tensor]:
    """Turn texts into the input of a model's transformer, its default prompt before each, padded.

    Shapes:
        input_ids, attention_mask: (B, L) int64, on the model's device.
    """
    prompt = model.prompts[model.default_prompt_name] if model.default_prompt_name else ""
    longest = min(max_tokens, model.max_seq_length or max_tokens)
    encoded = model.tokenizer(
        [prompt + text for text in texts],
        padding=True,
        truncation=True,
        max_length=longest,
        return_tensors="pt",
    )
    return {name: tensor.to(model.device) for name, tensor in encoded.items()}


@torch.no_grad()  # inference mode would taint what models cache
def _held_out_loss(task: TuningTask, step: int) -> float:
    """Judge a model.  Raises: TextTuningDivergedError."""
    task.model.eval()
    loss = task.held_out()
    if not math.isfinite(loss):
        raise TextTuningDivergedError(task.label, step, loss)
    return loss
