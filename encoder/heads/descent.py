"""The training loop of the task heads: AdamW with early stopping."""

import copy
import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from encoder.heads.options import HeadOptions

log = logging.getLogger(__name__)


def descend(
    model: nn.Module,
    n_examples: int,
    train_loss: Callable[[Tensor], Tensor],
    valid_loss: Callable[[], float],
    options: HeadOptions,
    name: str,
    batch: int,
) -> int:
    """Bring a model to the epoch with the lowest valid loss and return that epoch; 0 is the model as given.

    Weight decay is for vectors and matrices alone. The order of the examples depends on the seed only.

    Args:
        model: changed in place.
        n_examples: how many rows `train_loss` may be asked for.
        train_loss: mean loss over some rows (b,) int64.
        valid_loss: of the model as it is.
        options: epochs, patience, rate, decay and seed are used.
        name: of the progress bar and the log lines.
        batch: rows a step.

    Source:
        Loshchilov and Hutter 2019, "Decoupled weight decay regularization", ICLR.
    """
    matrices = [p for p in model.parameters() if p.ndim > 0]
    scalars = [p for p in model.parameters() if p.ndim == 0]
    groups = [{"params": matrices, "weight_decay": options.decay}, {"params": scalars, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW([group for group in groups if group["params"]], lr=options.rate)
    generator = np.random.default_rng([options.seed, 4])
    best, best_epoch, best_state = valid_loss(), 0, copy.deepcopy(model.state_dict())
    log.info("%s: training on %d examples, valid loss %.5f before", name, n_examples, best)
    bar = tqdm(range(1, options.epochs + 1), desc=name, unit="epoch", disable=None)
    for epoch in bar:
        order = torch.from_numpy(generator.permutation(n_examples))
        for rows in torch.split(order, batch):
            optimiser.zero_grad()
            train_loss(rows).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        loss = valid_loss()
        bar.set_postfix(valid=f"{loss:.5f}")
        log.info("%s: epoch %d, valid loss %.5f", name, epoch, loss)
        if loss < best:
            best, best_epoch, best_state = loss, epoch, copy.deepcopy(model.state_dict())
        elif epoch - best_epoch >= options.patience:
            break
    model.load_state_dict(best_state)
    log.info("%s: epoch %d kept, valid loss %.5f", name, best_epoch, best)
    return best_epoch
