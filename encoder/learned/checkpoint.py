"""Checkpoints of the training of a learned block; a killed run goes on from the last one."""

import json
import logging
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from encoder.learned.config import CHECKPOINT_FILE
from encoder.training_loop import Progress

log = logging.getLogger(__name__)

_STATE_KEY = "state"
WORST_LOSS = 1.0  # of −NDCG, which is never above 0: what a checkpoint holds before the first check


def save(
    folder: Path, progress: Progress, checks: list[tuple[int, float]], tensors: dict[str, Tensor]
) -> None:
    """Replace the checkpoint of a folder by one rename, so that a killed run leaves the old one or the new.

    Args:
        folder: made where it is missing.
        progress: its losses are −NDCG@20.
        checks: (epoch, NDCG@20) of every check so far.
        tensors: weights and the state of the optimizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "epoch": progress.epoch,
        "checks": checks,
        "best_epoch": progress.best_epoch,
        "best_ndcg": -progress.best_loss,
        "finished": progress.finished,
    }
    draft = folder / f"{CHECKPOINT_FILE}.draft"
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, draft, metadata={_STATE_KEY: json.dumps(state)})
    with draft.open("rb") as written:
        os.fsync(written.fileno())
    draft.replace(folder / CHECKPOINT_FILE)


def load(folder: Path) -> tuple[Progress, list[tuple[int, float]], dict[str, Tensor]] | None:
    """Return what `save` wrote into a folder; None where there is no checkpoint that can be read."""
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        return None
    try:
        tensors = load_file(path)
        state = json.loads(_metadata(path)[_STATE_KEY])
        checks = [(int(epoch), float(ndcg)) for epoch, ndcg in state["checks"]]
        best_loss = -float(state["best_ndcg"])
        return Progress(state["epoch"], state["best_epoch"], best_loss, state["finished"]), checks, tensors
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        log.warning("checkpoint %s cannot be read (%s): training starts anew", path, error)
        return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimizer as tensors by name."""
    return {
        f"optimizer.{number}.{name}": torch.as_tensor(value)
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Set the state of an optimizer to what `optimizer_tensors` returned."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        prefix, _, rest = key.partition(".")
        if prefix == "optimizer":
            number, _, name = rest.partition(".")
            states.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": states})


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open  # noqa: PLC0415  beside its only use

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())
