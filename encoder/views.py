"""The three raw views of users as arrays; training, evaluation and serving all build them here."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.config import VIEWS, TowerConfig

FloatArray = npt.NDArray[np.float32]
Matrix = sparse.csr_array


@dataclass(frozen=True)
class ViewBatch:
    """Raw views of B users.

    Shapes:
        history: (B, D_H) float32, unit rows; zero where absent.
        text: (B, D_T) float32, unit rows; zero where absent.
        social: (B, D_H) float32, unit rows; zero where absent.
        present: (B, 3) float32, 1 where the view is there; the masks m_ui, in the order H, T, S.
    """

    history: FloatArray
    text: FloatArray
    social: FloatArray
    present: FloatArray

    def __len__(self) -> int:
        return len(self.present)

    def only(self, views: tuple[str, ...]) -> "ViewBatch":
        """Return the batch with every other view masked."""
        mask = np.array([view in views for view in VIEWS], dtype=np.float32)  # (3,)
        return ViewBatch(self.history, self.text, self.social, self.present * mask)

    def rows(self, chosen: slice | npt.NDArray[np.int64]) -> "ViewBatch":
        """Return some users of the batch."""
        return ViewBatch(self.history[chosen], self.text[chosen], self.social[chosen], self.present[chosen])


def event_matrix(
    users: npt.NDArray[np.int64],
    items: npt.NDArray[np.int64],
    actions: npt.NDArray[np.str_],
    weights: npt.NDArray[np.float64],
    shape: tuple[int, int],
    config: TowerConfig,
) -> Matrix:
    """Return the weighted histories (users, items) float32; events of one pair add up before the log.

    An event counts `config.actions[action]` × weight; a pair whose events all count 0 is no entry.
    Rows whose item is −1 (unknown to the model) are left out.
    """
    counts = np.asarray(weights, dtype=np.float64)
    if config.actions:
        names, codes = np.unique(actions, return_inverse=True)
        counts = counts * np.array([config.actions.get(str(name), 1.0) for name in names])[codes]
    used = (items >= 0) & (counts > 0)
    matrix = sparse.csr_array((counts[used], (users[used], items[used])), shape=shape)
    matrix.sum_duplicates()
    matrix.data = np.ones_like(matrix.data) if config.weighting == "binary" else np.log1p(matrix.data)
    return matrix.astype(np.float32)


def unit_rows(rows: npt.NDArray[np.floating]) -> FloatArray:
    """Return the rows scaled to length 1 as float32; an all-zero row stays zero."""
    squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)  # in float32 tiny rows would lose digits
    norms = np.sqrt(squares)[:, None]
    unit: FloatArray = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0).astype(np.float32)
    return unit


def history_view(events: Matrix, table: FloatArray) -> FloatArray:
    """Return pooled histories (B, D_H) float32, unit rows, from weighted events (B, N)."""
    return unit_rows(np.asarray(events @ table))


def social_view(ties: Matrix, friend_histories: FloatArray) -> FloatArray:
    """Return friends' mean history (B, D_H) float32, unit rows.

    Args:
        ties: (B, F) tie strengths; their log(1 + weight) is the weight of a friend.
        friend_histories: (F, D_H) unit rows, as `history_view` gives them.
    """
    return unit_rows(np.asarray(ties.log1p() @ friend_histories, dtype=np.float32))


def text_sums(owners: npt.NDArray[np.int64], vectors: FloatArray, users: int) -> FloatArray:
    """Return summed text vectors (users, D_T) float32; row i of `vectors` belongs to user owners[i].

    `unit_rows` of the sums is the text view; sums of several batches may be added first.
    """
    pool = sparse.csr_array(
        (np.ones(len(owners), dtype=np.float32), (owners, np.arange(len(owners)))),
        shape=(users, len(owners)),
    )
    return np.asarray(pool @ vectors, dtype=np.float32)


def view_batch(history: FloatArray, text: FloatArray, social: FloatArray) -> ViewBatch:
    """Return the three views with their masks: a view is present where its row is not all zero."""
    present = np.stack([view.any(axis=1) for view in (history, text, social)], axis=1)
    return ViewBatch(history, text, social, present.astype(np.float32))
