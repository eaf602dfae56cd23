"""Queries for users: those most like a user, and those whom an item or a text suits best."""

from dataclasses import replace

import numpy as np

from encoder.content import RawContent
from indexer.building import ItemTower
from indexer.delta import IndexState
from indexer.files import IntArray
from indexer.index import Index
from indexer.search import Exclusions, Searched
from indexer.users import ZeroVectorError, audience, similar_users
from server.query.query import (
    Candidates,
    FloatArray,
    FreeText,
    Query,
    QueryVector,
    SimilarTo,
    StoredUser,
    Target,
)
from server.query.snapshot import Snapshot
from server.query.stored_rows import StoredRows


class NoUserIndexError(RuntimeError):
    """The index that serves has no user index beside it."""

    def __init__(self, index_id: str) -> None:
        super().__init__(f"index {index_id} has no user index: run `triptych reindex --full`")
        self.index_id = index_id


class AudienceGroupError(ValueError):
    """A page of people is not made of whole groups, as the floor on audiences wants it."""

    def __init__(self, field: str, value: int, floor: int) -> None:
        super().__init__(f"{field} is {value}, and people are named in groups of {floor}: give a multiple")
        self.field, self.value, self.floor = field, value, floor


class AudienceTooSmallError(RuntimeError):
    """Fewer people are found than the floor on audiences lets an answer name."""

    def __init__(self, floor: int) -> None:
        super().__init__(f"fewer than {floor} people are found, and no answer names fewer")
        self.floor = floor


def check_groups(query: Query, floor: int) -> None:
    """Check that a query for people asks for whole groups.  Raises: AudienceGroupError."""
    for field, value in (("k", query.k), ("offset", query.offset)):
        if floor and value % floor:
            raise AudienceGroupError(field, value, floor)


def in_groups(found: Candidates, floor: int) -> Candidates:
    """Return the people of an answer in whole groups, by id and without scores, where there is a floor.

    So no difference between answers to one query singles out fewer people than the floor, and scores tell
    nobody's vector.

    Raises:
        AudienceTooSmallError: they do not fill one group.
    """
    if not floor:
        return found
    whole = len(found.ids) // floor * floor
    if not whole:
        raise AudienceTooSmallError(floor)
    groups = (sorted(found.ids[start : start + floor]) for start in range(0, whole, floor))
    return replace(found, ids=[one for group in groups for one in group], scores=found.scores[:0])


def user_index_of(snapshot: Snapshot) -> Index:
    """Return the user index of a snapshot.  Raises: NoUserIndexError."""
    if snapshot.users is None:
        raise NoUserIndexError(snapshot.index.index_id)
    return snapshot.users


def similar_users_of(snapshot: Snapshot, query: Query, query_vector: QueryVector) -> Candidates:
    """Find the users most like a query vector, by cosine, without the subject itself.

    A zero vector, as of a user without any view, has no similar users.

    Raises:
        NoUserIndexError: the index has none.
    """
    users = user_index_of(snapshot)
    state, excluded = users.delta.state, None
    if isinstance(query.subject, StoredUser):
        row = users.rows([query.subject.user_id], state)  # (1,), −1 where the subject is not indexed
        excluded = Exclusions(np.zeros(1, dtype=np.int64), row) if row[0] >= 0 else None
    exact = query.options.exact
    try:
        rows, scores = similar_users(
            users, query_vector.vector[None], query.depth, excluded, exact=exact, state=state
        )
    except ZeroVectorError:
        rows, scores = _nobody()
    found = rows, scores, state
    return _candidates(snapshot, query, found, query_vector.views_used, exact=users.exact or exact)


def audience_of(snapshot: Snapshot, store: StoredRows, query: Query) -> Candidates:
    """Find the users whose vectors have the highest inner product with an item or a text.

    A zero vector, as of an item without text and events, has no audience.

    Raises:
        NoUserIndexError: the index has none.
        ItemNotFoundError: the store does not have the item.
    """
    users, model = user_index_of(snapshot), snapshot.model
    state = users.delta.state
    if isinstance(query.subject, SimilarTo):
        item = store.item_table(query.subject.item_id)
        row = snapshot.model_row_of.get(query.subject.item_id, -1)
        vector = ItemTower(model, snapshot.encoder, snapshot.cache).vectors(item, np.array([row]))
    elif isinstance(query.subject, FreeText):
        texts = (query.subject.text,)
        raw = RawContent.of_texts(texts, snapshot.text_vectors(texts, keep=False))
        content = model.content_encoder.encode(raw)
        vector = model.encode_items(np.zeros((1, model.dim), np.float32), content)
    try:
        rows, scores = audience(users, vector, query.depth, state=state)
    except ZeroVectorError:
        rows, scores = _nobody()
    return _candidates(snapshot, query, (rows, scores, state), (), exact=True)


def _nobody() -> Searched:
    return np.zeros((1, 0), dtype=np.int64), np.zeros((1, 0), dtype=np.float32)


def _candidates(
    snapshot: Snapshot,
    query: Query,
    found: tuple[IntArray, FloatArray, IndexState],
    views_used: tuple[str, ...],
    *,
    exact: bool,
) -> Candidates:
    """Return the page of rows (1, n) of a state of the user index with scores (1, n), without row −1."""
    rows, scores = found[0][0, query.offset :], found[1][0, query.offset :]
    finite = np.isfinite(scores)  # −inf at row −1
    return Candidates(
        user_index_of(snapshot).item_ids(rows[finite], found[2]),
        scores[finite],
        None,
        views_used,
        exact,
        snapshot.model.model_id,
        snapshot.index.index_id,
        Target.USERS,
    )
