"""Predictions: what the heads of a model say of a subject and items, or of its interest alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encoder.heads import Head, Pairs, Quantity, Subjects, Task
from indexer.files import IntArray
from indexer.filters import Filter
from server.cancellation import check_wanted
from server.query.query import FloatArray, InlineViews, StoredUser, views_used
from server.query.snapshot import Snapshot
from server.query.subject_views import SubjectViews, own_events, raw_views
from server.query.visible import visible_of


class ItemNotServedError(LookupError):
    """An item of a prediction is none that the index has."""

    def __init__(self, item_id: str) -> None:
        super().__init__(f"item {item_id!r} is not served: it is unknown, deleted or unavailable")
        self.item_id = item_id


@dataclass(frozen=True)
class Question:
    """What is asked of a head.

    Attributes:
        task: click or rating, of items; or category.
        item_ids: none of category.
        positions: (n,) int64, where in a list the items are shown; of click.
        k: of category, at most so many.
        visible: what items the caller may see; None for all.
        min_commit: as of a Query.
    """

    subject: StoredUser | InlineViews
    task: Task
    item_ids: tuple[str, ...]
    positions: IntArray
    k: int
    visible: Filter | None = None
    min_commit: int = 0


@dataclass(frozen=True)
class Prediction:
    """What a head says.

    Attributes:
        names: the items, as asked, or the most probable categories, best first.
        values: (n,) float32, one each.
        label: of category, what was predicted.
        views_used: none means that the values are what holds of everybody.
    """

    task: Task
    quantity: Quantity
    names: tuple[str, ...]
    values: FloatArray
    label: str
    views_used: tuple[str, ...]
    model_id: str
    index_id: str


def predict(snapshot: Snapshot, question: Question, subject_views: SubjectViews) -> Prediction:
    """Ask a head of the model that serves.

    Vectors of items are those of the index, with every change since it was built.

    Raises:
        NoHeadError: the model has no such head.
        ItemNotServedError: an item is none of the index.
        AbandonedError: the call ended meanwhile.
    """
    head = snapshot.model.head(question.task)
    pairs = None if question.task == "category" else _pairs(snapshot, question)
    encoded = snapshot.model.encode_users(raw_views(snapshot, subject_views))
    history = own_events(snapshot, subject_views, head.actions)
    subject = Subjects.of_events(encoded.vectors, history, len(snapshot.model.item_ids))
    check_wanted()
    values = head.predict(subject, pairs)
    names = question.item_ids
    if pairs is None:
        names, values = most_probable(head, values[0], question.k)
    return Prediction(
        question.task,
        head.quantity,
        names,
        values,
        head.options.label or "",
        views_used(encoded.parts[0]),
        snapshot.model.model_id,
        snapshot.index.index_id,
    )


def most_probable(head: Head, probabilities: FloatArray, k: int) -> tuple[tuple[str, ...], FloatArray]:
    """Return the k most probable classes and their probabilities, of equal ones the first by name."""
    best = np.argsort(-probabilities, kind="stable")[:k]
    return tuple(head.classes[row] for row in best.tolist()), probabilities[best]


def _pairs(snapshot: Snapshot, question: Question) -> Pairs:
    index, ids = snapshot.index, question.item_ids
    state = index.delta.state  # rows and vectors of this one state
    rows = index.rows(ids, state)
    if question.visible is not None:
        seen = visible_of(index, question.visible, ids)
        rows = np.where([item_id in seen for item_id in ids], rows, -1)
    if (rows < 0).any():
        raise ItemNotServedError(ids[int((rows < 0).argmax())])
    return Pairs(
        np.zeros(len(ids), dtype=np.int64),
        index.vectors_of(rows, state),
        model_rows(snapshot, ids),
        question.positions,
    )


def model_rows(snapshot: Snapshot, item_ids: Sequence[str]) -> IntArray:
    """Return the rows of items in the model, (n,) int64, −1 for those that are newer than it."""
    return np.array([snapshot.model_row_of.get(one, -1) for one in item_ids], dtype=np.int64)
