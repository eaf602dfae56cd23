"""The entry points of task heads: train one, check beforehand that it can be trained, report on it.

torch and onnx are loaded when a head is fitted, never when one is used.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from encoder.dataset import Dataset
from encoder.heads.examples import (
    TRAIN,
    Examples,
    category_examples,
    check_labels,
    click_examples,
    hold_out_pairs,
    rating_examples,
)
from encoder.heads.labels import Attributes, ItemLabels, LabelError, item_labels
from encoder.heads.options import HEAD_TASKS, HeadOptions, Task, TaskError
from encoder.heads.report import evaluate_head
from encoder.heads.runtime import Head, HeadInputError
from encoder.views import FloatArray

log = logging.getLogger(__name__)

VALID = "valid"


def train_head(
    task: Task,
    data: Dataset,
    attributes: Attributes,
    kinds: Sequence[str | None],
    users: FloatArray,
    items: FloatArray,
    options: HeadOptions,
) -> tuple[Head, dict[str, Any]]:
    """Fit a head on the train rows and measure it on valid; the head carries the figures, too.

    Where the data has no valid split, a share of the train pairs is held out for early stopping. The user
    vectors know these pairs, so such figures flatter; their "split" is then "train, held out".

    Args:
        task: click, rating or category.
        data: the rows that the vectors were trained on.
        attributes: of each item, JSON object or None; used by category alone.
        kinds: of each item.
        users: (U, D) float32, V_u.
        items: (N, D) float32, x_j.
        options: of the head.

    Raises:
        TaskError: the task has no head.
        LabelError: the label does not fit the task or the items.
        NoExamplesError: no example to train on or to stop by.
        HeadInputError: the vectors do not fit the data.
        HeadParityError: the graph does not compute what was fitted.
    """
    from encoder.heads.fit import fit_head  # noqa: PLC0415  # torch

    _check_vectors(data, users, items)
    labels = _labels(task, data, attributes, kinds, options)
    train, valid, split = _split_examples(task, data, labels, options)
    head = fit_head(task, train, valid, users, items, options, classes=labels.classes if labels else ())
    figures = {"split": split, **evaluate_head(head, valid, train, users, items)}
    figures.pop("classes", None)  # a thousand classes are for `head_report`
    log.info("%s head on %s: %s", task, split, figures["metrics"])
    return replace(head, metrics=figures), figures


def check_head(
    task: Task, data: Dataset, attributes: Attributes, kinds: Sequence[str | None], options: HeadOptions
) -> None:
    """Check that a task can be learned from some rows, before the vectors are made from them.

    Args:
        task: click, rating or category.
        data: its texts do not matter.
        attributes: as in `train_head`.
        kinds: as in `train_head`.
        options: of the head.

    Raises:
        TaskError, LabelError, NoExamplesError: as `train_head` would.
    """
    labels = _labels(task, data, attributes, kinds, options)
    check_labels(task, _split_examples(task, data, labels, options)[0])


def head_report(
    head: Head,
    data: Dataset,
    split: str,
    attributes: Attributes,
    kinds: Sequence[str | None],
    users: FloatArray,
    items: FloatArray,
) -> dict[str, Any]:
    """Measure a head on a split, beside its baselines.

    The figures, as JSON values, are {"task", "label", "split", "unlabelled_events"} and those of
    `evaluate_head`.

    Raises:
        LabelError: the items' classes are not those that the head was fitted on.
        NoExamplesError: the split has no example.
        HeadInputError: the vectors do not fit the data.
    """
    options = head.options
    _check_vectors(data, users, items)
    labels = _labels(head.task, data, attributes, kinds, options)
    if labels is not None and labels.classes != head.classes:
        raise LabelError(
            options.label,
            f"the items have {len(labels.classes)} classes, other than the {len(head.classes)} of the head",
        )
    train, _ = _examples(head.task, data, TRAIN, labels, options)
    examples, unlabelled = _examples(head.task, data, split, labels, options)
    return {
        "task": head.task,
        "label": options.label,
        "split": split,
        "unlabelled_events": unlabelled,
        **evaluate_head(head, examples, train, users, items),
    }


def _check_vectors(data: Dataset, users: FloatArray, items: FloatArray) -> None:
    n_users, n_items = data.shape
    if len(users) != n_users or len(items) != n_items or users.shape[1:] != items.shape[1:]:
        raise HeadInputError(
            f"vectors are {users.shape} and {items.shape}, but there are {n_users} users and {n_items} items"
        )


def _labels(
    task: Task, data: Dataset, attributes: Attributes, kinds: Sequence[str | None], options: HeadOptions
) -> ItemLabels | None:
    """Return the items' classes for a category, None for other tasks, after checking that they fit."""
    if task not in HEAD_TASKS:
        raise TaskError(task)
    if task != "category":
        if options.label is not None:
            raise LabelError(options.label, f"{task} takes no label; only category does")
        return None
    if len(attributes) != len(data.items):
        raise HeadInputError(f"{len(attributes)} items have attributes, but the data has {len(data.items)}")
    return item_labels(options.label, attributes, kinds, options.max_classes)


def _split_examples(
    task: Task, data: Dataset, labels: ItemLabels | None, options: HeadOptions
) -> tuple[Examples, Examples, str]:
    """Make the examples to train on and those to stop by, and name the latter."""
    train, _ = _examples(task, data, TRAIN, labels, options)
    if VALID in data.held_out:
        return train, _examples(task, data, VALID, labels, options)[0], VALID
    return *hold_out_pairs(train, data.shape[1], options), f"{TRAIN}, held out"


def _examples(
    task: Task, data: Dataset, split: str, labels: ItemLabels | None, options: HeadOptions
) -> tuple[Examples, int]:
    """Make the examples of a split, and count its events without a class."""
    if labels is not None:
        return category_examples(data, split, labels.shares)
    return (click_examples(data, split, options) if task == "click" else rating_examples(data, split)), 0
