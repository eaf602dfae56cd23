"""The raw views of subjects, by the same arithmetic as in training (encoder.views)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.arrays import NO_TIME, Actions, Events
from encoder.views import FloatArray, Matrix, ViewBatch, assemble_views, event_matrix, history_view, unit_rows
from server.cancellation import check_wanted
from server.query.snapshot import Snapshot
from store.records import Event
from store.state import UserRecord

_MOST_PEOPLE = 2_048  # subjects and friends whose histories are pooled at once: a megabyte or a few
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
    """Make the raw views of one subject, a batch of one.  As `all_raw_views`."""
    return all_raw_views(snapshot, [subject_views])[0]


def all_raw_views(
    snapshot: Snapshot, subjects: Sequence[SubjectViews]
) -> tuple[ViewBatch, npt.NDArray[np.bool_]]:
    """Make the raw views of B subjects, at least one; each has the views that it has alone, to the last bit.

    Texts that are stored but not encoded yet are left out; the second result, (B,) bool, tells who has none
    of these, so that the views stay the same until rows of theirs, or of their friends, change.

    Raises:
        AbandonedError: nobody waits for the answer any more; checked before each few subjects.
    """
    batches: list[ViewBatch] = []
    complete: list[npt.NDArray[np.bool_]] = []
    for some in _portions(subjects):
        check_wanted()
        text, counts, all_encoded = _texts(snapshot, some)
        people = np.array([1 + len(one.record.friends) for one in some])
        own = np.cumsum(people) - people
        batches.append(
            assemble_views(
                _weighted(snapshot, some, own, int(people.sum())),
                own,
                _ties(some, own, int(people.sum())),
                unit_rows(text),
                counts,
                snapshot.model.table,
                snapshot.model.widths,
            )
        )
        complete.append(all_encoded)
    return (batches[0], complete[0]) if len(batches) == 1 else (stack(batches), np.concatenate(complete))


def _portions(subjects: Sequence[SubjectViews]) -> Iterator[Sequence[SubjectViews]]:
    """Split subjects so that those of a portion have `_MOST_PEOPLE` friends at most, or are one."""
    start = people = 0
    for i, one in enumerate(subjects):
        people += 1 + len(one.record.friends)
        if people > _MOST_PEOPLE and i > start:
            yield subjects[start:i]
            start, people = i, 1 + len(one.record.friends)
    yield subjects[start:]


def _texts(
    snapshot: Snapshot, subjects: Sequence[SubjectViews]
) -> tuple[FloatArray, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Sum the vectors of each subject's texts (B, D_T); count them (B,), and tell who has none without."""
    text = np.zeros((len(subjects), snapshot.encoder.dim), dtype=np.float32)
    counts, complete = np.zeros(len(subjects), dtype=np.int64), np.ones(len(subjects), dtype=bool)
    if any(one.record.texts for one in subjects):
        vectors, cached = snapshot.stored_text_vectors([one.record for one in subjects])
    start = 0
    for i, one in enumerate(subjects):
        end = start + len(one.record.texts)
        some = []
        if end > start:
            known = cached[start:end]
            complete[i] = known.all()
            some.append(vectors[start:end] if complete[i] else vectors[start:end][known])
            start = end
        if one.texts:
            some.append(snapshot.text_vectors(one.texts, keep=one.keep))
        for each in some:
            text[i] += each.sum(axis=0)  # as `text_view`, to the last bit
            counts[i] += len(each)
    return text, counts, complete


def _ties(subjects: Sequence[SubjectViews], own: npt.NDArray[np.int64], people: int) -> Matrix | None:
    """Return the tie strengths (B, P) of subjects, whose friends follow them; None where nobody has any."""
    friends = people - len(subjects)
    if not friends:
        return None
    # Built from its parts: a matrix this small costs less to multiply than to convert.
    columns = np.delete(np.arange(people), own)
    ends = np.append(own, people) - np.arange(len(own) + 1)  # friends before each subject
    weights = np.concatenate([one.record.weights for one in subjects])
    return sparse.csr_array((weights, columns, ends), (len(subjects), people))


def pooled_histories(snapshot: Snapshot, subject_views: SubjectViews) -> FloatArray:
    """Pool the histories of the subject and its friends: (1 + F, D_H) float32, zero for an empty one."""
    table = snapshot.model.table
    matrix = histories(snapshot, subject_views)
    if matrix is None:
        return np.zeros((1 + len(subject_views.record.friends), table.shape[1]), dtype=np.float32)
    return history_view(matrix, table, snapshot.model.widths)


def histories(snapshot: Snapshot, subject_views: SubjectViews) -> Matrix | None:
    """Weight the events of the subject, row 0, and of its friends: (1 + F, N); None where all are empty."""
    own = np.zeros(1, dtype=np.int64)
    return _weighted(snapshot, [subject_views], own, 1 + len(subject_views.record.friends))


def _weighted(
    snapshot: Snapshot, subjects: Sequence[SubjectViews], own: npt.NDArray[np.int64], people: int
) -> Matrix | None:
    """Weight the events of subjects and their friends: (P, N), the subjects in the rows `own` (B,)."""
    events = _stored_events(snapshot, [one.record for one in subjects], own)
    sent = [
        _sent_events(snapshot, one.history, row)
        for one, row in zip(subjects, own.tolist(), strict=True)
        if one.history
    ]
    for each in reversed(sent):
        events = _concatenated(each, events)
    if not len(events.items):
        return None
    return event_matrix(events, (people, len(snapshot.model.table)), snapshot.model.config)


def own_events(snapshot: Snapshot, subject_views: SubjectViews, actions: tuple[str, ...]) -> Events:
    """Return the subject's own events with some actions, all where none is named; the user of each is 0."""
    stored = _stored_events(snapshot, [subject_views.record], np.zeros(1, dtype=np.int64))
    own = stored.where(stored.users == 0)
    if subject_views.history:
        own = _concatenated(own, _sent_events(snapshot, subject_views.history, 0))
    return own.where(own.actions.among(actions)) if actions else own


def _stored_events(snapshot: Snapshot, records: Sequence[UserRecord], own: npt.NDArray[np.int64]) -> Events:
    """Return the events in B records; the user of each is a row, from that of the record's subject on."""
    if len(records) == 1:
        rows, owners = records[0].events, records[0].owners
    else:
        rows = np.concatenate([record.events for record in records])
        owners = np.concatenate([record.owners for record in records])
        owners += np.repeat(own, [len(record.events) for record in records])
    codes, places = np.unique(rows["action"], return_inverse=True)
    action_names = snapshot.state.words.names
    return Events(
        owners,
        snapshot.model_rows(rows["item"]),
        Actions(places.astype(np.int32), tuple(action_names[code] for code in codes.tolist())),
        rows["weight"].astype(np.float64),
        rows["ts"].astype(np.int64),
    )


def _sent_events(snapshot: Snapshot, history: Sequence[Event], user: int) -> Events:
    return Events(
        np.full(len(history), user, dtype=np.int64),
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
