"""Figures of a task head, beside those of baselines that do not use the vectors."""

import math
from typing import Any

import numpy as np

from encoder.arrays import IntArray
from encoder.heads.examples import Examples, Floats
from encoder.heads.runtime import Head
from encoder.heads.statistics import fit_logistic, item_means, sigmoid
from encoder.views import FloatArray
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


def predict_examples(head: Head, examples: Examples, users: FloatArray, items: FloatArray) -> Floats:
    """Predict examples with a head: (n,) float64, for a category (n, C).

    Args:
        head: fitted.
        examples: of its task.
        users: (U, D) float32.
        items: (N, D) float32.
    """
    if head.task == "category":
        rows, position = np.unique(examples.users, return_inverse=True)
        return head.predict(users[rows])[position].astype(np.float64)
    step = 1 << 16  # what is gathered at once stays small
    parts = [
        head.predict(users[examples.users[s : s + step]], items[j := examples.items[s : s + step]], j)
        for s in range(0, len(examples), step)
    ]
    return np.concatenate(parts).astype(np.float64)


def evaluate_head(
    head: Head, examples: Examples, train: Examples, users: FloatArray, items: FloatArray
) -> dict[str, Any]:
    """Measure a head: {"examples", "metrics", "baselines"}, for category also "classes", as JSON values.

    click: auc, user_auc (mean over users with both labels), log_loss; baseline `popularity` (logistic
    regression on the log of the number of train pairs). rating: rmse, mae; baselines `global mean` and `item
    mean` (with shrinkage). category: accuracy, top3_accuracy, macro_f1, micro_f1 and log_loss over events;
    baselines `most frequent` and `own distribution` (of the user's train events, plus one event spread like
    those of all users).

    Args:
        head: fitted.
        examples: of the measured split.
        train: examples that the baselines are made from.
        users: (U, D) float32.
        items: (N, D) float32.
    """
    if head.task == "category":
        return _category(head, examples, train, users)
    predicted = predict_examples(head, examples, users, items)
    if head.task == "click":
        metrics = _click(examples, predicted, predicted)
        baselines = {"popularity": _popularity(examples, train, len(items))}
    else:
        mean, means = item_means(train, len(items), head.options.shrinkage)
        metrics = _rating(examples, predicted)
        baselines = {
            "global mean": _rating(examples, np.full(len(examples), mean)),
            "item mean": _rating(examples, means[examples.items]),
        }
    return {"examples": len(examples), "metrics": metrics, "baselines": baselines}


def _click(examples: Examples, scores: Floats, probabilities: Floats) -> dict[str, float | None]:
    users, position = np.unique(examples.users, return_inverse=True)
    by_user = auc_by_group(examples.labels, scores, position, len(users))
    both = by_user[~np.isnan(by_user)]
    return {
        "auc": _number(auc(examples.labels, scores)),
        "user_auc": float(both.mean()) if len(both) else None,
        "log_loss": log_loss(examples.labels, probabilities),
    }


def _popularity(examples: Examples, train: Examples, n_items: int) -> dict[str, float | None]:
    counts = np.bincount(train.items, weights=train.labels, minlength=n_items)
    popularity = np.log1p(counts)
    slope, intercept = fit_logistic(popularity[train.items], train.labels)
    scores = popularity[examples.items]
    return _click(examples, scores, sigmoid(slope * scores + intercept))


def _rating(examples: Examples, predicted: Floats) -> dict[str, float | None]:
    return {"rmse": rmse(examples.labels, predicted), "mae": mae(examples.labels, predicted)}


def _category(head: Head, examples: Examples, train: Examples, vectors: FloatArray) -> dict[str, Any]:
    n_classes = len(head.classes)
    totals = np.bincount(train.labels.astype(np.int64), weights=train.weights, minlength=n_classes)
    overall = (totals + 1) / (totals + 1).sum()
    users, position = np.unique(examples.users, return_inverse=True)
    own = np.tile(overall, (len(users), 1))  # (B, C)
    known = np.isin(train.users, users)
    rows = np.searchsorted(users, train.users[known])
    np.add.at(own, (rows, train.labels[known].astype(np.int64)), train.weights[known])
    own /= own.sum(axis=1, keepdims=True)
    metrics, report = _classified(examples, head.predict(vectors[users]).astype(np.float64), position)
    by_class = zip(head.classes, report.precision, report.recall, report.f1, report.support, strict=True)
    return {
        "examples": len(examples),
        "metrics": metrics,
        "baselines": {
            "most frequent": _classified(examples, overall[None], np.zeros_like(position))[0],
            "own distribution": _classified(examples, own, position)[0],
        },
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


def _classified(
    examples: Examples, table: Floats, position: IntArray
) -> tuple[dict[str, float | None], Report]:
    """Measure probabilities (B, C), of which example i has row position[i]."""
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
        "macro_f1": report.macro_f1,
        "micro_f1": report.micro_f1,
        "log_loss": loss,
    }, report


def _number(value: float) -> float | None:
    """Return a figure as JSON has it: null where it is 0 / 0."""
    return None if math.isnan(value) else float(value)
