"""The query flow: subject, raw views, user tower, index, candidates with the share of each view."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

import numpy as np

from encoder.views import FloatArray
from indexer.delta import IndexState
from indexer.files import IntArray
from indexer.filters import Filter
from server.cancellation import check_wanted, seconds_left
from server.query.explain import by_digest, explained
from server.query.pages import NO_ROWS, page_of, parts_of, search, shares_of
from server.query.predict import Prediction, Question, predict
from server.query.query import (
    Candidates,
    CommitNotReachedError,
    EncodedUser,
    Explanation,
    FreeText,
    IndexChangedError,
    InlineViews,
    Query,
    QueryVector,
    SimilarTo,
    StoredUser,
    Subject,
    Target,
    Timings,
    query_vector_of,
)
from server.query.snapshot import Snapshot
from server.query.stored_rows import StoredRows
from server.query.subject_vectors import EncodedSubjects, KnownSubjects, SubjectVectors
from server.query.user_search import audience_of, check_groups, in_groups, similar_users_of
from server.query.user_vectors import DEFAULT_BYTES, UserVector, UserVectors
from server.query.visible import visible_explanations, visible_subject
from store.state import LogFollower, StateReader

_LONGEST_WAIT_SECONDS = 2.0  # for a commit
_LONGEST_PAUSE_SECONDS = 0.002  # of one pause, so that writes go on under any load


class NotReadyError(RuntimeError):
    """No index is loaded."""

    def __init__(self) -> None:
        super().__init__("no index is loaded yet: run `triptych train` and `triptych reindex` for this home")


class QueryPriority:
    """Counts the queries that run or wait, so that writers let them end first; threads may share it.

    All threads share Python's lock. A thread that computes gives it up every half millisecond only, and a
    query, which lets go of it at each read of the state, the graph or the index, waits as long each time.
    """

    def __init__(self) -> None:
        self._running = 0
        self._idle = threading.Condition()

    @contextmanager
    def query(self) -> Iterator[None]:
        """Count a query while the block runs."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        """Count a query from here on."""
        with self._idle:
            self._running += 1

    def end(self, queries: int = 1) -> None:
        """Count so many queries no more."""
        with self._idle:
            self._running -= queries
            if not self._running:
                self._idle.notify_all()

    def pause(self) -> None:
        """Wait until no query runs, for two milliseconds at most."""
        if self._running:
            with self._idle:
                self._idle.wait_for(lambda: not self._running, _LONGEST_PAUSE_SECONDS)


class Retriever:
    """Answers queries; threads may share it, and the snapshot that serves may be replaced while they run.

    Attributes:
        user_vectors: of stored users, kept in memory.
    """

    def __init__(
        self,
        store: StoredRows,
        state: StateReader,
        snapshot: Snapshot | None = None,
        priority: QueryPriority | None = None,
        follower: LogFollower | None = None,
        user_cache_bytes: int = DEFAULT_BYTES,
        audience_floor: int = 0,
    ) -> None:
        """Keep what queries read.

        Args:
            store: asked for texts, by which explanations name them, and for items.
            state: of users.
            snapshot: the first that serves; None for none yet.
            priority: counts the running queries.
            follower: of the log of the state; None makes one.
            user_cache_bytes: of user vectors that are kept in memory, at most.
            audience_floor: people in a group, in which alone answers name people; 0 for none.
        """
        self._store = store
        self._state = state
        self._priority = priority or QueryPriority()
        self._snapshot: Snapshot | None = None
        self._audience_floor = audience_floor
        self.user_vectors = UserVectors(user_cache_bytes)
        follower = follower or LogFollower()
        follower.listen(self.user_vectors.follow)
        self._subjects = SubjectVectors(store, state, follower, self.user_vectors)
        if snapshot is not None:
            self.serve(snapshot)

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot that serves.

        Raises:
            NotReadyError: there is none yet.
        """
        if self._snapshot is None:
            raise NotReadyError
        return self._snapshot

    def serve(self, snapshot: Snapshot) -> None:
        """Answer from this snapshot from the next query on; running ones end with the one they began with."""
        self._snapshot = snapshot
        self.user_vectors.serve(snapshot)

    def retrieve(self, queries: Sequence[Query]) -> list[Candidates]:
        """Find the candidates of each query, in order; all of them from one snapshot.

        The candidates of a query are the same to the last bit alone and among others.

        Raises:
            NotReadyError: no index is loaded.
            NoUserIndexError: a query is for users, and the index has none.
            AudienceGroupError, AudienceTooSmallError: it does not keep to the floor on audiences.
            IndexChangedError: a query is for another index.
            ReindexNeededError: a filter needs what the files of an older index do not hold.
            ItemNotFoundError: a subject is an item that the store does not have.
            VectorDimError: a raw vector is not of the model's embedding dim.
            CommitNotReachedError: a query is for a later commit than the state has.
            AbandonedError: the call ended meanwhile.
        """
        self._wait_for(max((query.min_commit for query in queries), default=0))
        with self._priority.query():
            start = time.perf_counter()
            queries = [self._seen(query) for query in queries]
            for_items = [query for query in queries if query.target is Target.ITEMS]
            texts = [FreeText(q.options.text_query.text) for q in for_items if q.options.text_query]
            subjects = [*(query.subject for query in for_items), *texts]
            explain = frozenset(i for i, query in enumerate(for_items) if query.options.explain)
            known = self._read(subjects, explain)
            _check_index(known.snapshot, queries)
            of_items: Iterator[Candidates] = iter(())
            if for_items:
                encoded = self._subjects.encode(known, subjects)
                of_items = iter(self._find_items(known, encoded, for_items, start))
            return [
                next(of_items) if query.target is Target.ITEMS else self._find_users(known.snapshot, query)
                for query in queries
            ]

    def retrieve_together(self, queries: Sequence[Query]) -> list[Candidates | None]:
        """Find the candidates of small queries, in order; None for one that would hold up the others.

        That is one for a commit that is not here yet, or of a user who has no finished vector and so many
        events, with those of friends, that making it takes long.

        Raises:
            as `retrieve`.
        """
        here = self._state.commit if any(query.min_commit for query in queries) else 0
        waits = [query.min_commit > here for query in queries]
        if any(waits):
            others = [query for query, one in zip(queries, waits, strict=True) if not one]
            answers = iter(self.retrieve_together(others) if others else ())
            return [None if one else next(answers) for one in waits]
        with self._priority.query():
            start = time.perf_counter()
            known = self._read([query.subject for query in queries])
            _check_index(known.snapshot, queries)
            quick = known.quick()
            if not quick:
                return [None] * len(queries)
            some = [queries[i] for i in quick]
            encoded = self._subjects.encode(known.only(quick), [query.subject for query in some])
            found = dict(zip(quick, self._find_items(known.only(quick), encoded, some, start), strict=True))
            return [found.get(i) for i in range(len(queries))]

    def encode(
        self, subject: StoredUser | InlineViews, visible: Filter | None = None, min_commit: int = 0
    ) -> EncodedUser:
        """Encode a user as the user tower of the serving model does.

        Args:
            subject: the user.
            visible: what items the caller may see; events about others are left out of views sent along.
            min_commit: as of a Query.

        Raises:
            NotReadyError: no index is loaded.
            CommitNotReachedError: the state has not come so far.
        """
        self._wait_for(min_commit)
        subject = visible_subject(self.snapshot.index, visible, subject)
        known = self._read([subject])
        (vector,) = self._subjects.encode(known, [subject]).vectors
        query_vector, model_id = vector.query_vector, known.snapshot.model.model_id
        return EncodedUser(query_vector.vector, parts_of(query_vector), query_vector.views_used, model_id)

    def predict(self, question: Question) -> Prediction:
        """Ask a head of the serving model.

        Raises:
            NotReadyError: no index is loaded.
            NoHeadError: the model has no such head.
            ItemNotServedError: an item is unknown, deleted or unavailable.
            CommitNotReachedError: the state has not come so far.
            AbandonedError: the call ended meanwhile.
        """
        self._wait_for(question.min_commit)
        with self._priority.query():
            subject = visible_subject(self.snapshot.index, question.visible, question.subject)
            known = self._read([subject], frozenset([0]))
            return predict(known.snapshot, question, known.views_of(0))

    @property
    def commit(self) -> int:
        """The last commit that queries know of."""
        return self._state.commit

    @property
    def state_age(self) -> float | None:
        """Seconds since the state was known to have every commit; None where it always has."""
        return self._state.age

    def _wait_for(self, commit: int) -> None:
        """Wait for a commit as long as the call has time, for two seconds at most.

        Raises:
            CommitNotReachedError: it has not come.
            AbandonedError: the call ended meanwhile.
        """
        if commit and not self._state.wait_for(commit, min(_LONGEST_WAIT_SECONDS, seconds_left())):
            check_wanted()
            raise CommitNotReachedError(commit, self._state.commit)

    def _seen(self, query: Query) -> Query:
        """Return a query about what its caller may see.  Raises: ItemNotFoundError."""
        if query.visible is None:
            return query
        return replace(query, subject=visible_subject(self.snapshot.index, query.visible, query.subject))

    def _read(self, subjects: Sequence[Subject], whole: frozenset[int] = frozenset()) -> KnownSubjects:
        return self._subjects.read(subjects, lambda: self.snapshot, whole)

    def _find_items(
        self, known: KnownSubjects, encoded: EncodedSubjects, queries: Sequence[Query], start: float
    ) -> list[Candidates]:
        """Find the items of each query by its vector: a search, and a page with shares and explanations."""
        snapshot, index, vectors = known.snapshot, known.snapshot.index, encoded.vectors
        texts = iter(vectors[len(queries) :])
        query_vectors = [
            query_vector_of(
                query,
                vectors[i].query_vector,
                next(texts).query_vector.vector if query.options.text_query else None,
            )
            for i, query in enumerate(queries)
        ]
        encode_end = time.perf_counter()

        state = index.delta.state  # every row is looked up and searched in this one state
        excluded = [excluded_of(snapshot, query, vectors[i], state) for i, query in enumerate(queries)]
        pools = search(index, queries, query_vectors, excluded, state)
        search_end = time.perf_counter()
        check_wanted()
        pages = [page_of(index, query, *pools[i], state) for i, query in enumerate(queries)]
        shares = shares_of(index, query_vectors, pages, state)
        ids = iter(index.item_ids(np.concatenate([rows for rows, _ in pages]), state))
        explanations = [
            self._explanations(
                known, encoded, i, query, query_vectors[i], index.vectors_of(pages[i][0], state), shares[i]
            )
            if query.options.explain
            else ()
            for i, query in enumerate(queries)
        ]
        timings = _timings(start, encoded.views_end, encode_end, search_end)
        state_age = self._state.age
        return [
            Candidates(
                list(islice(ids, len(pages[i][0]))),
                pages[i][1],
                shares[i],
                query_vectors[i].views_used,
                index.exact or query.options.exact,
                snapshot.model.model_id,
                index.index_id,
                fallback=query_vectors[i].is_empty,
                explanations=explanations[i],
                timings=timings,
                state_age=state_age,
            )
            for i, query in enumerate(queries)
        ]

    def _explanations(
        self,
        known: KnownSubjects,
        encoded: EncodedSubjects,
        place: int,
        query: Query,
        query_vector: QueryVector,
        vectors: FloatArray,
        shares: FloatArray | None,
    ) -> tuple[Explanation, ...]:
        """Name the sources of the scores of items with vectors (n, D), where there are shares (n, P)."""
        if shares is None or encoded.raw is None:
            return ()
        check_wanted()
        snapshot, subject_views = known.snapshot, known.views_of(place)
        stored_texts: dict[bytes, str] = {}
        if isinstance(query.subject, StoredUser) and subject_views.record.texts:
            # Of texts the state of users has only digests.
            stored_texts = by_digest(self._store.texts_of(query.subject.user_id))
        own_views = encoded.raw.rows(np.array([encoded.row_of[place]]))
        found = explained(snapshot, subject_views, own_views, query_vector, vectors, shares, stored_texts)
        return visible_explanations(snapshot.index, query.visible, found)

    def _find_users(self, snapshot: Snapshot, query: Query) -> Candidates:
        """Find the users most like a subject, or whom an item or a text suits best."""
        start = views_end = encode_end = time.perf_counter()
        check_groups(query, self._audience_floor)
        if isinstance(query.subject, SimilarTo | FreeText):
            answer = audience_of(snapshot, self._store, query)
        else:
            known = self._subjects.read([query.subject], lambda: snapshot)
            encoded = self._subjects.encode(known, [query.subject])
            views_end = encoded.views_end
            query_vector = query_vector_of(query, encoded.vectors[0].query_vector, None)
            encode_end = time.perf_counter()
            answer = similar_users_of(snapshot, query, query_vector)
        named = in_groups(answer, self._audience_floor)
        timings = _timings(start, views_end, encode_end)
        return replace(named, timings=timings, state_age=self._state.age)


