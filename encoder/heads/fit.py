"""Fitting a task head on frozen vectors in torch; the head's graph is checked against what was fitted."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse
from scipy.special import expit, logit
from torch import Tensor, nn
from torch.nn import functional

from encoder.arrays import IntArray
from encoder.heads.examples import TRAIN, Examples, Floats, NoExamplesError, check_labels
from encoder.heads.graph import CategoryWeights, PairWeights, TasteWeights, category_graph, pair_graph
from encoder.heads.labels import ItemLabels
from encoder.heads.options import HEAD_TASKS, HeadOptions, Quantity, Task, TaskError
from encoder.heads.places import POSITIONS, places_of
from encoder.heads.report import class_counts, predict_examples
from encoder.heads.runtime import Head, HeadInputError
from encoder.heads.scores import (
    Batches,
    ClassScore,
    PairInputs,
    PairScore,
    SubjectInputs,
    Taste,
    inner_products,
)
from encoder.heads.statistics import (
    Hinges,
    Scaling,
    bent_line,
    fit_line,
    fit_temperature,
    item_means,
    platt_line,
    rating_biases,
)
from encoder.heads.subjects import Asked
from encoder.progress import LongStage
from encoder.training_loop import BestWeights, EpochFigures, Progress, Training, train_epochs
from encoder.views import FloatArray
from evaluation.classification import log_loss, rmse

PARITY = 1e-5
_CHECKED = 512  # examples on which graph and model are compared

ScoresOf = Callable[[IntArray], Tensor]
"""Scores all examples of subjects at some positions (s,)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairFit:
    """A `PairScore`, the scaling of its input, and the function from its score to a prediction.

    The prediction is σ(hinges(slope score + intercept)) for click; slope score + intercept, clipped, for
    rating.

    Attributes:
        score: the trained part.
        user_scaling, item_scaling: of the vectors.
        matched_scaling: mean and deviation of <V_u, x_j> over the train examples.
        biases: (F + 1, N) float64, in the units of the score: without each fold, and last of all examples.
        everybody: (N + 1,) float64, the predictions (of click their log-odds) of a person without any view.
        ratings: mean and deviation of a rating.
        limits: of a rating, None for click.
        slope, intercept, hinges: see above.
    """

    score: PairScore
    user_scaling: Scaling
    item_scaling: Scaling
    matched_scaling: tuple[float, float]
    biases: Floats
    everybody: Floats
    ratings: tuple[float, float]
    limits: tuple[float, float] | None
    slope: float = 1.0
    intercept: float = 0.0
    hinges: Hinges = Hinges(np.zeros(0), np.zeros(0))  # noqa: RUF009  it is frozen

    def scorer(self, asked: Asked, items: FloatArray) -> ScoresOf:
        """Return a function from positions (s,) of subjects to the scores of all their examples."""
        people = SubjectInputs.of(asked.subjects, self.user_scaling, self.ratings, asked.folds)
        mean, deviation = self.matched_scaling
        matched = torch.from_numpy((inner_products(asked, items) - np.float32(mean)) / np.float32(deviation))
        examples, folds = asked.examples, asked.folds[asked.subject]
        biases = torch.from_numpy(self.biases[folds, examples.items]).float()
        tables, table = (
            torch.from_numpy(self.biases).float(),
            torch.from_numpy(self.item_scaling.apply(items)),
        )
        rows, places = torch.from_numpy(examples.items), torch.from_numpy(places_of(examples.positions))
        batches = Batches(asked, 1)

        def score(subjects: IntArray) -> Tensor:
            at, place = batches.examples_of(subjects)
            some = asked.subjects.take(subjects)
            chosen = SubjectInputs(
                people.vectors[subjects], torch.from_numpy(some.owners), torch.from_numpy(some.rows),
                (torch.from_numpy(some.ratings) - self.ratings[0]) / self.ratings[1], people.folds[subjects],
            )  # fmt: skip
            pairs = PairInputs(torch.from_numpy(place), rows[at], matched[at], biases[at], places[at])
            scored: Tensor = self.score(chosen, pairs, table, tables)
            return scored

        return score

    def predictions(self, scores: Floats) -> Floats:
        """Turn scores (n,) into predictions (n,)."""
        line = self.slope * scores + self.intercept
        return np.asarray(
            expit(self.hinges.apply(line)) if self.limits is None else np.clip(line, *self.limits)
        )

    def predict(self, asked: Asked, items: FloatArray, batch: int = 65_536) -> Floats:
        """Predict examples with torch: (n,) float64."""
        return self.predictions(all_scores(self.scorer(asked, items), asked, batch))

    def weights(self) -> PairWeights:
        """Fold scaling, score and calibration into plain arrays."""
        part = {name: value.detach().double().numpy() for name, value in self.score.named_parameters()}
        mean, deviation = self.matched_scaling
        of_user, of_item = 1 / self.user_scaling.deviation, 1 / self.item_scaling.deviation
        slope, inner = self.slope, self.slope * float(part["inner"]) / deviation
        low, high = self.limits or (None, None)
        last = self.biases[-1]
        return PairWeights(
            user_mean=self.user_scaling.mean.astype(np.float32),
            item_mean=self.item_scaling.mean.astype(np.float32),
            left=(part["left"] * of_user[:, None]).astype(np.float32),
            right=(slope * part["right"] * of_item[:, None]).astype(np.float32),
            user=(slope * part["user"] * of_user).astype(np.float32),
            item=(slope * part["item"] * of_item).astype(np.float32),
            biases=np.append(slope * float(part["gain"]) * last, 0.0).astype(np.float32),
            everybody=self.everybody.astype(np.float32),
            inner=inner,
            constant=slope * float(part["constant"]) + self.intercept - inner * mean,
            places=(slope * part["places"]).astype(np.float32) if "places" in part else None,
            taste=TasteWeights(
                biases=last.astype(np.float32),
                history=part["taste.history"].astype(np.float32),
                asked=np.vstack([slope * part["taste.asked"], np.zeros((1, part["taste.asked"].shape[1]))])
                .astype(np.float32),
                mean=self.ratings[0],
                deviation=self.ratings[1],
                gain=slope * float(part["taste.gain"]),
                shrinkage=self.score.taste.shrinkage,
            )
            if self.score.taste is not None
            else None,
            knots=self.hinges.knots.astype(np.float32),
            bends=self.hinges.weights.astype(np.float32),
            low=low,
            high=high,
        )  # fmt: skip


