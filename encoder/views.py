"""The three raw views of users as arrays; training, indexing, evaluation and serving all make them here."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.arrays import Events
from encoder.config import VIEW_NAMES, VIEWS, TowerConfig
from store.tables import MAX_WEIGHT

_INT32 = int(np.iinfo(np.int32).max)
_LEAST_WEIGHT = float(np.finfo(np.float32).tiny)  # a smaller one is 0 as float32

FloatArray = npt.NDArray[np.float32]
Matrix = sparse.csr_array


@dataclass(frozen=True)
class ViewBatch:
    """Raw views of B users.

    Shapes:
        history: (B, D_H) float32, unit within each block of the table; zero where absent.
        text: (B, D_T) float32, unit rows; zero where absent.
        social: (B, D_H) float32, unit within each block of the table; zero where absent.
        amounts: (B, 3) float32, the sizes of H, T, S: log(1 + number of items, texts, friends);
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
        """(B, 3) float32, 1 where the view is present; the masks m_ui, in the order H, T, S."""
        return (self.amounts > 0).astype(np.float32)

    def only(self, views: tuple[str, ...]) -> "ViewBatch":
        """Return the batch with all views but the named ones masked."""
        mask = np.array([view in views for view in VIEWS], dtype=np.float32)  # (3,)
        return ViewBatch(self.history, self.text, self.social, self.amounts * mask)

    def rows(self, chosen: slice | npt.NDArray[np.int64]) -> "ViewBatch":
        """Return the users of the chosen rows."""
        return ViewBatch(self.history[chosen], self.text[chosen], self.social[chosen], self.amounts[chosen])

    def with_view(self, view: str, other: "ViewBatch") -> "ViewBatch":
        """Return the batch with one view, and the amounts that belong to it, from another batch (B)."""
        amounts = np.where([name == view for name in VIEWS], other.amounts, self.amounts)  # (B, 3)
        name = VIEW_NAMES[view]
        return replace(self, amounts=amounts, **{name: getattr(other, name)})


def event_matrix(events: Events, shape: tuple[int, int], config: TowerConfig) -> Matrix:
    """Weight histories: (users, items) float32; events of one pair add up before the log.

    An event counts `config.actions[action]` × weight, each MAX_WEIGHT at most, which an old store may
    exceed; a pair whose events all count 0 is no entry. With a half-life h, a pair whose newest event has n
    newer ones in the same history counts 2^(−n/h) of that.
    Events whose item is −1 (unknown to the model) are left out.
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
        decay = 0.5 ** (count_newer(users, events.ts[used]) / config.half_life)
        values = values * np.maximum.reduceat(decay[order], first)
    rows, columns = np.divmod(pairs, shape[1])
    # Built from its parts, which are in order: scipy would sort and check pairs once more.
    kind = np.int32 if max(shape[1], len(pairs)) <= _INT32 else np.int64
    ends = np.zeros(shape[0] + 1, dtype=kind)
    np.cumsum(np.bincount(rows, minlength=shape[0]), out=ends[1:])
    return sparse.csr_array((values.astype(np.float32), columns.astype(kind), ends), shape=shape)


def count_newer(users: npt.NDArray[np.int64], ts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Count for each event the events of the same user that are newer (n,); equal times are not."""
    order = np.lexsort((ts, users))
    u, t = users[order], ts[order]
    other_user = u[1:] != u[:-1]
    result = np.zeros(len(u), dtype=np.int64)
    result[order] = _ends(other_user, len(u)) - _ends(other_user | (t[1:] != t[:-1]), len(u))
    return result


def _ends(changes: npt.NDArray[np.bool_], n: int) -> npt.NDArray[np.int64]:
    """Return for each of n positions the last one of its run; a run ends before each change (n − 1,)."""
    ends = np.append(changes, [True] * (n > 0)).astype(np.int64)
    last: npt.NDArray[np.int64] = np.flatnonzero(ends)[np.cumsum(ends) - ends]
    return last


def unit_rows(rows: npt.NDArray[np.floating]) -> FloatArray:
    """Scale rows to length 1: a new float32 array; an all-zero row stays zero."""
    squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)  # in float32 tiny rows would lose digits
    norms = np.sqrt(squares)[:, None]
    unit: FloatArray = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0).astype(np.float32)
    return unit