def _check_index(snapshot: Snapshot, queries: Sequence[Query]) -> None:
    """Check that all queries are for the index that serves, or for any.  Raises: IndexChangedError."""
    for query in queries:
        if query.index_id not in ("", snapshot.index.index_id):
            raise IndexChangedError(query.index_id, snapshot.index.index_id)


def excluded_of(snapshot: Snapshot, query: Query, vector: UserVector, state: IndexState) -> IntArray:
    """Look up the rows (n,) that an answer leaves out: of the item searched for, or of seen items."""
    match query.subject:
        case StoredUser() if query.exclude_seen:
            rows = snapshot.index_rows(vector.seen, vector.main_rows, state)
        case SimilarTo(item_id):  # also where seen items are not left out
            rows = snapshot.index.rows([item_id], state)
        case InlineViews(views) if query.exclude_seen:
            rows = snapshot.index.rows([event.item_id for event in views.history], state)
        case _:
            return NO_ROWS
    return rows[rows >= 0]


def _timings(start: float, views_end: float, encode_end: float, search_end: float | None = None) -> Timings:
    """Return the milliseconds from the start to each end of a stage, in seconds, and to now."""
    now = time.perf_counter()
    page_ms = 0.0 if search_end is None else 1e3 * (now - search_end)
    return Timings(
        1e3 * (views_end - start), 1e3 * (encode_end - views_end), 1e3 * (now - encode_end), page_ms
    )
