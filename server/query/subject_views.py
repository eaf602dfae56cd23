"""The raw views of one subject, as a batch of one, by the same arithmetic as in training (encoder.views)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from scipy import sparse

from encoder.arrays import NO_TIME, Actions, Events
from encoder.views import (
    FloatArray,
    Matrix,
    ViewBatch,
    event_matrix,
    history_view,
    social_view,
    unit_rows,
    view_batch,
)
from server.cancellation import check_wanted
from server.query.snapshot import Snapshot
from store.records import Event
from store.state.state import UserRecord

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class SubjectViews:
    """The events, texts and friends that a subject's raw views are made of.

    Attributes:
        person: the record in the state: all of a stored user, the friends of an anonymous one.
        history: events beside those of the record.
        texts: beside those of the record; the query encodes those that the cache lacks.
        keep: whether the cache keeps vectors of such texts.
    """

    person: UserRecord
    history: tuple[Event, ...] = ()
    texts: tuple[str, ...] = ()
    keep: bool = False


def raw_views(snapshot: Snapshot, asked: SubjectViews) -> ViewBatch:
    """Return the views of one subject.  Raises: AbandonedError."""
    check_wanted()
    person = asked.person
    pooled, known = pooled_histories(snapshot, asked)  # (1 + F, D_H)
    vectors = [snapshot.stored_text_vectors(person.texts)] if person.texts else []
    if asked.texts:
        vectors.append(snapshot.text_vectors(asked.texts, keep=asked.keep))
    text = np.zeros((1, snapshot.encoder.dim), dtype=np.float32)
    for some in vectors:
        text += some.sum(axis=0, keepdims=True)  # as `text_sums` of one user, to the last bit
    social = np.zeros_like(pooled[:1])
    friends = len(person.friends)
    if friends:
        # Built from its parts: a matrix this small costs less to multiply than to convert.
        ties = sparse.csr_array((person.weights, np.arange(friends), [0, friends]), (1, friends))
        social = social_view(ties, pooled[1:], snapshot.model.widths)
    counts = np.array([[known, sum(map(len, vectors)), friends]])
    return view_batch(pooled[:1], unit_rows(text), social, counts)


def pooled_histories(snapshot: Snapshot, asked: SubjectViews) -> tuple[FloatArray, int]:
    """Return pooled histories (1 + F, D_H) float32, zero for an empty one, and the first's items."""
    table = snapshot.model.table
    matrix = histories(snapshot, asked)
    if matrix is None:
        return np.zeros((1 + len(asked.person.friends), table.shape[1]), dtype=np.float32), 0
    return history_view(matrix, table, snapshot.model.widths), int(matrix.indptr[1])


def histories(snapshot: Snapshot, asked: SubjectViews) -> Matrix | None:
    """Return the weighted histories of the subject and its friends (1 + F, N), None where all are empty."""
    events = _stored(snapshot, asked.person)
    if asked.history:
        events = _joined(_sent_along(snapshot, asked.history), events)
    if not len(events.items):
        return None
    shape = 1 + len(asked.person.friends), len(snapshot.model.table)
    return event_matrix(events, shape, snapshot.model.config)


def _stored(snapshot: Snapshot, person: UserRecord) -> Events:
    rows, words = person.events, snapshot.state.words.names
    codes, places = np.unique(rows["action"], return_inverse=True)
    return Events(
        person.owners,
        snapshot.model_rows(rows["item"]),
        Actions(places.astype(np.int32), tuple(words[code] for code in codes.tolist())),
        rows["weight"].astype(np.float64),
        rows["ts"].astype(np.int64),
    )


def _sent_along(snapshot: Snapshot, history: Sequence[Event]) -> Events:
    return Events(
        np.zeros(len(history), dtype=np.int64),
        np.array([snapshot.model_row_of.get(event.item_id, -1) for event in history], dtype=np.int64),
        Actions.of(event.action for event in history),
        np.array([event.weight for event in history], dtype=np.float64),
        np.array([_microseconds(event.ts) for event in history], dtype=np.int64),
    )


def _joined(first: Events, second: Events) -> Events:
    codes = np.concatenate([first.actions.codes, second.actions.codes + np.int32(len(first.actions.names))])
    return Events(
        np.concatenate([first.users, second.users]),
        np.concatenate([first.items, second.items]),
        Actions(codes, first.actions.names + second.actions.names),
        np.concatenate([first.weights, second.weights]),
        np.concatenate([first.ts, second.ts]),
    )


def _microseconds(ts: datetime | None) -> int:
    """Return a time as training has it; a time without a zone is UTC."""
    if ts is None:
        return NO_TIME
    aware = ts if ts.tzinfo else ts.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def stack(batches: Sequence[ViewBatch]) -> ViewBatch:
    """Return several batches as one, in order."""
    return ViewBatch(
        *(
            np.concatenate([getattr(b, name) for b in batches])
            for name in ("history", "text", "social", "amounts")
        )
    )
