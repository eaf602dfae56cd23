"""Figures of a task head, beside those of baselines that do not use the vectors."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import expit

from encoder.heads.examples import Examples, Floats
from encoder.heads.labels import ItemLabels
from encoder.heads.places import FIRST
from encoder.heads.runtime import Head, Pairs
from encoder.heads.statistics import item_means, platt_line, rating_biases
from encoder.heads.subjects import Asked, Subjects
from encoder.views import FloatArray
from evaluation.bootstrap import paired_ci95
from evaluation.calibration import BINS, brier_scores, log_losses, reliability
from evaluation.classification import (
    Report,
    auc,
    auc_by_group,
    classification_report,
    cross_entropy,
    log_loss,
    mae,
    rmse,
    top_k_accuracy,
)

TOP = 3
_PROBABILITIES_AT_ONCE = 1 << 22

Losses = dict[str, Floats]
"""By metric: the loss of each example (n,), of which the metric is the mean."""


def predict_examples(head: Head, asked: Asked, items: FloatArray, position: int | None = None) -> Floats:
    """Predict examples with a head: (n,) float64, for a category (n, C).

    Args:
        head: fitted.
        asked: examples of its task.
        items: (N, D) float32.
        position: where all items are shown; None is where the examples were.
    """
    if head.task == "category":
        return head.predict(asked.subjects)[asked.subject].astype(np.float64)
    examples, parts = asked.examples, []
    for start in range(0, len(asked), step := 1 << 16):  # what is gathered at once stays small
        at = slice(start, start + step)
        rows = examples.items[at]
        places = examples.positions[at] if position is None else np.full(len(rows), position)
        parts.append(head.predict(asked.subjects, Pairs(asked.subject[at], items[rows], rows, places)))
    return np.concatenate(parts).astype(np.float64)


def evaluate_head(
    head: Head, asked: Asked, train: Examples, items: FloatArray, labels: ItemLabels | None = None
) -> dict[str, Any]:
    """Measure a head: {"examples", "quantity", "metrics", "baselines", "gains"}, as JSON values.

    click: auc, user_auc (mean over users with both labels), log_loss, brier; baselines `base rate` (of train)
    and `popularity` (logistic regression on the log of the number of train clicks); "calibration" (equally
    large tenths by prediction), and "as_served": the metrics with every item in the first place. rating:
    rmse, mae; baselines `global mean`, `user mean`, `item mean` and `user and item mean`, all shrunk.
    category: accuracy, top3_accuracy, macro_f1, micro_f1 and log_loss over events, precision@3 over users;
    baselines `most frequent` and `own distribution` (of the user's train events, plus one event spread like
    those of all users); "calibration" over all users and classes; "classes".

    "gains" has by baseline and metric the mean over users by which the head is better, and the paired 95 %
    interval; a user's figure is the mean over the user's examples.

    Args:
        head: fitted.
        asked: examples of the measured split.
        train: examples that the baselines are made from.
        items: (N, D) float32.
        labels: of the items, of category only.
    """
    figures: dict[str, Any] = {"examples": len(asked), "quantity": head.quantity}
    if labels is not None:
        return figures | _category(head, asked, train, labels)
    predicted = predict_examples(head, asked, items)
    if head.task == "click":
        return figures | _clicks(head, asked, train, items, predicted)
    return figures | _ratings(head, asked, train, len(items), predicted)


def class_counts(subjects: Subjects, shares: "sparse.csr_array[np.float64]") -> Floats:
    """Sum the shares (N, C) of the items in the histories of subjects: (S, C) float64."""
    ones = np.ones(len(subjects.rows))
    history = sparse.csr_array((ones, (subjects.owners, subjects.rows)), (len(subjects), shares.shape[0]))
    return np.asarray((history @ shares).toarray())


def _clicks(
    head: Head, asked: Asked, train: Examples, items: FloatArray, predicted: Floats
) -> dict[str, Any]:
    examples = asked.examples
    counts = np.log1p(np.bincount(train.items, weights=train.labels, minlength=len(items)))
    slope, intercept = platt_line(counts[train.items], train.labels)
    popularity = expit(slope * counts[examples.items] + intercept)
    base = np.full(len(examples), np.clip(train.labels.mean(), 1e-6, 1 - 1e-6))
    others = {"base rate": base, "popularity": popularity}
    figures = {
        "metrics": _click(examples, predicted),
        "baselines": {name: _click(examples, one) for name, one in others.items()},
        "gains": _gains(examples, _click_losses(examples, predicted),
                        {name: _click_losses(examples, one) for name, one in others.items()}),
        "calibration": reliability(examples.labels, predicted, BINS),
        "base_rate": {"train": float(train.labels.mean()), "here": float(examples.labels.mean())},
    }  # fmt: skip
    if (examples.positions >= 0).any():
        figures["as_served"] = _click(examples, predict_examples(head, asked, items, FIRST))
    return figures


def _click(examples: Examples, predicted: Floats) -> dict[str, float | None]:
    users, position = np.unique(examples.users, return_inverse=True)
    by_user = auc_by_group(examples.labels, predicted, position, len(users))
    both = by_user[~np.isnan(by_user)]
    return {
        "auc": _number(auc(examples.labels, predicted)),
        "user_auc": float(both.mean()) if len(both) else None,
        "log_loss": log_loss(examples.labels, predicted),
        "brier": float(brier_scores(examples.labels, predicted).mean()),
    }


def _click_losses(examples: Examples, predicted: Floats) -> Losses:
    return {
        "log_loss": log_losses(examples.labels, predicted),
        "brier": brier_scores(examples.labels, predicted),
    }


def _ratings(head: Head, asked: Asked, train: Examples, n_items: int, predicted: Floats) -> dict[str, Any]:
    examples, shrinkage = asked.examples, head.options.rating_shrinkage
    mean, means = item_means(train, n_items, shrinkage)
    of_items = rating_biases(train, n_items, shrinkage)
    rows = train.where(np.isin(train.users, examples.users))
    size = int(max(examples.users.max(), train.users.max())) + 1
    n_rated = np.bincount(rows.users, minlength=size) + shrinkage
    own = np.bincount(rows.users, rows.labels - mean, minlength=size) / n_rated
    beside = np.bincount(rows.users, rows.labels - mean - of_items[rows.items], minlength=size) / n_rated
    others = {
        "global mean": np.full(len(examples), mean),
        "user mean": mean + own[examples.users],
        "item mean": means[examples.items],
        "user and item mean": mean + beside[examples.users] + of_items[examples.items],
    }
    return {
        "metrics": _rating(examples, predicted),
        "baselines": {name: _rating(examples, one) for name, one in others.items()},
        "gains": _gains(examples, _rating_losses(examples, predicted),
                        {name: _rating_losses(examples, one) for name, one in others.items()}),
    }  # fmt: skip


def _rating(examples: Examples, predicted: Floats) -> dict[str, float | None]:
    return {"rmse": rmse(examples.labels, predicted), "mae": mae(examples.labels, predicted)}


def _rating_losses(examples: Examples, predicted: Floats) -> Losses:
    off = np.abs(predicted - examples.labels)
    return {"squared_error": off**2, "absolute_error": off}


def _category(head: Head, asked: Asked, train: Examples, labels: ItemLabels) -> dict[str, Any]:
    examples, n_classes = asked.examples, len(head.classes)
    totals = np.bincount(train.labels.astype(np.int64), weights=train.weights, minlength=n_classes)
    overall = (totals + 1) / (totals + 1).sum()
    own = class_counts(asked.subjects, labels.shares) + overall  # (S, C)
    own /= own.sum(axis=1, keepdims=True)
    tables = {
        "Triptych": head.predict(asked.subjects).astype(np.float64),
        "most frequent": np.tile(overall, (len(own), 1)),
        "own distribution": own,
    }
    measured = {name: _classified(asked, table) for name, table in tables.items()}
    losses = {name: _class_losses(asked, table) for name, table in tables.items()}
    report = measured["Triptych"][1]
    by_class = zip(head.classes, report.precision, report.recall, report.f1, report.support, strict=True)
    ours, others = losses["Triptych"], {name: one for name, one in losses.items() if name != "Triptych"}
    return {
        "metrics": measured["Triptych"][0],
        "baselines": {name: measured[name][0] for name in others},
        "gains": _gains(examples, ours, others),
        "calibration": _class_calibration(asked, tables["Triptych"]),
        "classes": [
            {
                "class": name,
                "precision": _number(precision),
                "recall": _number(recall),
                "f1": _number(f1),
                "support": float(support),
            }
            for name, precision, recall, f1, support in by_class
        ],
    }


def _classified(asked: Asked, table: Floats) -> tuple[dict[str, float | None], Report]:
    """Measure probabilities (S, C), of which an example has the row of its subject."""
    examples, position = asked.examples, asked.subject
    classes, weights, n_classes = examples.labels.astype(np.int64), examples.weights, table.shape[1]
    report = classification_report(classes, table.argmax(axis=1)[position], n_classes, weights)
    top, loss = 0.0, 0.0
    step = max(1, _PROBABILITIES_AT_ONCE // n_classes)
    for start in range(0, len(examples), step):
        part = slice(start, start + step)
        labelled = (classes[part], table[position[part]])
        share = float(weights[part].sum() / weights.sum())
        top += share * top_k_accuracy(*labelled, TOP, weights[part])
        loss += share * cross_entropy(*labelled, weights[part])
    return {
        "accuracy": report.accuracy,
        f"top{TOP}_accuracy": top,
        f"precision@{TOP}": float(_precision(asked, table).mean()),
        "macro_f1": report.macro_f1,
        "micro_f1": report.micro_f1,
        "log_loss": loss,
    }, report


def _precision(asked: Asked, table: Floats) -> Floats:
    """Return the share of each subject's three most probable classes that one of its events has, (S,)."""
    top = np.argsort(-table, axis=1, kind="stable")[:, :TOP]
    there = np.zeros(table.shape, dtype=bool)
    there[asked.subject, asked.examples.labels.astype(np.int64)] = True
    return np.asarray(np.take_along_axis(there, top, axis=1).mean(axis=1))


