"""Fitting a head of category on frozen vectors, in torch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from encoder.heads.examples import Floats
from encoder.heads.graph import CategoryWeights
from encoder.heads.labels import ItemLabels
from encoder.heads.options import HeadOptions
from encoder.heads.report import class_counts
from encoder.heads.scores import ClassScore
from encoder.heads.statistics import Scaling, fit_temperature
from encoder.heads.subjects import Asked
from encoder.heads.training import train_module


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

    train_module(score, losses, valid_loss, options, "category")
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
