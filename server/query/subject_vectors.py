"""The vectors of subjects: read in one transaction, and encoded where none is kept."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from encoder.text import item_text
from encoder.views import ViewBatch
from server.query.query import (
    UNSCALED,
    FreeText,
    InlineViews,
    QueryVector,
    SimilarTo,
    StoredUser,
    Subject,
)
from server.query.snapshot import Snapshot
from server.query.stored_rows import StoredRows
from server.query.subject_views import SubjectViews, all_raw_views
from server.query.user_vectors import UserVector, UserVectors
from store.records import Event
from store.state import EMPTY_RECORD, LogFollower, StateContents, StateReader

_MOST_EVENTS = 5_000  # which take a millisecond or two


@dataclass(frozen=True)
class KnownSubjects:
    """What is known of subjects in one transaction.

    Attributes:
        snapshot: that served then.
        sequence: of the log in that transaction.
        finished: of each subject the vector that was kept, or None.
        views: of each what its vector is to be made of; None where it is finished, and for a raw vector.
    """

    snapshot: Snapshot
    sequence: int
    finished: list[UserVector | None]
    views: list[SubjectViews | None]

    def quick(self) -> list[int]:
        """Return the places of subjects that are finished, or made of no more than `_MOST_EVENTS` events."""
        return [
            i for i, one in enumerate(self.views) if one is None or len(one.record.events) <= _MOST_EVENTS
        ]

    def only(self, places: Sequence[int]) -> "KnownSubjects":
        """Return what is known of some of the subjects."""
        if len(places) == len(self.views):
            return self
        finished, views = [self.finished[i] for i in places], [self.views[i] for i in places]
        return KnownSubjects(self.snapshot, self.sequence, finished, views)

    def views_of(self, place: int) -> SubjectViews:
        """Return what the vector of a subject is made of, read because it was wanted."""
        return self.views[place] or SubjectViews(EMPTY_RECORD)


@dataclass(frozen=True)
class EncodedSubjects:
    """The vectors of subjects.

    Attributes:
        vectors: of each; of a raw vector the zero vector.
        raw: the raw views of those that were not kept, in order; None where all were.
        row_of: the row of a subject in `raw`, by its place.
        views_end: when `raw` was made, in seconds of `time.perf_counter`.
    """

    vectors: list[UserVector]
    raw: ViewBatch | None
    row_of: dict[int, int]
    views_end: float


class SubjectVectors:
    """Makes the vectors of subjects, and keeps those of stored users; threads may share it."""

    def __init__(
        self, store: StoredRows, state: StateReader, follower: LogFollower, kept: UserVectors
    ) -> None:
        """Keep what is read.

        Args:
            store: of the texts of items.
            state: of users.
            follower: of the state's log; `kept` must be one of its listeners.
            kept: vectors of stored users.
        """
        self._store = store
        self._state = state
        self._follower = follower
        self._kept = kept

    def read(
        self,
        subjects: Sequence[Subject],
        snapshot: Callable[[], Snapshot],
        whole: frozenset[int] = frozenset(),
    ) -> KnownSubjects:
        """Read what is known of subjects in one transaction, after catching up with its log.

        Args:
            subjects: any.
            snapshot: gives the one that serves; asked behind the catching up, which may change it.
            whole: places of subjects whose views are wanted although the vector may be kept.

        Raises:
            ItemNotFoundError: a subject is an item that the store does not have.
            and what `snapshot` raises.
        """
        made = [self._views_of(subject) for subject in subjects]
        stored = [(i, one.user_id) for i, one in enumerate(subjects) if isinstance(one, StoredUser)]
        asked = [i for i, _ in stored if i not in whole]

        def read(reading: StateContents) -> KnownSubjects:
            self._follower.catch_up(reading)
            serving, sequence = snapshot(), reading.head.sequence
            finished: list[UserVector | None] = [None] * len(subjects)
            views = list(made)
            if asked:
                kept = self._kept.get(serving, sequence, [subjects[i].user_id for i in asked])  # type: ignore[union-attr]
                for i, vector in zip(asked, kept, strict=True):
                    finished[i] = vector
            missing = [(i, user_id) for i, user_id in stored if finished[i] is None]
            if missing:
                records = reading.users([user_id for _, user_id in missing])
                for (i, _), record in zip(missing, records, strict=True):
                    views[i] = SubjectViews(record)
            for i, subject in enumerate(subjects):
                if isinstance(subject, InlineViews):
                    views[i] = _views_of_anonymous(reading, subject)
            return KnownSubjects(serving, sequence, finished, views)

        return self._state.read(read)

    def encode(self, known: KnownSubjects, subjects: Sequence[Subject]) -> EncodedSubjects:
        """Make the vectors that were not kept, all at once; those of stored users are kept from here on.

        A user some of whose texts have no vector yet is not kept, for that changes without a write.

        Raises:
            AbandonedError: the call ended meanwhile.
        """
        snapshot = known.snapshot
        made_of = [(i, one) for i, one in enumerate(known.views) if one is not None]
        if not made_of:
            vectors = [_nobody(snapshot) if one is None else one for one in known.finished]
            return EncodedSubjects(vectors, None, {}, time.perf_counter())
        raw, complete = all_raw_views(snapshot, [one for _, one in made_of])
        views_end = time.perf_counter()
        encoded = snapshot.model.encode_users(raw)
        made: dict[int, UserVector] = {}
        for row, (i, one) in enumerate(made_of):
            # Copies: a vector that is kept must not keep those of its batch.
            query_vector = QueryVector(encoded.vectors[row].copy(), encoded.parts[row].copy(), UNSCALED)
            made[i] = UserVector.of(snapshot, one.record, query_vector)
            subject = subjects[i]
            if complete[row] and isinstance(subject, StoredUser):
                friends = one.record.friends + one.record.withheld
                self._kept.put(snapshot, known.sequence, subject.user_id, friends, made[i])
        vectors = [made.get(i) or kept or _nobody(snapshot) for i, kept in enumerate(known.finished)]
        return EncodedSubjects(vectors, raw, {i: row for row, (i, _) in enumerate(made_of)}, views_end)

    def _views_of(self, subject: Subject) -> SubjectViews | None:
        """Return the views of a subject of which the state has nothing; None for any other."""
        match subject:
            case SimilarTo(item_id):
                text = item_text(*self._store.title_and_text(item_id))
                return SubjectViews(EMPTY_RECORD, (Event(item_id),), (text,) if text else (), keep=True)
            case FreeText(text):
                return SubjectViews(EMPTY_RECORD, texts=(text,))
        return None


def _views_of_anonymous(reading: StateContents, subject: InlineViews) -> SubjectViews:
    views = subject.views
    friends = {friend.friend_id: friend.weight for friend in views.friends}
    return SubjectViews(reading.record_of_friends(friends), views.history, views.texts)


def _nobody(snapshot: Snapshot) -> UserVector:
    """Return the vector of somebody without any view."""
    dim = snapshot.model.dim
    zero = QueryVector(np.zeros(dim, np.float32), np.zeros((3, dim), np.float32), UNSCALED)
    return UserVector(zero, np.zeros(0, np.uint32), np.zeros(0, np.int64))
