"""User vectors to tune an index with."""

import logging

import numpy as np

from encoder.dataset import load_dataset
from encoder.tower import dataset_views
from indexer.arrays import FloatArray
from indexer.building import ItemTower
from store.export import Export

log = logging.getLogger(__name__)

QUERIES = 512
_FEWEST = 64
_BATCH = 4_096
_MIXED = 3  # items in a stand-in for a user


def user_vectors(export: Export, tower: ItemTower, most: int | None = None) -> tuple[list[str], FloatArray]:
    """Return the ids and vectors (U, D) float32 of the users of an export who have any view.

    Args:
        export: whose users they are.
        tower: encodes them.
        most: take about so many, evenly; None takes all.
    """
    if most == 0:
        return [], np.zeros((0, tower.model.dim), dtype=np.float32)
    data = load_dataset(export, tower.encoder, tower.cache)
    model = tower.model
    views = dataset_views(data, data.events(model.config), model.table, model.widths)
    count = len(data.users) if most is None else min(most, len(data.users))
    rows = np.unique(np.linspace(0, max(0, len(data.users) - 1), count).astype(np.int64))
    parts = [
        model.encode_users(views.rows(rows[i : i + _BATCH])).vectors for i in range(0, len(rows), _BATCH)
    ]
    vectors = np.concatenate(parts) if parts else np.zeros((0, model.dim), dtype=np.float32)
    there = vectors.any(axis=1)
    return [data.users[int(row)].as_py() for row in rows[there]], vectors[there]


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
