"""Views cut short and replaced, as people's first days and other people's accounts make them.

A view is the rows of a sparse matrix: a user's items, texts or friends. Training draws anew for each user and
epoch how much of a view is left, so that the gates learn what few elements are worth, and replaces some views
by elements that are not the user's own, so that they learn not to trust what contradicts the others.
"""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.arrays import IntArray
from encoder.views import Matrix


def disturbed(
    views: tuple[Matrix, Matrix, Matrix],
    popular: IntArray,
    cut: tuple[float, float, float],
    foreign: tuple[float, float, float],
    rng: np.random.Generator,
    dropout: float = 0.0,
) -> tuple[tuple[Matrix, Matrix, Matrix], npt.NDArray[np.bool_]]:
    """Cut views of users short and replace some, and return them with which were replaced (B, 3).

    Who has one view has it as it is, but for the dropout, because there is nothing to weigh it against.

    Args:
        views: items (B, N), texts (B, m) and friends (B, U).
        popular: (n,) the items of events, of which half of the strange items are drawn.
        cut: the shares of the users whose H, T, S are cut short.
        foreign: the shares of the users whose H, T, S are replaced by what is not their own.
        rng: of the draws.
        dropout: share of the entries that a history which is not cut loses.
    """
    there = np.stack([np.diff(one.indptr) > 0 for one in views], axis=1)  # (B, 3)
    several = there.sum(axis=1, keepdims=True) > 1
    strange = (rng.random(there.shape) < foreign) & several
    chances = np.array(cut) * several  # (B, 3)
    history = thinned(views[0], rng, chances[:, 0], dropout)
    items = strange_items(popular, views[0].shape[1], rng, history.nnz)
    texts, ties = (thinned(views[i], rng, chances[:, i]) for i in (1, 2))
    others = [rng.integers(max(1, one.shape[1]), size=one.nnz) for one in (texts, ties)]
    shown = (
        replaced(history, strange[:, 0], items),
        replaced(texts, strange[:, 1], others[0]),
        replaced(ties, strange[:, 2], others[1]),
    )
    return shown, strange


def thinned(
    rows: Matrix, rng: np.random.Generator, cut: float | npt.NDArray[np.float64], dropout: float = 0.0
) -> Matrix:
    """Cut a share of the rows (B, n) short, and leave out a share of the entries of the other rows.

    `cut` is the share, or the chance of each row (B,).

    A row of L entries that is cut keeps a number of them that is log-uniform from 1 to L, drawn at random.
    """
    lengths = np.diff(rows.indptr)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    shortened = rng.random(len(lengths)) < cut
    left = np.exp(rng.random(len(lengths)) * np.log(lengths + 1)).astype(np.int64)
    draws = rng.random(rows.nnz)
    order = np.lexsort((draws, owners))
    place = np.empty(rows.nnz, dtype=np.int64)  # of an entry among those of its row
    place[order] = np.arange(rows.nnz) - rows.indptr[:-1][owners[order]]
    return kept(rows, np.where(shortened[owners], place < left[owners], draws >= dropout))


def kept(rows: Matrix, keep: npt.NDArray[np.bool_]) -> Matrix:
    """Return the rows with only the entries for which `keep` (nnz,) is true."""
    ends = np.concatenate([[0], np.cumsum(keep)])[rows.indptr]
    return sparse.csr_array((rows.data[keep], rows.indices[keep], ends), shape=rows.shape)


def replaced(rows: Matrix, foreign: npt.NDArray[np.bool_], strange: IntArray) -> Matrix:
    """Return the rows with the `strange` columns (nnz,) where `foreign` (B,) is true."""
    columns = np.where(np.repeat(foreign, np.diff(rows.indptr)), strange, rows.indices)
    return sparse.csr_array((rows.data, columns.astype(rows.indices.dtype), rows.indptr), shape=rows.shape)


def strange_items(popular: IntArray, items: int, rng: np.random.Generator, count: int) -> IntArray:
    """Draw items (count,): half of them from the events `popular` (n,), half uniformly."""
    drawn = popular[rng.integers(len(popular), size=count)]
    return np.where(rng.random(count) < 0.5, drawn, rng.integers(items, size=count))
