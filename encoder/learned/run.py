"""One run of training: a module, its optimizer, the mean of its weights, and what they have reached."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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
