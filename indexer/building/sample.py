"""User vectors from the rows of an export, a batch of users at a time, and queries to tune an index with."""

import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from encoder.arrays import NO_TIME, Actions, Events
from encoder.dataset import rows_of
from encoder.progress import watched
from encoder.runtime import Model
from encoder.text import ErasureSafeWriter, cache_imported_vectors, encode_with_cache
from encoder.views import FloatArray, assemble_views, event_matrix, text_pool, text_view
from indexer.building.items import ItemTower
from store.export import Export

log = logging.getLogger(__name__)

QUERIES = 512
USER_BATCH = 4_096  # whose rows and views, with those of their friends, are in memory at once
_FEWEST_USERS = 64  # with fewer, mixtures of items are the queries
_MIXED_ITEMS = 3  # in one such query


def user_vectors(export: Export, tower: ItemTower, batches: Sequence[pa.StringArray]) -> Iterator[FloatArray]:
    """Yield the vectors (n, D) float32 of each batch of users.

    The vector of a user without any view is zero. Items that the model does not know are in no history.

    Args:
        export: the behaviours, texts and friends of the users.
        tower: whose model encodes the users.
        batches: user ids, each once. Memory grows with the users of a batch and their friends.
    """
    if not any(map(len, batches)):
        yield from (np.zeros((0, tower.model.dim), dtype=np.float32) for _ in batches)
        return
    writer = ErasureSafeWriter(tower.cache, export.texts_among)
    with Export(export.path, export.manifest) as source:  # DuckDB keeps what it has read until it is closed
        cache_imported_vectors(writer, tower.encoder, source.imported_vectors(tower.encoder.text_model_id))
        for user_ids in watched(batches, "user vectors", "block"):
            yield encode_users(source, tower.model, user_ids, lambda texts: _encoded(tower, texts, writer))


def batches_of(user_ids: pa.StringArray) -> list[pa.StringArray]:
    """Split user ids into batches of USER_BATCH."""
    return [user_ids.slice(start, USER_BATCH) for start in range(0, len(user_ids), USER_BATCH)]


def sample_users(export: Export, tower: ItemTower, most: int) -> FloatArray:
    """Encode up to `most` users, evenly spaced by id: (U, D) float32; those without any view are left out."""
    ids = export.users()
    rows = np.unique(np.linspace(0, max(0, len(ids) - 1), min(most, len(ids))).astype(np.int64))
    none = np.zeros((0, tower.model.dim), dtype=np.float32)
    vectors = np.concatenate([none, *user_vectors(export, tower, batches_of(ids.take(pa.array(rows))))])
    return vectors[vectors.any(axis=1)]


def tuning_queries(vectors: FloatArray, users: FloatArray) -> FloatArray:
    """Return at most QUERIES queries (Q, D) float32: user vectors, or mixtures of items where those are few.

    Args:
        vectors: (N, D) of the items.
        users: (U, D).
    """
    if len(users) >= _FEWEST_USERS or not len(vectors):
        return np.ascontiguousarray(users[:QUERIES])
    log.info(
        "%d user vectors are too few to tune with: mixtures of %d items stand in", len(users), _MIXED_ITEMS
    )
    rng = np.random.default_rng(0)
    picked = vectors[rng.integers(len(vectors), size=(QUERIES, _MIXED_ITEMS))]  # (Q, 3, D)
    norms = np.maximum(np.linalg.norm(picked, axis=2, keepdims=True), 1e-12)
    return np.ascontiguousarray((picked / norms).sum(axis=1), dtype=np.float32)


def encode_users(
    export: Export, model: Model, user_ids: pa.StringArray, encode_texts: Callable[[list[str]], FloatArray]
) -> FloatArray:
    """Encode some users: (B, D) float32, zero for one without any view.

    Args:
        export: their behaviours, texts and friends.
        model: with the user tower.
        user_ids: each once.
        encode_texts: returns the vectors (m, D_T) of m distinct texts.
    """
    history, texts, friends = export.some_users(user_ids)
    with_friends = pc.unique(pa.concat_arrays([user_ids, *friends.column("friend_id").chunks]))
    with_friends = with_friends.take(
        pc.sort_indices(with_friends)
    )  # friends add up in the order that training adds them in
    events = event_matrix(
        _events(history, with_friends, model.item_ids), (len(with_friends), len(model.item_ids)), model.config
    )
    ties = sparse.csr_array(
        (
            friends.column("weight").to_numpy(),
            (
                rows_of(friends.column("user_id"), user_ids),
                rows_of(friends.column("friend_id"), with_friends),
            ),
        ),
        shape=(len(user_ids), len(with_friends)),
    )
    authors = rows_of(texts.column("user_id"), user_ids)
    distinct = texts.column("text").combine_chunks().dictionary_encode()
    vectors = encode_texts(distinct.dictionary.to_pylist())  # (m, D_T)
    pool = text_pool(authors, np.asarray(distinct.indices), (len(user_ids), len(vectors)))
    views = assemble_views(
        events,
        rows_of(user_ids, with_friends),
        ties,
        text_view(pool, vectors),
        np.bincount(authors, minlength=len(user_ids)),
        model.table,
        model.widths,
    )
    return model.encode_users(views).vectors


def _encoded(tower: ItemTower, texts: list[str], writer: ErasureSafeWriter) -> FloatArray:
    """Return the vectors (m, D_T) of texts; a progress bar is shown only where some have to be encoded."""
    encoder = tower.encoder
    vectors, found = tower.cache.get(encoder.text_model_id, texts, encoder.dim, encoder.one_piece_bytes)
    return vectors if found.all() else encode_with_cache(encoder, tower.cache, texts, "user texts", writer)


def _events(history: pa.Table, with_friends: pa.StringArray, items: pa.StringArray) -> Events:
    actions = history.column("action").combine_chunks().dictionary_encode()
    times = pc.fill_null(history.column("ts").cast(pa.timestamp("us")).cast(pa.int64()), NO_TIME)
    return Events(
        rows_of(history.column("user_id"), with_friends),
        rows_of(history.column("item_id"), items),
        Actions(np.asarray(actions.indices, dtype=np.int32), tuple(actions.dictionary.to_pylist())),
        history.column("weight").to_numpy(),
        times.to_numpy(),
    )
