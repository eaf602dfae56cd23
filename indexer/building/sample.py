"""User vectors from the rows of an export, some users at a time, and queries to tune an index with."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse
from tqdm import tqdm

from encoder.arrays import NO_TIME, Actions, Events
from encoder.dataset import rows_of
from encoder.text.cache import WrittenTexts, cache_imported, encode_all
from encoder.views import (
    FloatArray,
    event_matrix,
    history_view,
    social_view,
    text_pool,
    unit_rows,
    view_batch,
)
from indexer.building.items import ItemTower
from store.export import Export

log = logging.getLogger(__name__)

QUERIES = 512
USER_BATCH = 4_096  # whose rows and views, with those of their friends, are in memory at once
_FEWEST = 64
_MIXED = 3  # items in a stand-in for a user


def user_vectors(export: Export, tower: ItemTower, batches: Sequence[pa.StringArray]) -> Iterator[FloatArray]:
    """Yield the vectors (n, D) float32 of each batch of users.

    The vector of a user without any view is zero. Items that the model does not know are in no history.

    Args:
        export: what is known of the users and of their friends.
        tower: its model encodes them.
        batches: user ids, each once. Memory goes with those of a batch and their friends.
    """
    if not any(map(len, batches)):
        yield from (np.zeros((0, tower.model.dim), dtype=np.float32) for _ in batches)
        return
    written = WrittenTexts(tower.cache, export.texts_among)
    with Export(export.path, export.manifest) as source:  # DuckDB keeps what it has read until it is closed
        cache_imported(written, tower.encoder, source.imported_vectors(tower.encoder.text_model_id))
        for user_ids in tqdm(batches, desc="user vectors", unit="batch", disable=None):
            yield _vectors(source, tower, user_ids, written)


def batches_of(user_ids: pa.StringArray) -> list[pa.StringArray]:
    """Return the ids in batches of USER_BATCH."""
    return [user_ids.slice(start, USER_BATCH) for start in range(0, len(user_ids), USER_BATCH)]


def sample_users(export: Export, tower: ItemTower, most: int) -> FloatArray:
    """Return the vectors (U, D) float32 of about `most` users, evenly drawn from all who have any view."""
    ids = export.users()
    rows = np.unique(np.linspace(0, max(0, len(ids) - 1), min(most, len(ids))).astype(np.int64))
    none = np.zeros((0, tower.model.dim), dtype=np.float32)
    vectors = np.concatenate([none, *user_vectors(export, tower, batches_of(ids.take(pa.array(rows))))])
    return vectors[vectors.any(axis=1)]


def tuning_queries(vectors: FloatArray, users: FloatArray) -> FloatArray:
    """Return about QUERIES queries (Q, D) float32: user vectors, with mixtures of items where those are few.

    Args:
        vectors: (N, D) of the items.
        users: (U, D).
    """
    if len(users) >= _FEWEST or not len(vectors):
        return np.ascontiguousarray(users[:QUERIES])
    log.info("%d user vectors are too few to tune with: mixtures of %d items stand in", len(users), _MIXED)
    rng = np.random.default_rng(0)
    picked = vectors[rng.integers(len(vectors), size=(QUERIES, _MIXED))]  # (Q, 3, D)
    norms = np.maximum(np.linalg.norm(picked, axis=2, keepdims=True), 1e-12)
    return np.ascontiguousarray((picked / norms).sum(axis=1), dtype=np.float32)


def _vectors(
    export: Export, tower: ItemTower, user_ids: pa.StringArray, texts_of: WrittenTexts
) -> FloatArray:
    """Return the vectors (B, D) of some users; views as in `encoder.tower.tower.dataset_views`."""
    model = tower.model
    history, texts, friends = export.some_users(user_ids)
    people = pc.unique(pa.concat_arrays([user_ids, *friends.column("friend_id").chunks]))
    people = people.take(pc.sort_indices(people))  # friends add up in the order that training adds them in
    events = event_matrix(
        _events(history, people, model.item_ids), (len(people), len(model.item_ids)), model.config
    )
    pooled = history_view(events, model.table, model.widths)  # (P, D_H)
    own = rows_of(user_ids, people)
    among = rows_of(friends.column("user_id"), user_ids), rows_of(friends.column("friend_id"), people)
    ties = sparse.csr_array((friends.column("weight").to_numpy(), among), shape=(len(user_ids), len(people)))
    authors = rows_of(texts.column("user_id"), user_ids)
    counts = np.stack(
        [np.diff(events.indptr)[own], np.bincount(authors, minlength=len(user_ids)), np.diff(ties.indptr)],
        axis=1,
    )
    words = texts.column("text").combine_chunks().dictionary_encode()
    written = _encoded(tower, words.dictionary.to_pylist(), texts_of)
    pool = text_pool(authors, np.asarray(words.indices), (len(user_ids), len(written)))
    text = unit_rows(np.asarray(pool @ written, dtype=np.float32))  # (B, D_T)
    views = view_batch(pooled[own], text, social_view(ties, pooled, model.widths), counts)
    return model.encode_users(views).vectors


def _encoded(tower: ItemTower, texts: list[str], written: WrittenTexts) -> FloatArray:
    """Return the vectors of texts; a bar is shown only where some have to be encoded."""
    encoder = tower.encoder
    vectors, found = tower.cache.get(encoder.text_model_id, texts, encoder.dim, encoder.one_piece_bytes)
    return vectors if found.all() else encode_all(encoder, tower.cache, texts, "user texts", written)


def _events(history: pa.Table, people: pa.StringArray, items: pa.StringArray) -> Events:
    actions = history.column("action").combine_chunks().dictionary_encode()
    times = pc.fill_null(history.column("ts").cast(pa.timestamp("us")).cast(pa.int64()), NO_TIME)
    return Events(
        rows_of(history.column("user_id"), people),
        rows_of(history.column("item_id"), items),
        Actions(np.asarray(actions.indices, dtype=np.int32), tuple(actions.dictionary.to_pylist())),
        history.column("weight").to_numpy(),
        times.to_numpy(),
    )
