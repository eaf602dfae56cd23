"""Queries for people: whom a person is like, and whom an item or a text suits."""

import numpy as np

from encoder.text.encoder import item_text
from indexer.files import IntArray
from indexer.index import Index
from indexer.search.search import Exclusions
from indexer.users import ZeroVectorError, audience, similar_users
from server.query.query import Candidates, FloatArray, FreeText, Query, SimilarTo, StoredUser
from server.query.snapshot import Snapshot
from store.store import Store


class NoUserIndexError(RuntimeError):
    """The index that serves has no user index beside it."""

    def __init__(self, index_id: str) -> None:
        super().__init__(f"index {index_id} has no user index: run `triptych reindex --full`")
        self.index_id = index_id


def users_of(snapshot: Snapshot) -> Index:
    """Return the user index.  Raises: NoUserIndexError."""
    if snapshot.users is None:
        raise NoUserIndexError(snapshot.index.index_id)
    return snapshot.users


def similar_users_of(
    snapshot: Snapshot, query: Query, vector: FloatArray, used: tuple[str, ...]
) -> Candidates:
    """Return the people most like a vector (D,), by cosine, without the one who asks.

    Raises:
        NoUserIndexError: the index has none.
        VectorDimError: the vector is not of the embedding dim.
    """
    users = users_of(snapshot)
    now, own = users.delta.state, np.array([-1])
    if isinstance(query.subject, StoredUser):
        own = users.rows([query.subject.user_id], now)
    without = Exclusions(np.zeros(1, dtype=np.int64), own) if own[0] >= 0 else None
    try:
        rows, scores = similar_users(
            users, vector[None], query.depth, without, exact=query.options.exact, state=now
        )
    except ZeroVectorError:  # somebody without any view is like nobody
        rows, scores = np.zeros((1, 0), dtype=np.int64), np.zeros((1, 0), dtype=np.float32)
    return _found(snapshot, query, rows[0], scores[0], used, exact=users.exact or query.options.exact)


def audience_of(snapshot: Snapshot, store: Store, query: Query) -> Candidates:
    """Return the people whose vectors have the highest inner product with an item or a text.

    Raises:
        NoUserIndexError: the index has none.
        ItemNotFoundError: the store does not have the item.
    """
    users, model = users_of(snapshot), snapshot.model
    id_vector, text = np.zeros(model.dim, dtype=np.float32), ""
    if isinstance(query.subject, SimilarTo):
        text = item_text(*store.title_and_text(query.subject.item_id))
        row = snapshot.model_row_of.get(query.subject.item_id, -1)
        id_vector = model.id_vectors[row] if row >= 0 else id_vector
    elif isinstance(query.subject, FreeText):
        text = query.subject.text
    text_vector = np.zeros((1, snapshot.encoder.dim), dtype=np.float32)
    if text:
        text_vector = snapshot.text_vectors((text,), keep=isinstance(query.subject, SimilarTo))
    vector = model.encode_items(id_vector[None], text_vector)
    try:
        rows, scores = audience(users, vector, query.depth)
    except ZeroVectorError:  # an item of which nothing is known suits nobody
        rows, scores = np.zeros((1, 0), dtype=np.int64), np.zeros((1, 0), dtype=np.float32)
    return _found(snapshot, query, rows[0], scores[0], (), exact=True)


def _found(
    snapshot: Snapshot,
    query: Query,
    rows: IntArray,
    scores: FloatArray,
    used: tuple[str, ...],
    *,
    exact: bool,
) -> Candidates:
    rows, scores = rows[query.offset :], scores[query.offset :]
    there = rows >= 0
    user_ids = users_of(snapshot).item_ids(rows[there])
    known = (snapshot.model.model_id, snapshot.index.index_id)
    return Candidates(user_ids, scores[there], None, None, used, exact, *known, people=True)
