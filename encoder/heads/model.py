"""The entry points of task heads: train one, check beforehand that it can be trained, report on it.

torch and onnx are loaded when a head is fitted, never when one is used.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from encoder.arrays import IntArray
from encoder.dataset import Dataset
from encoder.heads.examples import (
    TRAIN,
    Examples,
    NoExamplesError,
    category_examples,
    check_labels,
    drawn_examples,
    folds_of,
    rating_examples,
)
from encoder.heads.impressions import ShownLists, click_examples
from encoder.heads.labels import Attributes, ItemLabels, LabelError, item_labels
from encoder.heads.options import HEAD_TASKS, HeadOptions, Quantity, Task, TaskError
from encoder.heads.report import evaluate_head
from encoder.heads.runtime import Head, HeadInputError
from encoder.heads.subjects import VectorsOf, asked, asked_by_fold, target_actions
from encoder.left_out import LeftOut
from encoder.runtime import Model
from encoder.tower import dataset_views
from encoder.views import FloatArray

log = logging.getLogger(__name__)

VALID = "valid"


@dataclass(frozen=True)
class HeadRows:
    """What heads are taught and measured on.

    Attributes:
        data: behaviours, texts and ties.
        attributes: of each item, JSON object or None; used by category alone.
        kinds: of each item.
        shown: what was shown to people; None where that is not known, and then pairs are drawn for `click`.
    """

    data: Dataset
    attributes: Attributes
    kinds: Sequence[str | None]
    shown: ShownLists | None = None

    def without(self, left_out: LeftOut) -> "HeadRows":
        """Return the rows without those of users and items that are left out; row numbers stay."""
        shown = self.shown
        if shown is not None:
            shown = shown.where(~(left_out.users[shown.users] | left_out.items[shown.items]))
        return replace(self, data=left_out.apart_from(self.data), shown=shown)


@dataclass(frozen=True)
class FrozenVectors:
    """The vectors that a head is fitted on.

    Attributes:
        of_users: makes the vectors of users of a data set.
        items: (N, D) float32, x_j.
    """

    of_users: VectorsOf
    items: FloatArray

    @classmethod
    def of_model(cls, model: Model, data: Dataset) -> "FrozenVectors":
        """Take the vectors that the graphs of a model make, and those of the items of its data set."""

        def of_users(some: Dataset, users: IntArray) -> FloatArray:
            views = dataset_views(some, some.events(model.config), model.table, model.widths, users)
            return model.encode_users(views).vectors

        return cls(
            of_users, model.encode_items(model.id_vectors, model.content_encoder.encode(data.item_content))
        )


def train_head(
    task: Task, rows: HeadRows, vectors: FrozenVectors, options: HeadOptions
) -> tuple[Head, dict[str, Any]]:
    """Fit a head on the train rows and measure it on valid; the head carries the figures, too.

    Where the data has no valid split, a fold of the train examples is held out for early stopping. The tower
    knows them, so such figures flatter; their "split" is then "train, held out".

    Args:
        task: click, rating or category.
        rows: that the vectors were trained on.
        vectors: of users and items.
        options: of the head.

    Raises:
        TaskError: the task has no head.
        LabelError: the label does not fit the task or the items.
        NoExamplesError: no example to train on or to stop by.
        HeadInputError: the vectors do not fit the data.
        HeadParityError: the graph does not compute what was fitted.
    """
    from encoder.heads.fit import fit_head  # noqa: PLC0415  # torch

    _check_vectors(rows.data, vectors)
    data, actions = rows.data, target_actions(rows.data)
    labels = _labels(task, rows, options)
    train, valid, quantity = _split_examples(task, rows, labels, options)
    some = _of_some_users(train, options)
    folds = folds_of(some, options.folds, options.seed)
    by_fold = asked_by_fold(some, folds, data, vectors.of_users, actions)
    if valid is not None:
        split, judged = VALID, asked(valid, data, vectors.of_users, actions)
    else:
        split, judging = f"{TRAIN}, held out", by_fold.folds[by_fold.subject] == 0
        by_fold, judged = by_fold.where(~judging), by_fold.where(judging)
        if not len(by_fold) or not len(judged):
            raise NoExamplesError(task, TRAIN, "one pair is too few to hold any out")
        check_labels(task, by_fold.examples)
    head = fit_head(
        task, by_fold, judged, vectors.items, options, quantity=quantity, actions=actions, labels=labels
    )
    figures = {"split": split, **evaluate_head(head, judged, train, vectors.items, labels)}
    figures.pop("classes", None)  # a thousand classes are for `head_report`
    log.info("%s head on %s: %s", task, split, figures["metrics"])
    return replace(head, metrics=figures), figures


def check_head(task: Task, rows: HeadRows, options: HeadOptions) -> None:
    """Check that a task can be learned from some rows, before the vectors are made from them.

    Args:
        task: click, rating or category.
        rows: their texts do not matter.
        options: of the head.

    Raises:
        TaskError, LabelError, NoExamplesError: as `train_head` would.
    """
    _split_examples(task, rows, _labels(task, rows, options), options)


def head_report(head: Head, rows: HeadRows, split: str, vectors: FrozenVectors) -> dict[str, Any]:
    """Measure a head on a split, beside its baselines.

    The figures, as JSON values, are {"task", "label", "split", "unlabelled_events"} and those of
    `evaluate_head`.

    Raises:
        LabelError: the items' classes are not those that the head was fitted on.
        NoExamplesError: the split has no example.
        HeadInputError: the vectors do not fit the data.
    """
    options = head.options
    _check_vectors(rows.data, vectors)
    labels = _labels(head.task, rows, options)
    if labels is not None and labels.classes != head.classes:
        raise LabelError(
            options.label,
            f"the items have {len(labels.classes)} classes, other than the {len(head.classes)} of the head",
        )
    shown = head.task == "click" and head.quantity == "probability"
    train, _ = _examples(head.task, rows, TRAIN, labels, options, shown=shown)
    examples, unlabelled = _examples(head.task, rows, split, labels, options, shown=shown)
    if not len(examples):
        raise NoExamplesError(head.task, split, "nothing of it was shown")
    measured = asked(examples, rows.data, vectors.of_users, head.actions or target_actions(rows.data))
    return {
        "task": head.task,
        "label": options.label,
        "split": split,
        "unlabelled_events": unlabelled,
        **evaluate_head(head, measured, train, vectors.items, labels),
    }


def _check_vectors(data: Dataset, vectors: FrozenVectors) -> None:
    if len(vectors.items) != data.shape[1]:
        raise HeadInputError(f"item vectors are {vectors.items.shape}, but there are {data.shape[1]} items")


def _labels(task: Task, rows: HeadRows, options: HeadOptions) -> ItemLabels | None:
    """Return the items' classes for a category, None for other tasks, after checking that they fit."""
    if task not in HEAD_TASKS:
        raise TaskError(task)
    if task != "category":
        if options.label is not None:
            raise LabelError(options.label, f"{task} takes no label; only category does")
        return None
    n_items = len(rows.data.items)
    if len(rows.attributes) != n_items:
        raise HeadInputError(f"{len(rows.attributes)} items have attributes, but the data has {n_items}")
    return item_labels(options.label, rows.attributes, rows.kinds, options.max_classes)


