"""From scores to ranked item rows: exact, deterministic, without excluded items."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Csr: TypeAlias = "sparse.csr_array[Any] | sparse.csr_matrix[Any]"
Floats: TypeAlias = NDArray[np.float64]


_LOWEST = np.finfo(np.float32).min  # what is lower is −inf
_SCORES_AT_ONCE = 1 << 20  # a block that stays in the cache
_STRIPES = 1_024
_STRIPES_PER_RANK = 16


class ScoresError(ValueError):
    """Scores cannot be ranked: the wrong type or shape, or not a number."""


def top_k(scores: NDArray[np.float32], excluded: Csr, k: int) -> NDArray[np.int64]:
    """Return the rows of the k best items of each user, best first, padded with −1.

    Equal scores are ordered by row, lower first, so that a ranking never depends on the machine.

    Args:
        scores: (B, N) float32, higher is better, −inf = never ranked; left as it is.
        excluded: (B, N), nonzero = never ranked (items of the user's train rows, and so on).
        k: how many; where fewer items remain the rest of the row is −1.

    Returns:
        (B, k) int64.

    Raises:
        ScoresError: scores are not float32, hold NaN, or differ in shape from `excluded`.
        ValueError: k < 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}, not at least 1")
    if scores.ndim != 2 or scores.dtype != np.float32:
        raise ScoresError(f"scores are {scores.dtype} {scores.shape}, not float32 (B, N)")
    if excluded.shape != scores.shape:
        raise ScoresError(f"scores are {scores.shape}, but excluded is {excluded.shape}")
    ranked = np.full((len(scores), k), -1, dtype=np.int64)  # (B, k)
    step = max(1, _SCORES_AT_ONCE // max(1, scores.shape[1]))
    for start in range(0, len(scores), step):
        block = scores[start : start + step]
        if np.isnan(block).any():
            user = start + int(np.isnan(block).any(axis=1).argmax())
            raise ScoresError(f"scores of row {user} hold NaN")
        allowed = block.copy()
        allowed[excluded[start : start + step].nonzero()] = -np.inf
        _rank_block(allowed, ranked[start : start + step])
    return ranked


def _rank_block(allowed: NDArray[np.float32], ranked: NDArray[np.int64]) -> None:
    """Fill `ranked` (B, k) with the best items of `allowed` (B, N), leaving what is −inf out.

    Items lie in stripes, and each of the k stripes with the highest maxima has an item that reaches the k-th
    of these: so do the k best items, and few others. That bound costs one pass; the k-th item would cost ten.
    """
    k, n_items = ranked.shape[1], allowed.shape[1]
    if not n_items:
        return
    width = max(1, n_items // max(_STRIPES, _STRIPES_PER_RANK * k))  # items of a stripe
    stripes = n_items // width
    highest = allowed[:, : stripes * width].reshape(len(allowed), width, stripes).max(axis=1)  # (B, stripes)
    at = max(0, highest.shape[1] - k)
    bound = np.partition(highest, at, axis=1)[:, at, None]  # (B, 1): k items reach it, or all do
    reached = np.flatnonzero(allowed >= np.maximum(bound, _LOWEST))  # in the order of users and rows
    users, items = np.divmod(reached, n_items)
    best = np.lexsort((items, -allowed[users, items], users))
    rank = np.arange(len(users)) - np.searchsorted(users, users)
    kept = rank < k
    ranked[users[kept], rank[kept]] = items[best][kept]
