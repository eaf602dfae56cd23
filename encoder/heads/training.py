"""The training of a head, in torch: the decay and the epoch with the lowest valid loss."""

import logging
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from encoder.heads.options import HeadOptions
from encoder.progress import LongStage
from encoder.training_loop import BestWeights, EpochFigures, Progress, Training, train_epochs

log = logging.getLogger(__name__)


def train_module(
    model: nn.Module,
    train_losses: Callable[[np.random.Generator], Iterator[Tensor]],
    valid_loss: Callable[[], float],
    options: HeadOptions,
    name: str,
) -> None:
    """Train a model in place to the decay and epoch with the lowest valid loss, or leave it as given.

    Matrices and vectors decay, but for the tables of a taste, which have a decay of their own; scalars and
    places do not. The order of the examples depends on the seed only.

    Args:
        model: changed in place.
        train_losses: gives the mean losses of the steps of an epoch.
        valid_loss: gives the loss of the model as it is.
        options: epochs, patience, rate, decays and seed are used.
        name: of the progress bar and in the log.
    """
    parameters = dict(model.named_parameters())
    start, best = BestWeights(parameters), BestWeights(parameters)
    lowest, chosen = valid_loss(), "as given"
    log.info("%s: training, valid loss %.5f before", name, lowest)
    for decay in options.decays:
        start.restore()
        progress, own = Progress(best_loss=valid_loss()), BestWeights(parameters)
        generator = np.random.default_rng([options.seed, 4])

        def after_epoch(figures: EpochFigures) -> None:
            stage.advance(note=f"valid loss {figures.held_out:.5f}")
            log.info("%s: epoch %d, valid loss %.5f", name, figures.epoch, figures.held_out)

        with LongStage(f"{name}, decay {decay:g}", options.epochs, "epoch") as stage:
            training = Training(
                parameters,
                _optimizer(parameters, options, decay),
                lambda _: train_losses(generator),  # noqa: B023
                valid_loss,
                own.keep,
                options.epochs,
                options.patience,
                after_epoch=after_epoch,
            )
            train_epochs(training, progress)
        if progress.best_loss < lowest:
            lowest, chosen = progress.best_loss, f"epoch {progress.best_epoch} with decay {decay:g}"
            own.restore()
            best.keep()
    best.restore()
    log.info("%s: %s kept, valid loss %.5f", name, chosen, lowest)


def _optimizer(parameters: dict[str, nn.Parameter], options: HeadOptions, decay: float) -> torch.optim.AdamW:
    groups: dict[float, list[nn.Parameter]] = {}
    for name, one in parameters.items():
        still = one.ndim == 0 or name == "places"
        fast = name in ("taste.history", "taste.asked")
        groups.setdefault(0.0 if still else options.taste_decay if fast else decay, []).append(one)
    settings = [{"params": some, "weight_decay": one} for one, some in groups.items()]
    return torch.optim.AdamW(settings, lr=options.rate, fused=True)
