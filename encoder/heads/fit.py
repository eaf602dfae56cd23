"""Fitting a task head on frozen vectors; the head's graph is checked against what was fitted in torch."""

import numpy as np

from encoder.heads.class_fit import fit_categories
from encoder.heads.examples import TRAIN, NoExamplesError, check_labels
from encoder.heads.graph import category_graph, pair_graph
from encoder.heads.labels import ItemLabels
from encoder.heads.options import HEAD_TASKS, HeadOptions, Quantity, Task, TaskError
from encoder.heads.pair_fit import fit_pairs
from encoder.heads.report import predict_examples
from encoder.heads.runtime import Head, HeadInputError
from encoder.heads.subjects import Asked
from encoder.views import FloatArray

PARITY = 1e-5
_CHECKED = 512  # examples on which graph and model are compared


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
