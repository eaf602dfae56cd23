"""The query flow: subject, raw views, user tower, index, candidates with the share of each view."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from encoder.text import item_text
from indexer.delta import IndexState
from indexer.files import IntArray
from indexer.filters import Filter
from indexer.index import Index
from indexer.search import Exclusions, scores_of
from server.cancellation import check_wanted
from server.query.diversity import diversified, pool_size
from server.query.explain import by_digest, explained
from server.query.log_follower import LogFollower
from server.query.predict import Prediction, Question, predict
from server.query.query import (
    Candidates,
    EncodedUser,
    Explanation,
    FloatArray,
    FreeText,
    IndexChangedError,
    InlineViews,
    Query,
    QueryVector,
    RawVector,
    SimilarTo,
    StoredUser,
    Subject,
    Target,
    Timings,
    query_vector_of,
    views_used,
)
from server.query.snapshot import Snapshot
from server.query.stored_rows import StoredRows
from server.query.subject_views import SubjectViews, raw_views, stack
from server.query.user_search import audience_of, similar_users_of
from store.records import Event
from store.state import EMPTY_RECORD, UserState

_NO_ROWS: IntArray = np.zeros(0, dtype=np.int64)
_LONGEST_PAUSE_SECONDS = 0.002  # of one pause, so that writes go on under any load


class NotReadyError(RuntimeError):
    """No index is loaded."""

    def __init__(self) -> None:
        super().__init__("no index is loaded yet: run `triptych train` and `triptych reindex` for this home")


class QueryPriority:
    """Counts the queries that run, so that writers let them end first; threads may share it.

    All threads share Python's lock. A thread that computes gives it up every half millisecond only, and a
    query, which lets go of it at each read of the state, the graph or the index, waits as long each time.
    """

    def __init__(self) -> None:
        self._running = 0
        self._idle = threading.Condition()

    @contextmanager
    def query(self) -> Iterator[None]:
        """Count a query while the block runs."""
        with self._idle:
            self._running += 1
        try:
            yield
        finally:
            with self._idle:
                self._running -= 1
                if not self._running:
                    self._idle.notify_all()

    def pause(self) -> None:
        """Wait until no query runs, for two milliseconds at most."""
        if self._running:
            with self._idle:
                self._idle.wait_for(lambda: not self._running, _LONGEST_PAUSE_SECONDS)


class Retriever:
    """Answers queries; threads may share it, and the snapshot that serves may be replaced while they run."""

    def __init__(
        self,
        store: StoredRows,
        state: UserState,
        snapshot: Snapshot | None = None,
        priority: QueryPriority | None = None,
        follower: LogFollower | None = None,
    ) -> None:
        """Keep the rows of the store, the state of users, what serves and the count of running queries."""
        self._follower = follower or LogFollower()
        self._store = store
        self._state = state
        self._priority = priority or QueryPriority()
        self._snapshot = snapshot

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

    def retrieve(self, queries: Sequence[Query]) -> list[Candidates]:
        """Find the candidates of each query, in order; all of them from one snapshot.

        Raises:
            NotReadyError: no index is loaded.
            NoUserIndexError: a query is for users, and the index has none.
            IndexChangedError: a query is for another index.
            ReindexNeededError: a filter needs what the files of an older index do not hold.
            ItemNotFoundError: a subject is an item that the store does not have.
            VectorDimError: a raw vector is not of the model's embedding dim.
            AbandonedError: the call ended meanwhile.
        """
        with self._priority.query():
            self._state.read(self._follower.catch_up)
            snapshot = self.snapshot
            for query in queries:
                if query.index_id not in ("", snapshot.index.index_id):
                    raise IndexChangedError(query.index_id, snapshot.index.index_id)
            for_items = [query for query in queries if query.target is Target.ITEMS]
            of_items = iter(self._find_items(snapshot, for_items) if for_items else [])
            return [
                next(of_items) if query.target is Target.ITEMS else self._find_users(snapshot, query)
                for query in queries
            ]

    def encode(self, subject: StoredUser | InlineViews) -> EncodedUser:
        """Encode a user as the user tower of the serving model does.  Raises: NotReadyError."""
        self._state.read(self._follower.catch_up)
        snapshot = self.snapshot
        (subject_views,) = self._subject_views([subject])
        encoded = snapshot.model.encode_users(raw_views(snapshot, subject_views))
        vector, parts = encoded.vectors[0], encoded.parts[0]
        return EncodedUser(vector, parts, views_used(parts), snapshot.model.model_id)

    def predict(self, question: Question) -> Prediction:
        """Ask a head of the serving model.

        Raises:
            NotReadyError: no index is loaded.
            NoHeadError: the model has no such head.
            ItemNotServedError: an item is unknown, deleted or unavailable.
            AbandonedError: the call ended meanwhile.
        """
        with self._priority.query():
            self._state.read(self._follower.catch_up)
            snapshot = self.snapshot
            (subject_views,) = self._subject_views([question.subject])
            return predict(snapshot, question, subject_views)

    def _find_items(self, snapshot: Snapshot, queries: Sequence[Query]) -> list[Candidates]:
        """Find the items of each query: views, vectors, a search, and a page with shares and explanations."""
        start, index = time.perf_counter(), snapshot.index
        text_queries = {i: q.options.text_query for i, q in enumerate(queries) if q.options.text_query}
        texts = [FreeText(text_query.text) for text_query in text_queries.values()]
        subject_views = self._subject_views([*(query.subject for query in queries), *texts])
        views = stack([raw_views(snapshot, one) for one in subject_views])
        views_end = time.perf_counter()

        encoded = snapshot.model.encode_users(views)
        text_vectors = dict(zip(text_queries, encoded.vectors[len(queries) :], strict=True))
        query_vectors = [
            query_vector_of(query, encoded.vectors[i], encoded.parts[i], text_vectors.get(i))
            for i, query in enumerate(queries)
        ]
        encode_end = time.perf_counter()

        state = index.delta.state  # every row is looked up and searched in this one state
        excluded = [
            self._excluded(snapshot, q, v, state) for q, v in zip(queries, subject_views, strict=False)
        ]
        pools = search(index, queries, query_vectors, excluded, state)
        answers = []
        for i, query in enumerate(queries):
            check_wanted()
            query_vector = query_vectors[i]
            rows, scores, vectors = page_of(index, query, *pools[i])
            shares: FloatArray | None = None
            explanations: tuple[Explanation, ...] = ()
            if query_vector.parts is not None and not query_vector.is_empty:
                shares = shares_of(query_vector.parts, vectors, scores)
                if query.options.explain:
                    stored_texts = self._stored_texts(query.subject, subject_views[i])
                    own_views = views.rows(np.array([i]))
                    explanations = explained(
                        snapshot, subject_views[i], own_views, query_vector, vectors, shares, stored_texts
                    )
            answers.append(
                Candidates(
                    index.item_ids(rows),
                    scores,
                    shares,
                    query_vector.views_used,
                    index.exact or query.options.exact,
                    snapshot.model.model_id,
                    index.index_id,
                    fallback=query_vector.is_empty,
                    explanations=explanations,
                )
            )
        timings = _timings(start, views_end, encode_end)
        return [replace(answer, timings=timings) for answer in answers]

    def _find_users(self, snapshot: Snapshot, query: Query) -> Candidates:
        """Find the users most like a subject, or whom an item or a text suits best."""
        start = views_end = encode_end = time.perf_counter()
        if isinstance(query.subject, SimilarTo | FreeText):
            answer = audience_of(snapshot, self._store, query)
        else:
            (subject_views,) = self._subject_views([query.subject])
            views = raw_views(snapshot, subject_views)
            views_end = time.perf_counter()
            encoded = snapshot.model.encode_users(views)
            query_vector = query_vector_of(query, encoded.vectors[0], encoded.parts[0], None)
            encode_end = time.perf_counter()
            answer = similar_users_of(snapshot, query, query_vector)
        return replace(answer, timings=_timings(start, views_end, encode_end))

    def _subject_views(self, subjects: Sequence[Subject]) -> list[SubjectViews]:
        """Read what each subject's raw views are made of; all stored users from one state of users."""
        stored = [subject.user_id for subject in subjects if isinstance(subject, StoredUser)]
        records = iter(self._state.users(stored) if stored else [])
        all_views = []
        for subject in subjects:
            match subject:
                case StoredUser():
                    views = SubjectViews(next(records))
                case InlineViews(inline):
                    friends = {friend.friend_id: friend.weight for friend in inline.friends}
                    views = SubjectViews(self._state.record_of_friends(friends), inline.history, inline.texts)
                case SimilarTo(item_id):
                    text = item_text(*self._store.title_and_text(item_id))
                    views = SubjectViews(EMPTY_RECORD, (Event(item_id),), (text,) if text else (), keep=True)
                case FreeText(text):
                    views = SubjectViews(EMPTY_RECORD, texts=(text,))
                case RawVector():
                    views = SubjectViews(EMPTY_RECORD)
            all_views.append(views)
        return all_views

    def _excluded(
        self, snapshot: Snapshot, query: Query, subject_views: SubjectViews, state: IndexState
    ) -> IntArray:
        """Look up the rows (n,) that an answer leaves out: of the item searched for, or of seen items."""
        match query.subject:
            case SimilarTo(item_id):  # also where seen items are not left out
                rows = snapshot.index.rows([item_id], state)
            case StoredUser() if query.exclude_seen:
                rows = snapshot.index_rows(subject_views.record.history["item"], state)
            case InlineViews(views) if query.exclude_seen:
                rows = snapshot.index.rows([event.item_id for event in views.history], state)
            case _:
                return _NO_ROWS
        return rows[rows >= 0]

    def _stored_texts(self, subject: Subject, subject_views: SubjectViews) -> dict[bytes, str]:
        """Read the texts of a stored user, of which the state of users has only digests."""
        if not isinstance(subject, StoredUser) or not subject_views.record.texts:
            return {}
        return by_digest(self._store.texts_of(subject.user_id))


