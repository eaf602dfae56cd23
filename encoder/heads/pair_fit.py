"""Fitting a head of click or rating on frozen vectors, in torch."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.special import expit, logit
from torch import Tensor, nn
from torch.nn import functional

from encoder.arrays import IntArray
from encoder.heads.examples import Examples, Floats
from encoder.heads.graph import PairWeights, TasteWeights
from encoder.heads.options import HeadOptions, Task
from encoder.heads.places import POSITIONS, places_of
from encoder.heads.scores import PairInputs, PairScore, SubjectInputs, Taste, inner_products
from encoder.heads.statistics import (
    Hinges,
    Scaling,
    bent_line,
    fit_line,
    item_means,
    platt_line,
    rating_biases,
)
from encoder.heads.subjects import Asked
from encoder.heads.training import train_module
from encoder.views import FloatArray
from evaluation.classification import log_loss, rmse

log = logging.getLogger(__name__)

ScoresOf = Callable[[IntArray], Tensor]
"""Scores all examples of subjects at some positions (s,)."""


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
        mean, deviation = self.matched_scaling
        matched = torch.from_numpy((inner_products(asked, items) - np.float32(mean)) / np.float32(deviation))
        examples, tables = asked.examples, torch.from_numpy(self.biases).float()  # (F + 1, N)
        biases = tables[asked.folds[asked.subject], examples.items]
        table = torch.from_numpy(self.item_scaling.apply(items))
        rows, places = torch.from_numpy(examples.items), torch.from_numpy(places_of(examples.positions))

        def score(subjects: IntArray) -> Tensor:
            at, place = asked.examples_of(subjects)
            some, folds = asked.subjects.take(subjects), asked.folds[subjects]
            people = SubjectInputs.of(some, self.user_scaling, self.ratings, folds)
            pairs = PairInputs(torch.from_numpy(place), rows[at], matched[at], biases[at], places[at])
            scored: Tensor = self.score(people, pairs, table, tables)
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

    def losses(generator: np.random.Generator) -> Iterator[Tensor]:
        for subjects in train.parts(generator.permutation(len(train.subjects)), options.batch):
            yield loss(scores_of(subjects), wanted[train.examples_of(subjects)[0]])

    def calibrated() -> tuple[PairFit, float]:
        scores = all_scores(valid_scores_of, valid, 1 << 16)
        slope, intercept = (fit_line if rated else platt_line)(scores, valid.examples.labels)
        fitted = replace(fit, slope=slope, intercept=intercept)
        return fitted, (rmse if rated else log_loss)(valid.examples.labels, fitted.predictions(scores))

    train_module(fit.score, losses, lambda: calibrated()[1], options, task)
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
    parts = asked.parts(np.arange(len(asked.subjects)), batch)
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