def fit_pairs(task: Task, train: Asked, valid: Asked, items: FloatArray, options: HeadOptions) -> PairFit:
    """Fit a head of click or rating; the epoch with the best valid loss is kept.

    No vector knows the pair that it is asked about, but the item tower learned from the train pairs. So slope
    and intercept are fitted on valid after every epoch, and training stops by the loss after that.

    Args:
        task: click (binary cross-entropy) or rating (mean squared error).
        train: both labels must occur.
        valid: for early stopping, slope and intercept.
        items: (N, D) float32.
        options: of the head.

    Source:
        Platt 1999, "Probabilistic outputs for support vector machines" (slope and intercept).
    """
    rated = task == "rating"
    fit, targets = _untrained(train, items, options, rated=rated)
    scores_of, valid_scores_of = fit.scorer(train, items), fit.scorer(valid, items)
    wanted = torch.from_numpy(targets).float()
    loss = functional.mse_loss if rated else functional.binary_cross_entropy_with_logits
    batches = Batches(train, options.batch)

    def losses(generator: np.random.Generator) -> Iterator[Tensor]:
        for subjects in batches.parts(generator.permutation(len(train.subjects))):
            yield loss(scores_of(subjects), wanted[batches.examples_of(subjects)[0]])

    def calibrated() -> tuple[PairFit, float]:
        scores = all_scores(valid_scores_of, valid, 1 << 16)
        slope, intercept = (fit_line if rated else platt_line)(scores, valid.examples.labels)
        fitted = replace(fit, slope=slope, intercept=intercept)
        return fitted, (rmse if rated else log_loss)(valid.examples.labels, fitted.predictions(scores))

    _train(fit.score, losses, lambda: calibrated()[1], options, task)
    _fill_places(fit.score, train.examples)
    fitted = calibrated()[0]
    if rated:
        return fitted
    scores = all_scores(valid_scores_of, valid, 1 << 16)
    slope, intercept, hinges = bent_line(scores, valid.examples.labels)
    log.info("%s: calibrated with %d hinges", task, len(hinges.knots))
    return replace(fit, slope=slope, intercept=intercept, hinges=hinges)


def all_scores(scores_of: ScoresOf, asked: Asked, batch: int) -> Floats:
    """Score all examples, (n,) float64, in their order, which is that of the subjects."""
    parts = Batches(asked, batch).parts(np.arange(len(asked.subjects)))
    with torch.no_grad():
        return np.concatenate([scores_of(part).double().numpy() for part in parts])


