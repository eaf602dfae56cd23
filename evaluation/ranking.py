"""From scores to ranked item rows: exact, deterministic, without what the user already has."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Csr: TypeAlias = "sparse.csr_array[Any] | sparse.csr_matrix[Any]"
Floats: TypeAlias = NDArray[np.float64]

_LOWEST = np.iinfo(np.int64).min
_LOW_BITS = np.int64(0xFFFF_FFFF)


class ScoresError(ValueError):
    """Scores cannot be ranked: the wrong type or shape, or not a number."""


def top_k(scores: NDArray[np.float32], excluded: Csr, k: int) -> NDArray[np.int64]:
    """Return the rows of the k best items of each user, best first, padded with −1.

    Equal scores are ordered by row, lower first, so that a ranking never depends on the machine.

    Args:
        scores: (B, N) float32, higher is better; left as it is.
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
    keys = _sortable(scores)
    if excluded.shape != scores.shape:
        raise ScoresError(f"scores are {scores.shape}, but excluded is {excluded.shape}")
    users, items = excluded.nonzero()
    keys[users, items] = _LOWEST
    n_items = scores.shape[1]
    kept = min(k, n_items)
    best = np.sort(np.partition(keys, n_items - kept, axis=1)[:, n_items - kept :] if kept else keys, axis=1)
    ranked = np.full((len(scores), k), -1, dtype=np.int64)  # (B, k)
    ranked[:, :kept] = np.where(best == _LOWEST, -1, _LOW_BITS - (best & _LOW_BITS))[:, ::-1]
    return ranked


def _sortable(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return (B, N) int64 keys, all different in a row: larger = better score, then lower row.

    The bits of a float32 order like a signed integer once those of negative numbers are turned over;
    they fill the high half, the row counted from the end fills the low half.
    """
    if scores.ndim != 2 or scores.dtype != np.float32:
        raise ScoresError(f"scores are {scores.dtype} {scores.shape}, not float32 (B, N)")
    if np.isnan(scores).any():
        user = int(np.isnan(scores).any(axis=1).argmax())
        raise ScoresError(f"scores of row {user} hold NaN")
    bits = (scores + np.float32(0)).view(np.int32)  # + 0: a fresh array in which −0 equals 0
    ordered = (bits ^ ((bits >> 31) & np.int32(0x7FFF_FFFF))).astype(np.int64)
    return (ordered << 32) | (_LOW_BITS - np.arange(scores.shape[1], dtype=np.int64))
