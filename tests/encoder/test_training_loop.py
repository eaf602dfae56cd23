"""The training loop by itself: when it stops, which weights are the best, when hooks are called."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from encoder.training_loop import BestWeights, EpochFigures, Progress, Training, adamw, train_epochs


class Recorder:
    """One weight w with loss w, so that each step lowers it; held-out losses are given."""

    def __init__(self, held_out: list[float] | None = None, first_loss: float = math.inf, **options: object):
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.parameters = {"w": self.weight}
        self.best = BestWeights(self.parameters)
        self.progress = Progress(best_loss=first_loss)
        self.steps: list[int] = []
        self.kept: list[int] = []
        self.checks: list[tuple[int, bool]] = []
        self.epochs: list[EpochFigures] = []
        given = iter(held_out or [])
        self.training = Training(
            self.parameters,
            adamw(self.parameters, 0.1, 0.0, lambda *_: False),
            self.losses,
            None if held_out is None else lambda: next(given),
            self.keep,
            **({"epochs": 6, "patience": 2, "after_step": self.steps.append} | options),
            after_check=lambda progress: self.checks.append((progress.epoch, progress.finished)),
            after_epoch=self.epochs.append,
        )

    def losses(self, _: int) -> Iterator[Tensor]:
        for _ in range(2):
            yield self.weight * 1.0

    def keep(self) -> None:
        self.kept.append(self.progress.epoch)
        self.best.keep()


def test_it_stops_after_patience_epochs_without_a_better_loss_and_the_best_weights_come_back() -> None:
    run = Recorder([3.0, 1.0, 2.0, 1.0, 0.0])
    train_epochs(run.training, run.progress)
    assert (run.progress.epoch, run.progress.best_epoch, run.progress.best_loss) == (4, 2, 1.0)
    assert run.kept == [1, 2]
    assert run.steps == list(range(8))
    assert run.checks == [(1, False), (2, False), (3, False), (4, True)]
    last = run.weight.item()
    run.best.restore()
    assert run.weight.item() > last  # two epochs earlier


def test_a_first_loss_must_be_beaten() -> None:
    run = Recorder([3.0, 4.0, 0.0], first_loss=2.0)
    train_epochs(run.training, run.progress)
    assert (run.progress.epoch, run.progress.best_epoch, run.kept) == (2, 0, [])


def test_checks_come_every_few_epochs_and_after_the_last() -> None:
    run = Recorder([3.0, 2.0], epochs=5, patience=9, check_every=3)
    train_epochs(run.training, run.progress)
    assert [one.epoch for one in run.epochs if not math.isnan(one.held_out)] == [3, 5]
    assert run.checks == [(3, False), (5, True)]
    assert run.epochs[0].training == pytest.approx(0.95)  # steps at 1 and .9


def test_without_held_out_data_the_last_weights_are_the_best() -> None:
    run = Recorder(None, epochs=3, patience=1)
    train_epochs(run.training, run.progress)
    assert (run.progress.best_epoch, run.kept) == (3, [1, 2, 3])


def test_a_loss_that_is_no_number_raises_what_the_caller_makes_of_it() -> None:
    run = Recorder(None, diverged=lambda epoch, step, loss: ArithmeticError(f"{epoch} {step} {loss}"))
    run.training.optimizer.param_groups[0]["lr"] = math.inf
    with pytest.raises(ArithmeticError, match="1 1 -inf"):
        train_epochs(run.training, run.progress)


def test_a_finished_training_does_nothing_more() -> None:
    run = Recorder([1.0])
    run.progress.finished = True
    train_epochs(run.training, run.progress)
    assert not run.steps


def test_decay_and_rate_go_by_name() -> None:
    weights = {name: nn.Parameter(torch.ones(1)) for name in ("table", "scale", "trust")}
    optimizer = adamw(weights, 0.1, 0.01, lambda name, _: name == "table", {"trust": 20.0})
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for name, one in weights.items()
        if any(one is each for each in group["params"])
    }
    assert found == {"table": (0.1, 0.01), "scale": (0.1, 0.0), "trust": (pytest.approx(2.0), 0.0)}
