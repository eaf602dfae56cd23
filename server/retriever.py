"""The query flow: subject → raw views → user tower → index → candidates with the share of each view."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from encoder.config import VIEWS
from encoder.text import item_text
from indexer.arrays import IntArray
from indexer.filters import Filter
from indexer.index import VectorDimError
from indexer.search import Excluded
from server.raw_views import Asked, raw_views, stack
from server.records import (
    Candidates,
    EncodedUser,
    FloatArray,
    FreeText,
    InlineViews,
    Query,
    RawVector,
    SimilarTo,
    StoredUser,
    Timings,
)
from server.serving import Serving
from store.duck import Store
from store.records import Event
from store.state import NOBODY, Person, UserState


class NotReadyError(RuntimeError):
    """No index is loaded."""

    def __init__(self) -> None:
        super().__init__("no index is loaded yet: run `triptych train` and `triptych reindex` for this home")


class Retriever:
    """Answers queries; threads may share it, and what serves may be swapped under way."""

    def __init__(self, store: Store, state: UserState, serving: Serving | None = None) -> None:
        self._store = store
        self._state = state
        self._serving = serving
        self._swap = threading.Lock()

    @property
    def serving(self) -> Serving:
        """What answers now.

        Raises:
            NotReadyError: nothing does yet.
        """
        if self._serving is None:
            raise NotReadyError
        return self._serving

    def serve(self, serving: Serving) -> None:
        """Answer with another index from the next query on; running ones end with the one they began with."""
        with self._swap:
            self._serving = serving

    def retrieve(self, queries: Sequence[Query]) -> list[Candidates]:
        """Return the candidates of each query, in order; all of them by one index and model.

        Raises:
            NotReadyError: no index is loaded.
            ItemNotFoundError: a subject is an item that the store does not have.
            VectorDimError: a raw vector is not of the model's embedding dim.
        """
        serving, start = self.serving, time.perf_counter()
        asked = self._all_asked(queries)
        batch = stack([raw_views(serving, one) for one in asked])
        viewed = time.perf_counter()
        encoded = serving.model.encode_users(batch)
        vectors = _with_raw_vectors(queries, encoded.vectors)
        coded = time.perf_counter()
        rows, scores = _search(serving, queries, asked, vectors)
        found = [
            _candidates(serving, query, rows[i], scores[i], encoded.parts[i], asked[i])
            for i, query in enumerate(queries)
        ]
        done = time.perf_counter()
        timings = Timings(1e3 * (viewed - start), 1e3 * (coded - viewed), 1e3 * (done - coded))
        return [replace(candidates, timings=timings) for candidates in found]

    def encode(self, subject: StoredUser | InlineViews) -> EncodedUser:
        """Return the vector and parts of a person.  Raises: NotReadyError."""
        serving = self.serving
        (asked,) = self._all_asked([Query(subject)])
        encoded = serving.model.encode_users(raw_views(serving, asked))
        used = _used(encoded.parts[0])
        return EncodedUser(encoded.vectors[0], encoded.parts[0], used, serving.model.model_id)

    def _all_asked(self, queries: Sequence[Query]) -> list[Asked]:
        people = [query.subject.user_id for query in queries if isinstance(query.subject, StoredUser)]
        known = dict(zip(people, self._state.people(people), strict=True)) if people else {}
        return [self._asked(query, known) for query in queries]

    def _asked(self, query: Query, known: dict[str, Person]) -> Asked:
        subject = query.subject
        if isinstance(subject, StoredUser):
            person, names = known[subject.user_id], self._state.items.names
            asked = Asked(person, left_out=tuple(names[code] for code in person.history["item"].tolist()))
        elif isinstance(subject, InlineViews):
            views = subject.views
            friends = self._state.friends_of({friend.friend_id: friend.weight for friend in views.friends})
            seen = tuple(event.item_id for event in views.history)
            asked = Asked(friends, views.history, views.texts, left_out=seen)
        elif isinstance(subject, SimilarTo):
            item = self._store.item(subject.item_id)
            text = item_text(item.title, item.text)
            # One event, left out whether seen items are or not.
            own = (subject.item_id,)
            return Asked(NOBODY, (Event(*own),), (text,) if text else (), keep=True, left_out=own)
        elif isinstance(subject, FreeText):
            asked = Asked(NOBODY, texts=(subject.text,))
        else:
            asked = Asked(NOBODY)
        return asked if query.exclude_seen else replace(asked, left_out=())


def _with_raw_vectors(queries: Sequence[Query], encoded: FloatArray) -> FloatArray:
    """Return the encoded vectors (B, D) with those that a query brought along in their places."""
    vectors = encoded.copy()
    for i, query in enumerate(queries):
        if isinstance(query.subject, RawVector):
            if query.subject.vector.shape != encoded.shape[1:]:
                raise VectorDimError(len(query.subject.vector), encoded.shape[1])
            vectors[i] = query.subject.vector
    return vectors


def _search(
    serving: Serving, queries: Sequence[Query], asked: Sequence[Asked], vectors: FloatArray
) -> tuple[IntArray, FloatArray]:
    numbers = np.repeat(np.arange(len(asked)), [len(one.left_out) for one in asked])
    left_out = serving.index.rows([item_id for one in asked for item_id in one.left_out])
    numbers, left_out = numbers[left_out >= 0], left_out[left_out >= 0]
    # A batch is searched with its largest k; each query takes the head of its own row.
    k = max(query.k for query in queries)
    rows, scores = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, dtype=np.float32)
    groups: dict[Filter | None, list[int]] = {}
    for i, query in enumerate(queries):
        groups.setdefault(query.filter, []).append(i)
    for wanted, group in groups.items():  # each filter once
        place = np.full(len(queries), -1)
        place[group] = np.arange(len(group))
        own = place[numbers] >= 0
        excluded = Excluded(place[numbers[own]], left_out[own])
        rows[group], scores[group] = serving.index.search(vectors[group], k, excluded, wanted)
    return rows, scores


def _candidates(
    serving: Serving, query: Query, rows: IntArray, scores: FloatArray, parts: FloatArray, asked: Asked
) -> Candidates:
    index, used = serving.index, _used(parts)
    shares: FloatArray | None = None
    prior: FloatArray | None = None
    if isinstance(query.subject, RawVector):
        rows, scores = _head(rows, scores, query.k)
    elif used:
        rows, scores = _head(rows, scores, query.k)
        shares = index.vectors_of(rows) @ parts.T  # (n, 3)
        scores = shares.sum(axis=1)  # so that they agree to the last digit, whatever FAISS rounded
        order = np.argsort(-scores, kind="stable")
        rows, scores, shares = rows[order], scores[order], shares[order]
    else:
        rows = index.popular(query.k, index.rows(asked.left_out), query.filter)
        scores = prior = index.popularity_of(rows)
    return Candidates(
        index.item_ids(rows), scores, shares, prior, used, index.exact, serving.model.model_id, index.index_id
    )


def _head(rows: IntArray, scores: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    found = rows[:k] >= 0
    return rows[:k][found], scores[:k][found]


def _used(parts: FloatArray) -> tuple[str, ...]:
    """Return the views with a part in the vector; `parts` is (3, D)."""
    return tuple(view for view, part in zip(VIEWS, parts, strict=True) if part.any())
