"""The three raw views of users as arrays; training, evaluation and serving all build them here."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.arrays import Events
from encoder.config import VIEWS, TowerConfig
from store.tables import MAX_WEIGHT

_LEAST_WEIGHT = float(np.finfo(np.float32).tiny)  # what is less is 0 as float32

FloatArray = npt.NDArray[np.float32]
Matrix = sparse.csr_array


@dataclass(frozen=True)
class ViewBatch:
    """Raw views of B users.

    Shapes:
        history: (B, D_H) float32, unit within each block of the table; zero where absent.
        text: (B, D_T) float32, unit rows; zero where absent.
        social: (B, D_H) float32, unit within each block of the table; zero where absent.
        amounts: (B, 3) float32, how much there is of H, T, S: log(1 + number of items, texts, friends);
            0 where a view is absent.
    """

    history: FloatArray
    text: FloatArray
    social: FloatArray
    amounts: FloatArray

    def __len__(self) -> int:
        return len(self.amounts)

    @property
    def present(self) -> FloatArray:
        """(B, 3) float32, 1 where the view is there; the masks m_ui, in the order H, T, S."""
        return (self.amounts > 0).astype(np.float32)

    def only(self, views: tuple[str, ...]) -> "ViewBatch":
        """Return the batch with every other view masked."""
        mask = np.array([view in views for view in VIEWS], dtype=np.float32)  # (3,)
        return ViewBatch(self.history, self.text, self.social, self.amounts * mask)

    def rows(self, chosen: slice | npt.NDArray[np.int64]) -> "ViewBatch":
        """Return some users of the batch."""
        return ViewBatch(self.history[chosen], self.text[chosen], self.social[chosen], self.amounts[chosen])


def event_matrix(events: Events, shape: tuple[int, int], config: TowerConfig) -> Matrix:
    """Return the weighted histories (users, items) float32; events of one pair add up before the log.

    An event counts `config.actions[action]` × weight, each MAX_WEIGHT at most, which an old store may
    exceed; a pair whose events all count 0 is no entry. With a half-life h, a pair whose newest event has n
    newer ones in the same history counts 2^(−n/h) of that.
    Rows whose item is −1 (unknown to the model) are left out.
    """
    counts = np.minimum(np.asarray(events.weights, dtype=np.float64), MAX_WEIGHT)
    if config.actions:
        counts = counts * np.minimum(events.actions.weights(config.actions), MAX_WEIGHT)
    used = (events.items >= 0) & (counts >= _LEAST_WEIGHT)
    users, items = events.users[used], events.items[used]
    pairs = users * shape[1] + items
    order = np.argsort(pairs, kind="stable")  # by user, then item
    pairs = pairs[order]
    first = np.flatnonzero(np.diff(pairs, prepend=-1))  # row of each pair's first event in that order
    pairs = pairs[first]
    values = np.ones(len(pairs))
    if config.weighting == "log":
        values = np.log1p(np.add.reduceat(counts[used][order], first))
    if config.half_life:
        decay = 0.5 ** (newer(users, events.ts[used]) / config.half_life)
        values = values * np.maximum.reduceat(decay[order], first)
    return sparse.csr_array((values.astype(np.float32), np.divmod(pairs, shape[1])), shape=shape)


def newer(users: npt.NDArray[np.int64], ts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each event how many events of the same user are newer (n,); equal times are not."""
    order = np.lexsort((ts, users))
    u, t = users[order], ts[order]
    other_user = u[1:] != u[:-1]
    result = np.zeros(len(u), dtype=np.int64)
    result[order] = _ends(other_user, len(u)) - _ends(other_user | (t[1:] != t[:-1]), len(u))
    return result


def _ends(changes: npt.NDArray[np.bool_], n: int) -> npt.NDArray[np.int64]:
    """Return for each of n places the last place of its run; a run ends before each change (n − 1,)."""
    ends = np.append(changes, [True] * (n > 0)).astype(np.int64)
    last: npt.NDArray[np.int64] = np.flatnonzero(ends)[np.cumsum(ends) - ends]
    return last


def unit_rows(rows: npt.NDArray[np.floating]) -> FloatArray:
    """Return the rows scaled to length 1 as float32; an all-zero row stays zero."""
    squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)  # in float32 tiny rows would lose digits
    norms = np.sqrt(squares)[:, None]
    unit: FloatArray = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0).astype(np.float32)
    return unit


def unit_blocks(rows: npt.NDArray[np.floating], widths: tuple[int, ...]) -> FloatArray:
    """Return the rows (B, Σ widths) with each block of columns scaled to length 1; zero blocks stay zero."""
    edges = np.cumsum(widths)[:-1]
    return np.concatenate([unit_rows(block) for block in np.split(rows, edges, axis=1)], axis=1)


def history_view(events: Matrix, table: FloatArray, widths: tuple[int, ...] = ()) -> FloatArray:
    """Return pooled histories (B, D_H) float32 from weighted events (B, N), unit within each block.

    `widths` are those of the blocks that the table (N, D_H) consists of; one block where it is empty.
    """
    return unit_blocks(np.asarray(events @ table), widths or (table.shape[1],))


def social_view(ties: Matrix, friend_histories: FloatArray, widths: tuple[int, ...] = ()) -> FloatArray:
    """Return friends' mean history (B, D_H) float32, unit within each block.

    Args:
        ties: (B, F) tie strengths; their log(1 + weight) is the weight of a friend.
        friend_histories: (F, D_H) as `history_view` gives them.
        widths: of the blocks; one block where it is empty.
    """
    pooled = np.asarray(ties.log1p() @ friend_histories, dtype=np.float32)
    return unit_blocks(pooled, widths or (pooled.shape[1],))


def text_sums(owners: npt.NDArray[np.int64], vectors: FloatArray, users: int) -> FloatArray:
    """Return summed text vectors (users, D_T) float32; row i of `vectors` belongs to user owners[i].

    `unit_rows` of the sums is the text view; sums of several batches may be added first.
    """
    return np.asarray(text_pool(owners, np.arange(len(owners)), (users, len(owners))) @ vectors, np.float32)


def text_pool(
    owners: npt.NDArray[np.int64], texts: npt.NDArray[np.integer], shape: tuple[int, int]
) -> Matrix:
    """Return (users, texts) float32, 1 where user owners[i] wrote texts[i]: times vectors, their sums."""
    return sparse.csr_array((np.ones(len(owners), dtype=np.float32), (owners, texts)), shape=shape)


def view_batch(
    history: FloatArray,
    text: FloatArray,
    social: FloatArray,
    counts: npt.NDArray[np.floating] | npt.NDArray[np.integer],
) -> ViewBatch:
    """Return the three views with their amounts; a view is absent where its row is all zero.

    Args:
        history: as in `ViewBatch`.
        text: as in `ViewBatch`.
        social: as in `ViewBatch`.
        counts: (B, 3) numbers of items, texts and friends; a view that is there counts 1 at least.
    """
    present = np.stack([view.any(axis=1) for view in (history, text, social)], axis=1)
    return ViewBatch(history, text, social, view_amounts(counts, present))


def view_amounts(
    counts: npt.NDArray[np.floating] | npt.NDArray[np.integer], present: npt.NDArray[np.bool_]
) -> FloatArray:
    """Return the amounts (B, 3) float32 of views from their counts (B, 3) and which are there (B, 3)."""
    return np.asarray(np.log1p(np.maximum(counts, 1)) * present, dtype=np.float32)
