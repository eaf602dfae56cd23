"""Fitting one task head, and the graph that serves it, checked against each other. Needs torch."""

import numpy as np

from encoder.heads.category import fit_categories
from encoder.heads.examples import TRAIN, Examples, NoExamplesError, check_labels
from encoder.heads.fit import fit_pairs
from encoder.heads.graph import category_graph, pair_graph
from encoder.heads.options import HEAD_TASKS, HeadOptions, Task, TaskError
from encoder.heads.report import predict_examples
from encoder.heads.runtime import Head, HeadInputError
from encoder.views import FloatArray

PARITY = 1e-5
_CHECKED = 512


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
    """Return a head fitted on train examples, stopped early by valid ones.

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