def search(
    index: Index,
    queries: Sequence[Query],
    query_vectors: Sequence[QueryVector],
    excluded: Sequence[IntArray],
    state: IndexState,
) -> list[tuple[IntArray, FloatArray]]:
    """Find the pool of each query: rows (n,) and scores (n,) of the best items in one state, best first.

    An empty query vector has the most popular items for a pool, scored by popularity. Scores that are not
    finite, as from a damaged model, are left out.

    Args:
        index: what to search.
        queries: B of them; those with the same filter are searched together.
        query_vectors: of each.
        excluded: rows (n,) that each of them leaves out, looked up in `state`.
        state: of the index.

    Raises:
        ReindexNeededError: a filter needs what the files of an older index do not hold.
        AbandonedError: the call ended meanwhile.
    """
    pools = [(_NO_ROWS, np.zeros(0, dtype=np.float32))] * len(queries)
    groups: dict[tuple[Filter | None, bool], list[int]] = {}
    for i, query in enumerate(queries):
        if query_vectors[i].is_empty:
            check_wanted()
            rows = index.popular(_pool_size(query), excluded[i], query.filter, state)
            pools[i] = rows, index.popularity_of(rows)
        else:
            groups.setdefault((query.filter, query.options.exact), []).append(i)
    for (item_filter, exact), group in groups.items():
        check_wanted()
        numbers = np.repeat(np.arange(len(group)), [len(excluded[i]) for i in group])
        exclusions = Exclusions(numbers, np.concatenate([excluded[i] for i in group]))
        vectors = np.stack([query_vectors[i].vector for i in group])  # (b, D)
        # All with the largest k; each query takes the head of its own row.
        k = max(_pool_size(queries[i]) for i in group)
        find = index.brute_force if exact else index.search
        all_rows, all_scores = find(vectors, k, exclusions, item_filter, state)
        for i, rows, scores in zip(group, all_rows, all_scores, strict=True):
            size = _pool_size(queries[i])
            finite = np.isfinite(scores[:size])  # −inf where fewer are left
            pools[i] = rows[:size][finite], scores[:size][finite]
    return pools