def _untrained(
    train: Asked, items: FloatArray, options: HeadOptions, *, rated: bool
) -> tuple[PairFit, Floats]:
    """Make the head that training begins with, and the targets (n,) in the units of its score."""
    examples, folds = train.examples, train.folds[train.subject]
    subjects, n_items = train.subjects, len(items)
    mean, deviation = float(examples.labels.mean()), float(examples.labels.std())
    tables = []
    for fold in [*range(int(train.folds.max()) + 1), None]:
        some = examples if fold is None else examples.where(folds != fold)
        if not len(some):
            some = examples
        if rated:
            tables.append(rating_biases(some, n_items, options.rating_shrinkage) / deviation)
        else:
            own, means = item_means(some, n_items, options.shrinkage)
            tables.append(logit(np.clip(means, 1e-9, 1 - 1e-9)) - logit(np.clip(own, 1e-9, 1 - 1e-9)))
    matched = inner_products(train, items)
    score = PairScore(items.shape[1], options.rank, 0.0 if rated else 1.0, options.seed)
    if rated:
        generator = torch.Generator().manual_seed(options.seed)
        score.taste = Taste(n_items, options.taste_rank, options.rating_shrinkage, generator)
    elif (examples.positions >= 0).any():
        _, of_places = item_means(replace(examples, items=places_of(examples.positions)), POSITIONS + 1,
                                  options.shrinkage)  # fmt: skip
        start = logit(np.clip(of_places, 1e-9, 1 - 1e-9)) - logit(mean)
        score.places = nn.Parameter(torch.from_numpy(start).float())
    base = mean if rated else float(logit(mean))
    fit = PairFit(
        score=score,
        user_scaling=Scaling.of(subjects.vectors),
        item_scaling=Scaling.of(items[np.unique(examples.items)]),
        matched_scaling=(float(matched.mean()), float(matched.std()) or 1.0),
        biases=np.stack(tables),
        everybody=np.append(tables[-1], 0.0) * (deviation if rated else 1.0) + base,
        ratings=(mean, deviation) if rated else (0.0, 1.0),
        limits=(float(examples.labels.min()), float(examples.labels.max())) if rated else None,
    )
    return fit, (examples.labels - mean) / deviation if rated else examples.labels


def _fill_places(score: PairScore, train: Examples) -> None:
    """Give places where nothing was shown the number of the place before, an unknown one the mean."""
    if score.places is None:
        return
    counts = np.bincount(places_of(train.positions), minlength=POSITIONS + 1)
    values = score.places.detach().numpy().copy()
    shown = np.flatnonzero(counts[:POSITIONS])
    before = np.maximum(np.searchsorted(shown, np.arange(POSITIONS), side="right") - 1, 0)
    values[:POSITIONS] = values[shown][before]
    if not counts[POSITIONS]:
        values[POSITIONS] = np.average(values, weights=counts)
    with torch.no_grad():
        score.places.copy_(torch.from_numpy(values))


@dataclass(frozen=True)
class CategoryFit:
    """A trained `ClassScore`; predictions are the softmax of its log-odds times `temperature`."""

    score: ClassScore
    scaling: Scaling
    labels: ItemLabels
    temperature: float = 1.0

    def logits(self, asked: Asked) -> Floats:
        """Score all subjects: (S, C) float64."""
        counts = class_counts(asked.subjects, self.labels.shares)
        with torch.no_grad():
            vectors = torch.from_numpy(self.scaling.apply(asked.subjects.vectors))
            return np.asarray(self.score(vectors, torch.from_numpy(counts).float()).double().numpy())

    def predict(self, asked: Asked) -> Floats:
        """Predict the probabilities of the classes of all subjects with torch: (S, C) float64."""
        logits = torch.from_numpy(self.temperature * self.logits(asked))
        return np.asarray(torch.softmax(logits, dim=1).numpy())

    def weights(self) -> CategoryWeights:
        """Fold scaling, score and calibration into plain arrays."""
        score = self.score
        matrix = score.matrix.detach().double().numpy() / self.scaling.deviation[:, None]  # (D, C)
        classes, shares = self.labels.padded()
        return CategoryWeights(
            mean=self.scaling.mean.astype(np.float32),
            matrix=np.ascontiguousarray(self.temperature * matrix, dtype=np.float32),
            constants=(self.temperature * score.constants.detach().double().numpy()).astype(np.float32),
            everybody=score.everybody.numpy(),
            classes=classes,
            shares=shares,
            own=self.temperature * float(score.own.detach()),
            amount=float(torch.exp(score.amount.detach())),
        )


