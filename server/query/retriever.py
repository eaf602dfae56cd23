"""The query flow: subject → raw views → user tower → index → candidates with the share of each view."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from encoder.runtime import EncodedUsers
from encoder.text.encoder import item_text
from indexer.index import VectorDimError
from server.live.query_priority import QueryPriority
from server.query.explain import explained
from server.query.query import (
    Candidates,
    EncodedUser,
    FreeText,
    IndexChangedError,
    InlineViews,
    Query,
    RawVector,
    SimilarTo,
    StoredUser,
    Timings,
)
from server.query.query_vector import QueryVector, query_vector_of
from server.query.rank import candidates, search
from server.query.snapshot import Snapshot
from server.query.sources import TextNames, by_digest
from server.query.subject_views import SubjectViews, raw_views, stack
from server.query.user_search import audience_of, similar_users_of
from store.records import Event
from store.state.state import NO_RECORD, UserRecord, UserState
from store.store import Store


class NotReadyError(RuntimeError):
    """No index is loaded."""

    def __init__(self) -> None:
        super().__init__("no index is loaded yet: run `triptych train` and `triptych reindex` for this home")


class Retriever:
    """Answers queries; threads may share it, and what serves may be swapped under way."""

    def __init__(
        self,
        store: Store,
        state: UserState,
        snapshot: Snapshot | None = None,
        traffic: QueryPriority | None = None,
    ) -> None:
        """Take where people and items are stored, what serves, and who counts the queries that run."""
        self._store = store
        self._state = state
        self._traffic = traffic or QueryPriority()
        self._snapshot = snapshot
        self._swap = threading.Lock()

    @property
    def snapshot(self) -> Snapshot:
        """What answers now.

        Raises:
            NotReadyError: nothing does yet.
        """
        if self._snapshot is None:
            raise NotReadyError
        return self._snapshot

    def serve(self, snapshot: Snapshot) -> None:
        """Answer with another index from the next query on; running ones end with the one they began with."""
        with self._swap:
            self._snapshot = snapshot

    def retrieve(self, queries: Sequence[Query]) -> list[Candidates]:
        """Return the candidates of each query, in order; all of them by one index and model.

        Raises:
            NotReadyError: no index is loaded.
            NoUserIndexError: users are asked for, and the index has none.
            IndexChangedError: a query is for another index.
            ReindexNeededError: a filter asks what the index is too old to tell.
            ItemNotFoundError: a subject is an item that the store does not have.
            VectorDimError: a raw vector is not of the model's embedding dim.
            AbandonedError: the call ended under way.
        """
        with self._traffic.query():
            snapshot = self.snapshot
            for query in queries:
                if query.index_id not in ("", snapshot.index.index_id):
                    raise IndexChangedError(query.index_id, snapshot.index.index_id)
            items = [query for query in queries if not query.people]
            found = iter(self._items(snapshot, items) if items else [])
            return [self._people(snapshot, query) if query.people else next(found) for query in queries]

    def _people(self, snapshot: Snapshot, query: Query) -> Candidates:
        start = viewed = coded = time.perf_counter()
        if isinstance(query.subject, SimilarTo | FreeText):
            found = audience_of(snapshot, self._store, query)
        else:
            (asked,) = self._all_subject_views([query])
            views = raw_views(snapshot, asked)
            viewed = time.perf_counter()
            (query_vector,) = _query_vectors([query], snapshot.model.encode_users(views), [])
            coded = time.perf_counter()
            found = similar_users_of(snapshot, query, query_vector.vector, query_vector.used)
        done = time.perf_counter()
        timings = Timings(1e3 * (viewed - start), 1e3 * (coded - viewed), 1e3 * (done - coded))
        return replace(found.finite(), timings=timings)

    def _items(self, snapshot: Snapshot, queries: Sequence[Query]) -> list[Candidates]:
        start = time.perf_counter()
        asked = self._all_subject_views(queries)
        views = [raw_views(snapshot, one) for one in asked]
        texts = _text_queries(queries)
        views += [raw_views(snapshot, SubjectViews(NO_RECORD, texts=(text,))) for text in texts.values()]
        batch = stack(views)
        viewed = time.perf_counter()
        encoded = snapshot.model.encode_users(batch)
        query_vectors = _query_vectors(queries, encoded, list(texts))
        coded = time.perf_counter()
        now = (
            snapshot.index.delta.state
        )  # what a row is, and whether it may be found, is asked of this state alone
        rows, scores = search(snapshot.index, queries, asked, query_vectors, now)
        found = []
        for i, query in enumerate(queries):
            one, found_rows = candidates(snapshot, query, rows[i], scores[i], query_vectors[i], asked[i], now)
            if query.options.explain and one.shares is not None:  # a fallback is owed to nobody
                items = snapshot.index.vectors_of(found_rows)
                wrote = self._stored_texts(query, asked[i])
                said = explained(snapshot, asked[i], views[i], query_vectors[i], items, one.shares, wrote)
                one = replace(one, explanations=said)
            found.append(one)
        done = time.perf_counter()
        timings = Timings(1e3 * (viewed - start), 1e3 * (coded - viewed), 1e3 * (done - coded))
        return [replace(one.finite(), timings=timings) for one in found]

    def encode(self, subject: StoredUser | InlineViews) -> EncodedUser:
        """Return the vector and parts of a person.  Raises: NotReadyError."""
        snapshot = self.snapshot
        (asked,) = self._all_subject_views([Query(subject)])
        encoded = snapshot.model.encode_users(raw_views(snapshot, asked))
        vector, parts = encoded.vectors[0], encoded.parts[0]
        used = query_vector_of(Query(subject), vector, parts, None).used
        return EncodedUser(vector, parts, used, snapshot.model.model_id)

    def _stored_texts(self, query: Query, asked: SubjectViews) -> TextNames:
        """Return what a stored user wrote; the state of users has only digests of it."""
        if not isinstance(query.subject, StoredUser) or not asked.person.texts:
            return {}
        return by_digest(self._store.user_views(query.subject.user_id).texts)

    def _all_subject_views(self, queries: Sequence[Query]) -> list[SubjectViews]:
        people = [query.subject.user_id for query in queries if isinstance(query.subject, StoredUser)]
        known = dict(zip(people, self._state.people(people), strict=True)) if people else {}
        return [self._subject_views(query, known) for query in queries]

    def _subject_views(self, query: Query, known: dict[str, UserRecord]) -> SubjectViews:
        subject = query.subject
        if isinstance(subject, StoredUser):
            person, names = known[subject.user_id], self._state.items.names
            asked = SubjectViews(
                person, left_out=tuple(names[code] for code in person.history["item"].tolist())
            )
        elif isinstance(subject, InlineViews):
            views = subject.views
            friends = self._state.friends_of({friend.friend_id: friend.weight for friend in views.friends})
            seen = tuple(event.item_id for event in views.history)
            asked = SubjectViews(friends, views.history, views.texts, left_out=seen)
        elif isinstance(subject, SimilarTo):
            text = item_text(*self._store.title_and_text(subject.item_id))
            # One event, left out whether seen items are or not.
            own = (subject.item_id,)
            return SubjectViews(NO_RECORD, (Event(*own),), (text,) if text else (), keep=True, left_out=own)
        elif isinstance(subject, FreeText):
            asked = SubjectViews(NO_RECORD, texts=(subject.text,))
        else:
            asked = SubjectViews(NO_RECORD)
        return asked if query.exclude_seen else replace(asked, left_out=())


def _text_queries(queries: Sequence[Query]) -> dict[int, str]:
    """Return the texts that are searched for beside a subject, by the place of the query."""
    asked = ((i, query.options.text_query) for i, query in enumerate(queries))
    return {i: one.text for i, one in asked if one is not None}


def _query_vectors(
    queries: Sequence[Query], encoded: EncodedUsers, with_text: list[int]
) -> list[QueryVector]:
    """Return what each of B queries searches for.

    Args:
        queries: in order.
        encoded: their subjects', then those of the text queries.
        with_text: the places of the queries that have one.

    Raises:
        VectorDimError: a raw vector is not of the model's embedding dim.
    """
    text_of = dict(zip(with_text, encoded.vectors[len(queries) :], strict=True))
    query_vectors = []
    for i, query in enumerate(queries):
        vector = encoded.vectors[i]
        if isinstance(query.subject, RawVector):
            if query.subject.vector.shape != vector.shape:
                raise VectorDimError(len(query.subject.vector), len(vector))
            vector = query.subject.vector
        query_vectors.append(query_vector_of(query, vector, encoded.parts[i], text_of.get(i)))
    return query_vectors