def page_of(
    index: Index, query: Query, rows: IntArray, scores: FloatArray
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Choose the page of a query from its pool: rows (n,), scores (n,) and vectors (n, D), in its order.

    Args:
        index: where the vectors are.
        query: its page, least score and diversity.
        rows: (m,) of the pool, best first.
        scores: (m,) of them.
    """
    options, page = query.options, slice(query.offset, query.depth)
    if options.min_score is not None:
        enough = scores.astype(np.float64) >= options.min_score
        rows, scores = rows[enough], scores[enough]
    if options.diversity >= 1.0:
        return rows[page], scores[page], index.vectors_of(rows[page])
    vectors = index.vectors_of(rows)
    chosen = diversified(scores, vectors, query.depth, options.diversity)[page]
    return rows[chosen], scores[chosen], vectors[chosen]


def shares_of(parts: FloatArray, vectors: FloatArray, scores: FloatArray) -> FloatArray:
    """Divide scores (n,) of vectors (n, D) among parts (P, D): shares (n, P) which sum to the scores.

    A share is the inner product with the part; the rounding error is added to the largest of each score.
    """
    every = np.broadcast_to(np.arange(len(vectors)), (len(parts), len(vectors)))
    shares = np.ascontiguousarray(scores_of(vectors, np.ascontiguousarray(parts), every).T)
    largest = np.arange(len(vectors)), np.abs(shares).argmax(axis=1)
    shares[largest] += (scores - shares.sum(axis=1, dtype=np.float64)).astype(np.float32)
    return shares


def _pool_size(query: Query) -> int:
    """Return how many candidates the page of a query is chosen from."""
    return query.depth if query.options.diversity >= 1.0 else pool_size(query.depth)


def _timings(start: float, views_end: float, encode_end: float) -> Timings:
    """Return the milliseconds from the start to each end of a stage, in seconds, and to now."""
    now = time.perf_counter()
    return Timings(1e3 * (views_end - start), 1e3 * (encode_end - views_end), 1e3 * (now - encode_end))
