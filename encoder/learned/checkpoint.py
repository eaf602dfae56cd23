"""Where training stands, on disk: a run that is killed goes on from the last checkpoint."""

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from encoder.learned.config import CHECKPOINT_FILE

log = logging.getLogger(__name__)

_STATE_KEY = "state"


@dataclass
class Progress:
    """What a run has reached.

    Attributes:
        epoch: epochs done.
        checks: (epoch, NDCG@20) of every check so far.
        best_epoch, best_ndcg: of the best check; 0 and −1 before the first.
        finished: whether it needs no further epoch.
    """

    epoch: int = 0
    checks: list[tuple[int, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_ndcg: float = -1.0
    finished: bool = False


def save(folder: Path, progress: Progress, tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint in place of the one before, by one rename: it is the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{CHECKPOINT_FILE}.draft"
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, draft, metadata={_STATE_KEY: json.dumps(vars(progress))})
    with draft.open("rb") as written:
        os.fsync(written.fileno())
    draft.replace(folder / CHECKPOINT_FILE)


def load(folder: Path) -> tuple[Progress, dict[str, Tensor]] | None:
    """Return the last checkpoint of a folder; None where there is none, or none that can be read."""
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        return None
    try:
        tensors = load_file(path)
        state = json.loads(_metadata(path)[_STATE_KEY])
        state["checks"] = [(int(epoch), float(ndcg)) for epoch, ndcg in state["checks"]]
        return Progress(**state), tensors
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        log.warning("checkpoint %s cannot be read (%s): training starts anew", path, error)
        return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimizer as named tensors."""
    return {
        f"optimizer.{number}.{name}": torch.as_tensor(value)
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Set the state of an optimizer to what `optimizer_tensors` gave."""
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