def _class_losses(asked: Asked, table: Floats) -> Losses:
    own = table[asked.subject, asked.examples.labels.astype(np.int64)]
    missed = 1 - _precision(asked, table)
    return {"log_loss": -np.log(np.maximum(own, 1e-15)), f"precision@{TOP}": missed[asked.subject]}


def _class_calibration(asked: Asked, table: Floats) -> list[dict[str, float]]:
    """Compare the probability of each class with the share of a subject's events that has it, by tenths."""
    shares = np.zeros(table.shape)
    np.add.at(shares, (asked.subject, asked.examples.labels.astype(np.int64)), asked.examples.weights)
    totals = shares.sum(axis=1, keepdims=True)
    events = np.repeat(totals, table.shape[1], axis=1)
    met = totals[:, 0] > 0
    observed = (shares[met] / totals[met]).ravel()
    return reliability(observed, table[met].ravel(), BINS, events[met].ravel())


def _gains(examples: Examples, ours: Losses, others: Mapping[str, Losses]) -> dict[str, Any]:
    """Return by how much losses are smaller, by baseline and metric: mean over users, paired 95 %."""
    users, position = np.unique(examples.users, return_inverse=True)

    def by_user(loss: Floats) -> Floats:
        weighted = np.bincount(position, loss * examples.weights, len(users))
        return np.asarray(weighted / np.bincount(position, examples.weights, len(users)))

    gains: dict[str, Any] = {}
    for name, losses in others.items():
        gains[name] = {}
        for metric, loss in losses.items():
            theirs, own = by_user(loss), by_user(ours[metric])
            low, high = paired_ci95(theirs, own, seed=0)
            gains[name][metric] = {"mean": float((theirs - own).mean()), "ci95": [low, high]}
    return gains


def _number(value: float) -> float | None:
    """Return a figure as JSON has it: null where it is 0 / 0."""
    return None if math.isnan(value) else float(value)
