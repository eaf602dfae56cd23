"""The training loop that tuning and adaptation share: AdamW, a linear rate, early stopping."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from encoder.text.tuning.options import FitOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@contextmanager
def reproducible(seed: int) -> Iterator["torch.device"]:
    """Yield the device to train on, with torch's random state seeded inside and untouched outside."""
    import torch  # noqa: PLC0415  only while training

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield device


def autocast(device: "torch.device") -> Any:
    """Return a context in which products run in bfloat16 on CUDA; on a CPU everything is float32."""
    import torch  # noqa: PLC0415

    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def tokens(model: Any, texts: list[str], max_tokens: int) -> "dict[str, Tensor]":
    """Return what the model's transformer takes for texts, its default prompt before each, padded.

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


log = logging.getLogger(__name__)


class TextTuningDivergedError(ArithmeticError):
    """The loss is no longer a number."""

    def __init__(self, label: str, step: int, loss: float) -> None:
        super().__init__(f"{label}: the loss is {loss} at step {step}; try a lower learning rate")
        self.step = step


@dataclass(frozen=True)
class Fit:
    """What a training did.

    Attributes:
        before: held-out loss of the model as it came.
        after: the lowest held-out loss; the weights are those that gave it.
        improved: whether that is below `before`; if not, the weights are those that came.
        epochs: number, mean training loss (penalties included), held-out loss and seconds of each.
        steps: taken in all.
        seconds: in all.
    """

    before: float
    after: float
    improved: bool
    epochs: list[dict[str, float]]
    steps: int
    seconds: float


@dataclass(frozen=True)
class Task:
    """What is trained, and how it is judged.

    Attributes:
        label: for log and progress bar.
        model: put into training mode for a step and into evaluation mode to be judged.
        parameters: the trainable ones, by name.
        steps: of one epoch.
        loss: of a step, given its number from 0 on.
        held_out: the loss to stop by.
        after_step: called with the step's number while its gradients are still there.
    """

    label: str
    model: "nn.Module"
    parameters: "Mapping[str, nn.Parameter]"
    steps: int
    loss: "Callable[[int], Tensor]"
    held_out: Callable[[], float]
    after_step: Callable[[int], None] | None = None


def fit(task: Task, options: FitOptions) -> Fit:
    """Train, and leave the model in evaluation mode with the weights of the lowest held-out loss.

    Raises:
        TextTuningDivergedError: a loss is infinite or no number.
    """
    started = time.perf_counter()
    optimiser, schedule = _optimiser(task.parameters, options, task.steps * options.epochs)
    before = best = _judge(task, 0)
    kept, without = _copy(task.parameters), 0
    epochs: list[dict[str, float]] = []
    log.info("%s: %d steps an epoch, held-out loss %.4f at first", task.label, task.steps, before)
    with tqdm(total=task.steps * options.epochs, desc=task.label, unit="step", disable=None) as bar:
        for epoch in range(options.epochs):
            began = time.perf_counter()
            task.model.train()
            total = 0.0
            for step in range(epoch * task.steps, (epoch + 1) * task.steps):
                total += _step(task, step, optimiser, schedule, options.clip)
                bar.update()
            loss = _judge(task, (epoch + 1) * task.steps)
            took = time.perf_counter() - began
            mean = total / task.steps
            epochs.append({"epoch": epoch + 1, "training": mean, "held_out": loss, "seconds": took})
            log.info("%s: epoch %d, held-out loss %.4f, %.0f s", task.label, epoch + 1, loss, took)
            without = 0 if loss < best else without + 1
            if loss < best:
                best, kept = loss, _copy(task.parameters)
            if without == options.patience:
                break
    _restore(task.parameters, kept)
    if not best < before:
        log.warning("%s: no epoch beat the untouched model, whose weights are kept", task.label)
    seconds = time.perf_counter() - started
    return Fit(before, best, best < before, epochs, len(epochs) * task.steps, seconds)


def _optimiser(parameters: "Mapping[str, nn.Parameter]", options: FitOptions, steps: int) -> tuple[Any, Any]:
    import torch  # noqa: PLC0415

    groups = [
        {
            "params": [one for one in parameters.values() if one.ndim > 1],
            "weight_decay": options.weight_decay,
        },
        {"params": [one for one in parameters.values() if one.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=options.rate)
    rising = max(1, math.ceil(steps * options.warmup))

    def rate(step: int) -> float:
        return min((step + 1) / rising, max(steps - step, 0) / max(steps - rising, 1))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, rate)


def _step(task: Task, step: int, optimiser: Any, schedule: Any, clip: float) -> float:
    from torch.nn.utils import clip_grad_norm_  # noqa: PLC0415

    loss = task.loss(step)
    value = loss.item()
    if not math.isfinite(value):
        raise TextTuningDivergedError(task.label, step, value)
    loss.backward()  # type: ignore[no-untyped-call]
    clip_grad_norm_(task.parameters.values(), clip)
    optimiser.step()
    if task.after_step is not None:
        task.after_step(step)
    optimiser.zero_grad()
    schedule.step()
    return value


def _judge(task: Task, step: int) -> float:
    import torch  # noqa: PLC0415

    task.model.eval()
    with torch.no_grad():  # inference mode would taint what models cache
        loss = task.held_out()
    if not math.isfinite(loss):
        raise TextTuningDivergedError(task.label, step, loss)
    return loss


def _copy(parameters: "Mapping[str, nn.Parameter]") -> "dict[str, Tensor]":
    return {name: one.detach().cpu().clone() for name, one in parameters.items()}


def _restore(parameters: "Mapping[str, nn.Parameter]", kept: "Mapping[str, Tensor]") -> None:
    import torch  # noqa: PLC0415

    with torch.no_grad():
        for name, one in parameters.items():
            one.copy_(kept[name])