def unit_blocks(rows: npt.NDArray[np.floating], widths: tuple[int, ...]) -> FloatArray:
    """Scale each block of columns of the rows (B, Σ widths) to length 1; zero blocks stay zero."""
    unit = np.empty(rows.shape, dtype=np.float32)
    start = 0
    for width in widths:
        block = slice(start, start + width)
        unit[:, block] = unit_rows(rows[:, block])
        start += width
    return unit


def history_view(events: Matrix, table: FloatArray, widths: tuple[int, ...] = ()) -> FloatArray:
    """Pool weighted histories (B, N) with an item table: (B, D_H) float32, unit within each block.

    `widths` are those of the blocks that the table (N, D_H) consists of; one block where it is empty.
    """
    return unit_blocks(np.asarray(events @ table), widths or (table.shape[1],))


def social_view(ties: Matrix, pooled: FloatArray, widths: tuple[int, ...] = ()) -> FloatArray:
    """Average the pooled histories of friends: (B, D_H) float32, unit within each block.

    Args:
        ties: (B, P) tie strengths; log(1 + strength) is the weight of a friend.
        pooled: (P, D_H) as `history_view` gives them.
        widths: of the blocks; one block where it is empty.
    """
    means = np.asarray(ties.log1p() @ pooled, dtype=np.float32)
    return unit_blocks(means, widths or (means.shape[1],))


def text_view(pool: Matrix, vectors: FloatArray) -> FloatArray:
    """Average the texts of users: (B, D_T) float32 unit rows from `text_pool` (B, m) and vectors (m, D_T)."""
    return unit_rows(np.asarray(pool @ vectors, dtype=np.float32))


def text_pool(
    owners: npt.NDArray[np.int64], texts: npt.NDArray[np.integer], shape: tuple[int, int]
) -> Matrix:
    """Return a matrix (users, texts) float32 that is 1 where user owners[i] wrote texts[i]."""
    return sparse.csr_array((np.ones(len(owners), dtype=np.float32), (owners, texts)), shape=shape)


def assemble_views(
    events: Matrix | None,
    own: npt.NDArray[np.int64],
    ties: Matrix | None,
    text: FloatArray,
    text_counts: npt.NDArray[np.integer],
    table: FloatArray,
    widths: tuple[int, ...] = (),
) -> ViewBatch:
    """Make the raw views of B users from what is known of them and of their friends.

    Training, the user index and serving all come here, so that a user's views are the same in each.

    Args:
        events: (P, N) weighted histories of these users and of their friends; None where all are empty.
        own: (B,) rows of the users themselves in `events`.
        ties: (B, P) tie strengths; None where no user has a friend.
        text: (B, D_T) float32 unit rows, zero without texts.
        text_counts: (B,) numbers of texts.
        table: (N, D_H) what histories are pooled with.
        widths: of the table's blocks; one block where it is empty.
    """
    history = social = np.zeros((len(own), table.shape[1]), dtype=np.float32)
    items = friends = np.zeros(len(own), dtype=np.int64)
    if events is not None:
        pooled = history_view(events, table, widths)  # (P, D_H)
        history, items = pooled[own], np.diff(events.indptr)[own]
        if ties is not None:
            social, friends = social_view(ties, pooled, widths), np.diff(ties.indptr)
    return view_batch(history, text, social, np.array([items, text_counts, friends]).T)


def view_batch(
    history: FloatArray,
    text: FloatArray,
    social: FloatArray,
    counts: npt.NDArray[np.floating] | npt.NDArray[np.integer],
) -> ViewBatch:
    """Join the three views with their amounts; a view is absent where its row is all zero.

    Args:
        history: as in `ViewBatch`.
        text: as in `ViewBatch`.
        social: as in `ViewBatch`.
        counts: (B, 3) numbers of items, texts and friends; a view that is present counts 1 at least.
    """
    present = np.stack([view.any(axis=1) for view in (history, text, social)], axis=1)
    return ViewBatch(history, text, social, view_amounts(counts, present))


def view_amounts(
    counts: npt.NDArray[np.floating] | npt.NDArray[np.integer], present: npt.NDArray[np.bool_]
) -> FloatArray:
    """Return the amounts (B, 3) float32 of views from their counts (B, 3) and masks (B, 3)."""
    return np.asarray(np.log1p(np.maximum(counts, 1)) * present, dtype=np.float32)