def fit_categories(train: Asked, valid: Asked, labels: ItemLabels, options: HeadOptions) -> CategoryFit:
    """Fit a multinomial logistic regression; the epoch with the best valid loss is kept.

    The target of a subject is the distribution over the classes of the events; subjects weigh by their
    events, so that the loss is the mean cross-entropy of an event, the one that is measured.

    Args:
        train: examples of category.
        valid: for early stopping, and for the factor that the log-odds are multiplied by.
        labels: of the items.
        options: of the head.
    """
    n_classes = len(labels.classes)
    totals = np.bincount(train.examples.labels.astype(np.int64), train.examples.weights, n_classes)
    everybody = torch.from_numpy((totals + 1) / (totals + 1).sum()).float()  # a class never seen counts once
    score = ClassScore(train.subjects.vectors.shape[1], everybody)
    fit = CategoryFit(score, Scaling.of(train.subjects.vectors), labels)
    inputs, wanted = _by_subject(fit, train)
    valid_inputs, valid_wanted = _by_subject(fit, valid)
    mean_total = float(wanted.sum()) / len(wanted)

    def loss(vectors: Tensor, counts: Tensor, targets: Tensor) -> Tensor:
        return -(functional.log_softmax(score(vectors, counts), dim=1) * targets).sum()

    def losses(generator: np.random.Generator) -> Iterator[Tensor]:
        order = torch.from_numpy(generator.permutation(len(wanted)))
        for at in torch.split(order, options.user_batch):
            yield loss(inputs[0][at], inputs[1][at], wanted[at]) / (len(at) * mean_total)

    def valid_loss() -> float:
        with torch.no_grad():
            return float(loss(*valid_inputs, valid_wanted) / valid_wanted.sum())

    _train(score, losses, valid_loss, options, "category")
    examples = valid.examples
    logits = fit.logits(valid)[valid.subject]
    return replace(
        fit, temperature=fit_temperature(logits, examples.labels.astype(np.int64), examples.weights)
    )


def _by_subject(fit: CategoryFit, asked: Asked) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Return the vectors (S, D) and counts (S, C) of the subjects, and their events by class (S, C)."""
    examples, subjects = asked.examples, asked.subjects
    entries = (examples.weights, (asked.subject, examples.labels.astype(np.int64)))
    wanted = sparse.csr_array(entries, shape=(len(subjects), len(fit.labels.classes))).toarray()
    counts = class_counts(subjects, fit.labels.shares)
    vectors = torch.from_numpy(fit.scaling.apply(subjects.vectors))
    return (vectors, torch.from_numpy(counts).float()), torch.from_numpy(wanted).float()


class HeadParityError(RuntimeError):
    """The graph of a head disagrees with the model that was trained."""

    def __init__(self, task: str, difference: float) -> None:
        super().__init__(
            f"the graph of {task} differs from the trained head by {difference:.2e} > {PARITY} of its scale"
        )
        self.difference = difference


def fit_head(
    task: Task,
    train: Asked,
    valid: Asked,
    items: FloatArray,
    options: HeadOptions,
    *,
    quantity: Quantity,
    actions: tuple[str, ...] = (),
    labels: ItemLabels | None = None,
) -> Head:
    """Fit a head on train examples, stopped early by valid ones, and check its graph.

    Args:
        task: click, rating or category.
        train: examples of the task, asked of subjects that do not know them.
        valid: further ones, at least one.
        items: (N, D) float32.
        options: of the head.
        quantity: what its numbers are.
        actions: of the histories.
        labels: of the items, of category only.

    Raises:
        TaskError: the task has no head.
        HeadInputError: a vector is not finite.
        NoExamplesError: train or valid is empty, or all train labels of a click or rating are the same.
        HeadParityError: the graph does not compute what was fitted.
    """
    if task not in HEAD_TASKS:
        raise TaskError(task)
    for split, one in ((TRAIN, train), ("valid", valid)):
        if not len(one):
            raise NoExamplesError(task, split, "there is none")
    for name, vectors in (("user", train.subjects.vectors), ("item", items)):
        if not np.isfinite(vectors).all():
            row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
            raise HeadInputError(f"the {name} vector of row {row} is not finite")
    check_labels(task, train.examples)
    some = valid.where(np.arange(len(valid)) < _CHECKED)
    if labels is not None:
        of_category = fit_categories(train, valid, labels, options)
        model, wanted = category_graph(of_category.weights()), of_category.predict(some)[some.subject]
    else:
        fitted = fit_pairs(task, train, valid, items, options)
        model, wanted = pair_graph(fitted.weights()), fitted.predict(some, items)
    classes = labels.classes if labels is not None else ()
    head = Head(task, model.SerializeToString(), items.shape[1], options, quantity, actions, classes)
    # Of others the graph says what holds of everybody.
    met = np.any(some.subjects.vectors, axis=1)[some.subject]
    met &= (task == "category") | np.any(items, axis=1)[some.examples.items]
    apart = predict_examples(head, some, items) - wanted
    difference = np.abs(np.compress(met, apart, axis=0)).max(initial=0.0)
    scale = max(1.0, float(np.abs(wanted).max()))
    if not difference <= PARITY * scale:
        raise HeadParityError(task, float(difference / scale))
    return head


def _train(
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
