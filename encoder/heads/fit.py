"""Fitting the heads of click and rating on frozen vectors, in torch."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder.heads.descent import descend
from encoder.heads.examples import Examples, Floats
from encoder.heads.options import HeadOptions, Task
from encoder.heads.weights import PairWeights, Scaling, fit_line, fit_logistic, item_means, logit, sigmoid
from encoder.views import FloatArray
from evaluation.classification import log_loss, rmse

_AT_ONCE = 65_536

Inputs = Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]


class PairScore(nn.Module):
    """Score of a user and an item: scaled inner product, low-rank bilinear and linear terms, item bias.

    Shapes:
        users, items: (B, D) standardised; matched: (B,) standardised <V_u, x_j>; biases: (B,).
        returns: (B,) float32.
    """

    def __init__(self, dim: int, rank: int, inner: float, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.left, self.right = (
            nn.Parameter(torch.randn(dim, rank, generator=generator) * 0.1 / dim**0.5) for _ in range(2)
        )
        self.user, self.item = (nn.Parameter(torch.zeros(dim)) for _ in range(2))
        self.inner, self.gain, self.constant = (
            nn.Parameter(torch.tensor(value)) for value in (inner, 1.0, 0.0)
        )

    def forward(self, users: Tensor, items: Tensor, matched: Tensor, biases: Tensor) -> Tensor:
        """Return the scores."""
        bilinear = ((users @ self.left) * (items @ self.right)).sum(dim=1)  # (B,)
        linear = users @ self.user + items @ self.item
        return self.inner * matched + bilinear + linear + self.gain * biases + self.constant


@dataclass(frozen=True)
class PairFit:
    """A `PairScore` with what makes its input from raw vectors, and a prediction from its score.

    The prediction is σ(slope score + intercept) for click; slope score + intercept, clipped, for rating.

    Attributes:
        score: the trained part.
        user_scaling, item_scaling: of the vectors.
        matched_scaling: mean and deviation of <V_u, x_j> over the train pairs.
        biases: (N,) float64, in the units of the score.
        limits: of a rating, None for click.
        slope, intercept: see above.
    """

    score: PairScore
    user_scaling: Scaling
    item_scaling: Scaling
    matched_scaling: tuple[float, float]
    biases: Floats
    limits: tuple[float, float] | None
    slope: float = 1.0
    intercept: float = 0.0

    def inputs(self, examples: Examples, users: FloatArray, items: FloatArray) -> Inputs:
        """Return a function from positions (b,) in the examples to the input of `score`."""
        mean, deviation = self.matched_scaling
        matched = torch.from_numpy((inner_products(examples, users, items) - mean) / deviation).float()
        biases = torch.from_numpy(self.biases[examples.items]).float()
        user_table = torch.from_numpy(self.user_scaling.apply(users))
        item_table = torch.from_numpy(self.item_scaling.apply(items))
        u, j = torch.from_numpy(examples.users), torch.from_numpy(examples.items)
        return lambda at: (user_table[u[at]], item_table[j[at]], matched[at], biases[at])

    def scores(self, inputs: Inputs, count: int) -> Floats:
        """Return the scores (count,) of all the examples that `inputs` was made of."""
        with torch.no_grad():
            found = [self.score(*inputs(at)) for at in torch.split(torch.arange(count), _AT_ONCE)]
        return np.asarray(torch.cat(found).double().numpy())

    def predictions(self, scores: Floats) -> Floats:
        """Return the predictions (n,) that follow from scores (n,)."""
        line = self.slope * scores + self.intercept
        return sigmoid(line) if self.limits is None else np.clip(line, *self.limits)

    def predict(self, examples: Examples, users: FloatArray, items: FloatArray) -> Floats:
        """Return the predictions (n,) of examples, computed by torch."""
        return self.predictions(self.scores(self.inputs(examples, users, items), len(examples)))

    def weights(self) -> PairWeights:
        """Return the same function folded into plain arrays."""
        part = {name: value.detach().double().numpy() for name, value in self.score.named_parameters()}
        mean, deviation = self.matched_scaling
        of_user, of_item = 1 / self.user_scaling.deviation, 1 / self.item_scaling.deviation
        slope, inner = self.slope, self.slope * float(part["inner"]) / deviation
        low, high = self.limits or (None, None)
        return PairWeights(
            user_mean=self.user_scaling.mean.astype(np.float32),
            item_mean=self.item_scaling.mean.astype(np.float32),
            left=(part["left"] * of_user[:, None]).astype(np.float32),
            right=(slope * part["right"] * of_item[:, None]).astype(np.float32),
            user=(slope * part["user"] * of_user).astype(np.float32),
            item=(slope * part["item"] * of_item).astype(np.float32),
            biases=np.append(slope * float(part["gain"]) * self.biases, 0.0).astype(np.float32),
            inner=inner,
            constant=slope * float(part["constant"]) + self.intercept - inner * mean,
            low=low,
            high=high,
        )


def fit_pairs(
    task: Task, train: Examples, valid: Examples, users: FloatArray, items: FloatArray, options: HeadOptions
) -> PairFit:
    """Return the head of click or rating with the best valid loss.

    The vectors were made from the train pairs, which therefore score higher than unseen pairs do. So slope
    and intercept are fitted on valid after every epoch, and the loss that stops training is taken after that.

    Args:
        task: click (binary cross-entropy) or rating (mean squared error).
        train: both labels must occur.
        valid: for early stopping, slope and intercept.
        users: (U, D) float32.
        items: (N, D) float32.
        options: of the head.

    Source:
        Platt 1999, "Probabilistic outputs for support vector machines" (slope and intercept).
    """
    rated = task == "rating"
    fit, targets = _untrained(train, users, items, options, rated=rated)
    inputs, valid_inputs = fit.inputs(train, users, items), fit.inputs(valid, users, items)
    wanted = torch.from_numpy(targets).float()
    loss = functional.mse_loss if rated else functional.binary_cross_entropy_with_logits

    def calibrated() -> tuple[PairFit, float]:
        scores = fit.scores(valid_inputs, len(valid))
        slope, intercept = (fit_line if rated else fit_logistic)(scores, valid.labels)
        there = replace(fit, slope=slope, intercept=intercept)
        return there, (rmse if rated else log_loss)(valid.labels, there.predictions(scores))

    descend(
        fit.score,
        len(train),
        lambda rows: loss(fit.score(*inputs(rows)), wanted[rows]),
        lambda: calibrated()[1],
        options,
        task,
        options.batch,
    )
    return calibrated()[0]


def inner_products(examples: Examples, users: FloatArray, items: FloatArray) -> Floats:
    """Return <V_u, x_j> of each example (n,) float64, a bounded number at a time."""
    found = np.empty(len(examples))
    for start in range(0, len(examples), _AT_ONCE):
        at = slice(start, start + _AT_ONCE)
        found[at] = np.einsum("bd,bd->b", users[examples.users[at]], items[examples.items[at]])
    return found


def _untrained(
    train: Examples, users: FloatArray, items: FloatArray, options: HeadOptions, *, rated: bool
) -> tuple[PairFit, Floats]:
    """Return the head to begin with, and its targets (n,) in the units of its score."""
    mean, means = item_means(train, len(items), options.shrinkage)
    deviation = float(train.labels.std())
    matched = inner_products(train, users, items)
    fit = PairFit(
        score=PairScore(users.shape[1], options.rank, 0.0 if rated else 1.0, options.seed),
        user_scaling=Scaling.of(users[np.unique(train.users)]),
        item_scaling=Scaling.of(items[np.unique(train.items)]),
        matched_scaling=(float(matched.mean()), float(matched.std()) or 1.0),
        biases=(means - mean) / deviation if rated else logit(means) - logit(np.array(mean)),
        limits=(float(train.labels.min()), float(train.labels.max())) if rated else None,
    )
    return fit, (train.labels - mean) / deviation if rated else train.labels
