"""The raw views of one subject, as a batch of one, by the same arithmetic as in training (encoder.views)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from scipy import sparse

from encoder.arrays import NO_TIME, Actions, Events
from encoder.views import FloatArray, Matrix, ViewBatch, assemble_views, event_matrix, history_view, unit_rows
from server.cancellation import check_wanted
from server.query.snapshot import Snapshot
from store.records import Event
from store.state import UserRecord

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class SubjectViews:
    """The events, texts and friends that a subject's raw views are made of.

    Attributes:
        record: the record in the state: all of a stored user, the friends of an anonymous one.
        history: events beside those of the record.
        texts: beside those of the record; the query encodes those that the cache lacks.
        keep: whether the cache keeps vectors of such texts.
    """

    record: UserRecord
    history: tuple[Event, ...] = ()
    texts: tuple[str, ...] = ()
    keep: bool = False


def raw_views(snapshot: Snapshot, subject_views: SubjectViews) -> ViewBatch:
    """Make the raw views of one subject, a batch of one.

    Texts that are stored but not encoded yet are left out.

    Raises:
        AbandonedError: nobody waits for the answer any more.
    """
    check_wanted()
    record = subject_views.record
    vectors = [snapshot.stored_text_vectors(record.texts)] if record.texts else []
    if subject_views.texts:
        vectors.append(snapshot.text_vectors(subject_views.texts, keep=subject_views.keep))
    text = np.zeros((1, snapshot.encoder.dim), dtype=np.float32)
    for some in vectors:
        text += some.sum(axis=0, keepdims=True)  # as `text_view` of one user, to the last bit
    ties, friends = None, len(record.friends)
    if friends:
        # Built from its parts: a matrix this small costs less to multiply than to convert.
        ties = sparse.csr_array((record.weights, np.arange(1, 1 + friends), [0, friends]), (1, 1 + friends))
    return assemble_views(
        histories(snapshot, subject_views),
        np.zeros(1, dtype=np.int64),
        ties,
        unit_rows(text),
        np.array([sum(map(len, vectors))]),
        snapshot.model.table,
        snapshot.model.widths,
    )


def pooled_histories(snapshot: Snapshot, subject_views: SubjectViews) -> FloatArray:
    """Pool the histories of the subject and its friends: (1 + F, D_H) float32, zero for an empty one."""
    table = snapshot.model.table
    matrix = histories(snapshot, subject_views)
    if matrix is None:
        return np.zeros((1 + len(subject_views.record.friends), table.shape[1]), dtype=np.float32)
    return history_view(matrix, table, snapshot.model.widths)


def histories(snapshot: Snapshot, subject_views: SubjectViews) -> Matrix | None:
    """Weight the events of the subject, row 0, and of its friends: (1 + F, N); None where all are empty."""
    events = _stored_events(snapshot, subject_views.record)
    if subject_views.history:
        events = _concatenated(_sent_events(snapshot, subject_views.history), events)
    if not len(events.items):
        return None
    shape = 1 + len(subject_views.record.friends), len(snapshot.model.table)
    return event_matrix(events, shape, snapshot.model.config)


def own_events(snapshot: Snapshot, subject_views: SubjectViews, actions: tuple[str, ...]) -> Events:
    """Return the subject's own events with some actions, all where none is named; the user of each is 0."""
    stored = _stored_events(snapshot, subject_views.record)
    own = stored.where(stored.users == 0)
    if subject_views.history:
        own = _concatenated(own, _sent_events(snapshot, subject_views.history))
    return own.where(own.actions.among(actions)) if actions else own


def _stored_events(snapshot: Snapshot, record: UserRecord) -> Events:
    rows, action_names = record.events, snapshot.state.words.names
    codes, places = np.unique(rows["action"], return_inverse=True)
    return Events(
        record.owners,
        snapshot.model_rows(rows["item"]),
        Actions(places.astype(np.int32), tuple(action_names[code] for code in codes.tolist())),
        rows["weight"].astype(np.float64),
        rows["ts"].astype(np.int64),
    )


def _sent_events(snapshot: Snapshot, history: Sequence[Event]) -> Events:
    return Events(
        np.zeros(len(history), dtype=np.int64),
        np.array([snapshot.model_row_of.get(event.item_id, -1) for event in history], dtype=np.int64),
        Actions.of(event.action for event in history),
        np.array([event.weight for event in history], dtype=np.float64),
        np.array([_microseconds(event.ts) for event in history], dtype=np.int64),
    )


def _concatenated(first: Events, second: Events) -> Events:
    codes = np.concatenate([first.actions.codes, second.actions.codes + np.int32(len(first.actions.names))])
    return Events(
        np.concatenate([first.users, second.users]),
        np.concatenate([first.items, second.items]),
        Actions(codes, first.actions.names + second.actions.names),
        np.concatenate([first.weights, second.weights]),
        np.concatenate([first.ts, second.ts]),
    )


def _microseconds(ts: datetime | None) -> int:
    """Return a time in microseconds since 1970, NO_TIME for None; a time without a zone is UTC."""
    if ts is None:
        return NO_TIME
    aware = ts if ts.tzinfo else ts.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def stack(batches: Sequence[ViewBatch]) -> ViewBatch:
    """Concatenate batches of views, in order."""
    return ViewBatch(
        *(
            np.concatenate([getattr(b, name) for b in batches])
            for name in ("history", "text", "social", "amounts")
        )
    )
