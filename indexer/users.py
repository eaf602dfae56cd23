"""The user index: similar users, and the audience of an item or a text.

A row is a user's unit vector, zeros, and in its last coordinate the length of V_u. So the inner product with
a unit query is the cosine, also in FAISS, and cosine times length is the <V_u, x> that an audience is ranked
by.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from encoder.views import unit_rows
from indexer.delta import IndexState
from indexer.files import FloatArray, IntArray, ItemChange
from indexer.index import Index, VectorDimError
from indexer.search import Exclusions, Searched, best_by_id, code_width, scores_of

FOLDER = "users"
EMBEDDING_DIM = "embedding_dim"
UNKNOWN_CONTENT = bytes(16)
NO_FACTS = bytes(16)
_SCALE = np.float32(
    2**-10
)  # of a stored length: a power of two rounds nothing, and codes of FAISS hardly change
_BLOCK_BYTES = 64 << 20  # of scores or vectors at a time


class ZeroVectorError(ValueError):
    """A query vector is zero: every user would have the same score."""

    def __init__(self, query: int) -> None:
        super().__init__(f"the vector of query {query} is zero: it points nowhere")
        self.query = query


def open_users(directory: Path, manifest: dict[str, Any]) -> Index | None:
    """Open the user index inside the directory of an index; None for an index without one.

    Raises:
        DamagedArtifactError: its files disagree with the manifest.
    """
    return Index(directory / FOLDER, manifest[FOLDER]) if FOLDER in manifest else None


def similar_users(
    users: Index,
    vectors: FloatArray,
    k: int,
    without: Exclusions | None = None,
    *,
    exact: bool = False,
    state: IndexState | None = None,
) -> Searched:
    """Find the users most similar to some: return rows (B, k) int64 and cosines (B, k) float32, best first.

    Where fewer than k users are available, row −1 with −inf follows. Candidates come from inner products of
    unit vectors, which are the cosines themselves: from all where the user index is exact, else from FAISS.
    Equal cosines are in the order of the user ids.

    Args:
        users: a user index.
        vectors: (B, D) V_u, or any vectors of that space; their lengths do not matter.
        k: at most so many.
        without: rows to leave out, such as the user's own.
        exact: compare every user, also where the user index has FAISS.
        state: of the user index, whose rows `without` are and are returned; None is the latest.

    Raises:
        VectorDimError: the vectors are not of the embedding dim.
        ZeroVectorError: one of them is zero.
    """
    queries = _queries(users, unit_rows(vectors))
    find = users.brute_force if exact else users.search
    return find(queries, k, without, state=state)


def audience(
    users: Index,
    vectors: FloatArray,
    k: int,
    without: Exclusions | None = None,
    state: IndexState | None = None,
) -> Searched:
    """Find the users with the highest <V_u, x>: return rows (B, k) int64 and it (B, k) float32, best first.

    Every user is scored, in blocks: FAISS and `brute_force` find the highest cosines, whose order is another
    one where lengths differ. Equal products are in the order of the user ids.

    Args:
        users: a user index.
        vectors: (B, D) item vectors x.
        k: at most so many; where fewer are available, row −1 with −inf follows.
        without: rows to leave out.
        state: of the user index, whose rows these are and are returned; None is the latest.

    Raises:
        VectorDimError: the vectors are not of the embedding dim.
        ZeroVectorError: one of them is zero.
    """
    queries, state = _queries(users, vectors), state or users.delta.state
    best = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, dtype=np.float32)
    for rows, block in _blocks(users.main.vectors, state, len(queries)):
        every = np.broadcast_to(np.arange(len(block)), (len(queries), len(block)))
        scores = scores_of(block, queries, every) * (block[:, -1] / _SCALE)  # (B, n)
        _mask_scores(scores, rows, state, without)
        live = np.where(np.isneginf(scores), -1, rows)
        both = np.concatenate([best[0], live], axis=1), np.concatenate([best[1], scores], axis=1)
        best = best_by_id(both, k, len(users.main), partial(users.item_ids, state=state))
    return best


def vectors_of(users: Index, rows: IntArray) -> FloatArray:
    """Return V_u (n, D) float32 for rows (n,) of a user index."""
    stored = users.vectors_of(rows)
    dim: int = users.manifest[EMBEDDING_DIM]
    return stored[:, :dim] * (stored[:, -1:] / _SCALE)


def user_rows(vectors: FloatArray) -> FloatArray:
    """Lay out user vectors (n, D) as rows (n, W) float32 of a user index; a zero vector stays zero."""
    dim = vectors.shape[1]
    rows = np.zeros((len(vectors), row_width(dim)), dtype=np.float32)
    rows[:, :dim] = unit_rows(vectors)
    rows[:, -1] = np.linalg.norm(vectors, axis=1) * _SCALE
    return rows


def row_width(dim: int) -> int:
    """Return the width W of a row for vectors of D coordinates."""
    return code_width(dim + 1)


def user_change(
    user_id: str, vector: FloatArray, events: int, content: bytes = UNKNOWN_CONTENT
) -> ItemChange:
    """Make the change that puts a user into a user index by `Index.put`.

    Args:
        user_id: a new one, or one whose row is replaced.
        vector: (D,) V_u; a user whose vector is zero leaves the index.
        events: number of visible ones.
        content: hash of the input of the vector; unknown for one that no reindex made.
    """
    row = user_rows(vector[None])[0]
    return ItemChange(user_id, row, float(events), content, NO_FACTS, None, "{}", listed=False)


def _queries(users: Index, vectors: FloatArray) -> FloatArray:
    """Pad queries (B, D) to (B, W) with zeros, so that the stored length does not count."""
    dim: int = users.manifest[EMBEDDING_DIM]
    if vectors.shape[1] != dim:
        raise VectorDimError(vectors.shape[1], dim)
    zero = np.flatnonzero(~vectors.any(axis=1))
    if len(zero):
        raise ZeroVectorError(int(zero[0]))
    queries = np.zeros((len(vectors), users.dim), dtype=np.float32)
    queries[:, :dim] = vectors
    return queries


def _blocks(main: FloatArray, state: IndexState, batch: int) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield the rows (n,) of each block, increasing, and the block (n, W)."""
    step = max(1, _BLOCK_BYTES // (4 * max(main.shape[1], batch)))
    for start in range(0, len(main), step):
        yield np.arange(start, min(start + step, len(main))), main[start : start + step]
    for start in range(0, len(state.vectors), step):
        rows = state.vector_rows[start : start + step] + len(main)
        yield rows, state.vectors[start : start + step]


def _mask_scores(scores: FloatArray, rows: IntArray, state: IndexState, without: Exclusions | None) -> None:
    """Set the scores (B, n) of rows (n,) that are removed or excluded to −inf, in place."""
    if state.main_removed or state.removed:
        scores[:, ~state.live(rows)] = -np.inf
    if without is not None:
        at = np.searchsorted(rows, without.rows)
        at[at == len(rows)] = 0
        in_block = rows[at] == without.rows
        scores[without.queries[in_block], at[in_block]] = -np.inf