def _split_examples(
    task: Task, rows: HeadRows, labels: ItemLabels | None, options: HeadOptions
) -> tuple[Examples, Examples | None, Quantity]:
    """Make the examples to train on and those of valid, None without any, and say what is learned from them.

    Clicks are learned from what was shown, and where nothing was, or one label is all there is, from drawn
    pairs: their predictions are no probabilities.
    """
    if task == "click" and rows.shown is not None:
        shown, judged = (click_examples(rows.shown, rows.data, split) for split in (TRAIN, VALID))
        clicked = int(shown.labels.sum())
        if 0 < clicked < len(shown):
            return shown, judged if len(judged) else None, "probability"
        said = "of %d impressions to learn from %d are clicked: pairs are drawn instead"
        log.warning(said, len(shown), clicked)
    train, _ = _examples(task, rows, TRAIN, labels, options)
    check_labels(task, train)
    quantities: dict[Task, Quantity] = {"click": "score", "rating": "rating", "category": "probability"}
    held_out = VALID in rows.data.held_out
    valid = _examples(task, rows, VALID, labels, options)[0] if held_out else None
    return train, valid, quantities[task]


def _examples(
    task: Task,
    rows: HeadRows,
    split: str,
    labels: ItemLabels | None,
    options: HeadOptions,
    *,
    shown: bool = False,
) -> tuple[Examples, int]:
    """Make the examples of a split, and count its events without a class."""
    if labels is not None:
        return category_examples(rows.data, split, labels.shares)
    if shown:
        if rows.shown is None:
            raise NoExamplesError(task, split, "the data has no impressions")
        return click_examples(rows.shown, rows.data, split), 0
    if task == "click":
        return drawn_examples(rows.data, split, options), 0
    return rating_examples(rows.data, split), 0


def _of_some_users(examples: Examples, options: HeadOptions) -> Examples:
    """Return all examples of users drawn at random, about `options.most_examples` of them."""
    if len(examples) <= options.most_examples:
        return examples
    users, position = np.unique(examples.users, return_inverse=True)
    order = np.random.default_rng([options.seed, 5]).permutation(len(users))
    within = np.cumsum(np.bincount(position)[order]) <= options.most_examples
    drawn = np.zeros(len(users), dtype=bool)
    drawn[order[: max(1, int(within.sum()))]] = True
    log.info("%d examples of %d of %d users are enough", options.most_examples, drawn.sum(), len(users))
    return examples.where(drawn[position])
