"""Fitting a task head on frozen vectors in torch; the head's graph is checked against what was fitted."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from encoder.heads.examples import TRAIN, Examples, Floats, NoExamplesError, check_labels
from encoder.heads.graph import CategoryWeights, PairWeights, category_graph, pair_graph
from encoder.heads.options import HEAD_TASKS, HeadOptions, Task, TaskError
from encoder.heads.report import predict_examples
from encoder.heads.runtime import Head, HeadInputError
from encoder.heads.statistics import Scaling, fit_line, fit_logistic, item_means, logit, sigmoid
from encoder.progress import LongStage
from encoder.training_loop import BestWeights, EpochFigures, Progress, Training, adamw, train_epochs
from encoder.views import FloatArray
from evaluation.classification import log_loss, rmse

PARITY = 1e-5
_CHECKED = 512  # examples on which graph and model are compared
_PAIRS_AT_ONCE = 65_536
_USERS_AT_ONCE = 8_192

PairInputs = Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]

log = logging.getLogger(__name__)


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
        """Score pairs."""
        bilinear = ((users @ self.left) * (items @ self.right)).sum(dim=1)  # (B,)
        linear = users @ self.user + items @ self.item
        return self.inner * matched + bilinear + linear + self.gain * biases + self.constant


@dataclass(frozen=True)
class PairFit:
    """A `PairScore`, the scaling of its input, and the function from its score to a prediction.

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

    def inputs(self, examples: Examples, users: FloatArray, items: FloatArray) -> PairInputs:
        """Return a function from positions (b,) in the examples to the input of `score`."""
        mean, deviation = self.matched_scaling
        matched = torch.from_numpy((inner_products(examples, users, items) - mean) / deviation).float()
        biases = torch.from_numpy(self.biases[examples.items]).float()
        user_table = torch.from_numpy(self.user_scaling.apply(users))
        item_table = torch.from_numpy(self.item_scaling.apply(items))
        u, j = torch.from_numpy(examples.users), torch.from_numpy(examples.items)
        return lambda at: (user_table[u[at]], item_table[j[at]], matched[at], biases[at])

    def scores(self, inputs: PairInputs, count: int) -> Floats:
        """Score all the examples that `inputs` was made of: (count,) float64."""
        with torch.no_grad():
            parts = [self.score(*inputs(at)) for at in torch.split(torch.arange(count), _PAIRS_AT_ONCE)]
        return np.asarray(torch.cat(parts).double().numpy())

    def predictions(self, scores: Floats) -> Floats:
        """Turn scores (n,) into predictions (n,)."""
        line = self.slope * scores + self.intercept
        return sigmoid(line) if self.limits is None else np.clip(line, *self.limits)

    def predict(self, examples: Examples, users: FloatArray, items: FloatArray) -> Floats:
        """Predict examples with torch: (n,) float64."""
        return self.predictions(self.scores(self.inputs(examples, users, items), len(examples)))

    def weights(self) -> PairWeights:
        """Fold scaling, score and calibration into plain arrays."""
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
    """Fit a head of click or rating; the epoch with the best valid loss is kept.

    The vectors were made from the train pairs, which therefore score higher than unseen pairs do. So slope
    and intercept are fitted on valid after every epoch, and training stops by the loss after that.

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
        fitted = replace(fit, slope=slope, intercept=intercept)
        return fitted, (rmse if rated else log_loss)(valid.labels, fitted.predictions(scores))

    _train(
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
    """Compute <V_u, x_j> of each example, (n,) float64, a bounded number at a time."""
    products = np.empty(len(examples))
    for start in range(0, len(examples), _PAIRS_AT_ONCE):
        at = slice(start, start + _PAIRS_AT_ONCE)
        products[at] = np.einsum("bd,bd->b", users[examples.users[at]], items[examples.items[at]])
    return products


def _untrained(
    train: Examples, users: FloatArray, items: FloatArray, options: HeadOptions, *, rated: bool
) -> tuple[PairFit, Floats]:
    """Make the head that training begins with, and the targets (n,) in the units of its score."""
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


class CategoryFit:
    """A trained linear layer on standardised user vectors.

    Attributes:
        layer: D → C.
        scaling: of the vectors.
    """

    def __init__(self, layer: nn.Linear, scaling: Scaling) -> None:
        self.layer = layer
        self.scaling = scaling

    def predict(self, users: FloatArray) -> Floats:
        """Predict the probabilities of the classes with torch: (B, C) float64."""
        with torch.no_grad():
            logits = self.layer(torch.from_numpy(self.scaling.apply(users)))
        return np.asarray(torch.softmax(logits, dim=1).double().numpy())

    def weights(self) -> CategoryWeights:
        """Fold scaling, score and calibration into plain arrays."""
        matrix = self.layer.weight.detach().double().numpy().T / self.scaling.deviation[:, None]  # (D, C)
        return CategoryWeights(
            self.scaling.mean.astype(np.float32),
            np.ascontiguousarray(matrix, dtype=np.float32),
            self.layer.bias.detach().numpy().copy(),
        )


def fit_categories(
    train: Examples, valid: Examples, users: FloatArray, n_classes: int, options: HeadOptions
) -> CategoryFit:
    """Fit a multinomial logistic regression; the epoch with the best valid loss is kept.

    The target of a user is the distribution over the classes of the user's events; users weigh by their
    events, so that the loss is the mean cross-entropy of an event, the one that is measured.

    Args:
        train: examples of category.
        valid: for early stopping.
        users: (U, D) float32.
        n_classes: C.
        options: of the head.
    """
    totals = np.bincount(train.labels.astype(np.int64), weights=train.weights, minlength=n_classes)
    layer = nn.Linear(users.shape[1], n_classes)
    with torch.no_grad():  # begins as the most frequent category; a class never seen counts as one event
        layer.weight.zero_()
        layer.bias.copy_(torch.from_numpy(np.log((totals + 1) / (totals + 1).sum())))
    scaling = Scaling.of(users[np.unique(train.users)])
    standardised = scaling.apply(users)
    rows, counts = _by_user(train, n_classes, len(users))
    inputs = torch.from_numpy(standardised[rows])
    valid_rows, valid_counts = _by_user(valid, n_classes, len(users))
    mean_total = float(counts.sum()) / len(rows)

    def loss(vectors: Tensor, targets: Tensor) -> Tensor:
        return -(functional.log_softmax(layer(vectors), dim=1) * targets).sum()

    def train_loss(at: Tensor) -> Tensor:
        targets = torch.from_numpy(counts[at.numpy()].toarray()).float()  # (b, C)
        return loss(inputs[at], targets) / (len(at) * mean_total)

    def valid_loss() -> float:
        total = 0.0
        for start in range(0, len(valid_rows), _USERS_AT_ONCE):
            part = slice(start, start + _USERS_AT_ONCE)
            targets = torch.from_numpy(valid_counts[part].toarray()).float()
            with torch.no_grad():
                total += float(loss(torch.from_numpy(standardised[valid_rows[part]]), targets))
        return total / float(valid_counts.sum())

    _train(layer, len(rows), train_loss, valid_loss, options, "category", options.user_batch)
    return CategoryFit(layer, scaling)


def _by_user(
    examples: Examples, n_classes: int, n_users: int
) -> tuple["np.ndarray[tuple[int], np.dtype[np.int64]]", "sparse.csr_array[np.float64]"]:
    """Group examples by user: the users (n,), and their events by class (n, C)."""
    entries = (examples.weights, (examples.users, examples.labels.astype(np.int64)))
    counts = sparse.csr_array(entries, shape=(n_users, n_classes))
    rows = np.unique(examples.users)
    return rows, counts[rows]


class HeadParityError(RuntimeError):
    """The graph of a head disagrees with the model that was trained."""

    def __init__(self, task: str, difference: float) -> None:
        super().__init__(
            f"the graph of {task} differs from the trained head by {difference:.2e} > {PARITY} of its scale"
        )
        self.difference = difference


def fit_head(
    task: Task,
    train: Examples,
    valid: Examples,
    users: FloatArray,
    items: FloatArray,
    options: HeadOptions,
    *,
    classes: tuple[str, ...] = (),
) -> Head:
    """Fit a head on train examples, stopped early by valid ones, and check its graph.

    Args:
        task: click, rating or category.
        train: examples of the task.
        valid: further ones, at least one.
        users: (U, D) float32.
        items: (N, D) float32.
        options: of the head.
        classes: names of the classes, of category only.

    Raises:
        TaskError: the task has no head.
        HeadInputError: a vector is not finite.
        NoExamplesError: train or valid is empty, or all train labels of a click or rating are the same.
        HeadParityError: the graph does not compute what was fitted.
    """
    if task not in HEAD_TASKS:
        raise TaskError(task)
    for split, examples in ((TRAIN, train), ("valid", valid)):
        if not len(examples):
            raise NoExamplesError(task, split, "there is none")
    for name, vectors in (("user", users), ("item", items)):
        if not np.isfinite(vectors).all():
            row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
            raise HeadInputError(f"the {name} vector of row {row} is not finite")
    check_labels(task, train)
    some = valid.where(np.arange(len(valid)) < _CHECKED)
    if task == "category":
        of_category = fit_categories(train, valid, users, len(classes), options)
        model, wanted = category_graph(of_category.weights()), of_category.predict(users[some.users])
    else:
        fitted = fit_pairs(task, train, valid, users, items, options)
        model, wanted = pair_graph(fitted.weights()), fitted.predict(some, users, items)
    head = Head(task, model.SerializeToString(), users.shape[1], options, classes)
    difference = np.abs(predict_examples(head, some, users, items) - wanted).max()
    scale = max(1.0, float(np.abs(wanted).max()))
    if not difference <= PARITY * scale:
        raise HeadParityError(task, float(difference / scale))
    return head


def _train(
    model: nn.Module,
    n_examples: int,
    train_loss: Callable[[Tensor], Tensor],
    valid_loss: Callable[[], float],
    options: HeadOptions,
    name: str,
    batch: int,
) -> None:
    """Train a model in place to the epoch with the lowest valid loss; epoch 0 is the model as given.

    Weights decay but for scalars. The order of the examples depends on the seed only.

    Args:
        model: changed in place.
        n_examples: how many rows `train_loss` is given in an epoch.
        train_loss: gives the mean loss over rows (b,) int64 of the examples.
        valid_loss: gives the loss of the model as it is.
        options: epochs, patience, rate, decay and seed are used.
        name: of the progress bar and in the log.
        batch: rows of one step.
    """
    parameters = dict(model.named_parameters())
    best = BestWeights(parameters)
    generator = np.random.default_rng([options.seed, 4])
    progress = Progress(best_loss=valid_loss())
    log.info("%s: training on %d examples, valid loss %.5f before", name, n_examples, progress.best_loss)

    def losses(_: int) -> Iterator[Tensor]:
        order = torch.from_numpy(generator.permutation(n_examples))
        yield from map(train_loss, torch.split(order, batch))

    def after_epoch(figures: EpochFigures) -> None:
        stage.advance(note=f"valid loss {figures.held_out:.5f}")
        log.info("%s: epoch %d, valid loss %.5f", name, figures.epoch, figures.held_out)

    with LongStage(name, options.epochs, "epoch") as stage:
        training = Training(
            parameters,
            adamw(parameters, options.rate, options.decay, lambda _, weights: weights.ndim > 0),
            losses,
            valid_loss,
            best.keep,
            options.epochs,
            options.patience,
            after_epoch=after_epoch,
        )
        train_epochs(training, progress)
    best.restore()
    log.info("%s: epoch %d kept, valid loss %.5f", name, progress.best_epoch, progress.best_loss)
