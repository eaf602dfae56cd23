"""The training data of an epoch: some event groups are hidden from every view and become targets."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.arrays import NO_TIME, IntArray
from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.learned.config import LearnConfig
from encoder.thinning import disturbed, kept
from encoder.views import FloatArray, Matrix, event_matrix, text_pool, text_view, view_amounts

MIN_TIMES = 50  # with fewer distinct times, a time alone would hide too much at once


@dataclass(frozen=True)
class Step:
    """One batch of B users, or the part of it that one of several workers has.

    Shapes:
        history: (B, N) weighted histories, rows of length 1 before they were thinned.
        friends: (F, N) the same of the F friends of these users; ties: (B, F), rows that sum to 1 before.
        text: (B, D_T) float32 unit rows; amounts: (B, 3) float32, as in `ViewBatch`.
        genuine: (B, 3) float32, 0 where a view was replaced by what is not the user's own.
        targets: (B, N) 1 for the hidden items; everything: (B, N) 1 for all items of the user, hidden or not.

    Attributes:
        users: how many the whole batch has.
    """

    history: Matrix
    friends: Matrix
    ties: Matrix
    text: FloatArray
    amounts: FloatArray
    genuine: FloatArray
    targets: Matrix
    everything: Matrix
    users: int

    def part(self, chosen: slice) -> "Step":
        """Return the step of some of its users, with their friends alone."""
        ties = self.ties[chosen]
        friends = np.unique(ties.indices)
        return Step(
            history=self.history[chosen],
            friends=self.friends[friends],
            ties=sparse.csr_array(ties[:, friends]),
            text=self.text[chosen],
            amounts=self.amounts[chosen],
            genuine=self.genuine[chosen],
            targets=self.targets[chosen],
            everything=self.everything[chosen],
            users=self.users,
        )


class Steps:
    """Epochs of steps over a data set; the same seed and epoch give the same steps.

    A target is hidden from all three views of every user: the history row, the rows of its event group in
    friends' histories, texts of the group's time and texts that name the pair. An event group is the rows of
    one time; where times are missing or too few, the rows of one (item, time), or one row.
    """

    def __init__(self, data: Dataset, config: TowerConfig, options: LearnConfig) -> None:
        self._data = data
        # Targets are drawn from all of a history, not from its end.
        self._config = replace(config, half_life=0.0)
        self._options = options
        self._groups, self._text_groups = _groups(data)
        self._group_count = int(max(self._groups.max(initial=-1), self._text_groups.max(initial=-1))) + 1
        target_actions = frozenset[str]().union(*(rows.actions.used for rows in data.held_out.values()))
        rows = data.history
        self._target_rows = (
            rows.actions.among(target_actions) if target_actions else np.ones(len(rows.users), bool)
        )
        if not self._target_rows.any():
            self._target_rows[:] = True
        self._all_ones = self._ones(self._target_rows)

    @cached_property
    def _strength(self) -> Matrix:
        """(U, U) log tie strengths, rows that sum to 1."""
        ties = sparse.csr_array(self._data.ties.log1p())
        total: npt.NDArray[np.float64] = np.asarray(ties.sum(axis=1))
        share = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
        return sparse.csr_array((sparse.diags_array(share) @ ties).astype(np.float32))

    def epoch(self, number: int) -> Iterator[Step]:
        """Yield the steps of one epoch, users in random order."""
        rng = np.random.default_rng([self._options.seed, number])
        drawn = rng.random(self._group_count)
        hidden = drawn[self._groups] < self._options.hold_out
        hidden_text = (self._text_groups >= 0) & (drawn[self._text_groups] < self._options.hold_out)
        events = event_matrix(self._data.history.where(~hidden), self._data.shape, self._config)
        lengths = np.sqrt(np.asarray(events.multiply(events).sum(axis=1)))
        scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        unit = sparse.csr_array(sparse.diags_array(scale) @ events)
        targets = self._ones(hidden & self._target_rows)
        targets = sparse.csr_array(targets - targets.multiply(events > 0))
        targets.eliminate_zeros()
        texts = self._texts_without(hidden_text)
        items = np.diff(events.indptr)  # (U,)
        users = np.flatnonzero(np.diff(self._all_ones.indptr))
        rng.shuffle(users)
        cut, strange = (self._options.cut,) * 3, (self._options.foreign,) * 3
        for start in range(0, len(users), self._options.batch):
            some = users[start : start + self._options.batch]
            whole = (unit[some], texts[some], self._strength[some])
            (history, written, ties), foreign = disturbed(
                whole, self._data.history.items, cut, strange, rng, self._options.event_dropout
            )
            friends = np.unique(ties.indices)
            text = text_view(written, self._data.texts.vectors)
            shown = ties @ (items > 0).astype(np.float32)  # (B,)
            counts = np.stack([np.diff(one.indptr) for one in (history, written, ties)], axis=1)
            present = np.stack([counts[:, 0] > 0, text.any(axis=1), shown > 0], axis=1)
            yield Step(
                history=history,
                friends=self._dropped(unit[friends], rng),
                ties=sparse.csr_array(ties[:, friends]),
                text=text,
                amounts=view_amounts(counts, present),
                genuine=(~foreign).astype(np.float32),
                targets=targets[some],
                everything=self._all_ones[some],
                users=len(some),
            )

    def _texts_without(self, hidden: npt.NDArray[np.bool_]) -> Matrix:
        """Return (U, texts) 1 where a user wrote a text that is not hidden."""
        texts = self._data.texts
        shown = np.flatnonzero(~hidden)
        return text_pool(texts.users[shown], shown, (len(self._data.users), len(texts.users)))

    @property
    def targets(self) -> npt.NDArray[np.bool_]:
        """(N,) bool, the items that are ever targets."""
        is_target: npt.NDArray[np.bool_] = (
            np.bincount(self._all_ones.indices, minlength=len(self._data.items)) > 0
        )
        return is_target

    @property
    def per_epoch(self) -> int:
        """Number of steps of an epoch."""
        users = int((np.diff(self._all_ones.indptr) > 0).sum())
        return -(-users // self._options.batch)

    def _dropped(self, rows: Matrix, rng: np.random.Generator) -> Matrix:
        """Leave out a random share of the entries."""
        return kept(rows, rng.random(rows.nnz) >= self._options.event_dropout)

    def _ones(self, rows: npt.NDArray[np.bool_]) -> Matrix:
        """Return (U, N) 1 for every pair of the chosen history rows."""
        chosen = self._data.history.where(rows)
        ones = np.ones(len(chosen.users), dtype=np.float32)
        pairs = sparse.csr_array((ones, (chosen.users, chosen.items)), shape=self._data.shape)
        pairs.sum_duplicates()
        pairs.data[:] = 1.0
        return pairs


def _groups(data: Dataset) -> tuple[IntArray, IntArray]:
    """Return the event group of each history row (n,) and of each text (m,), −1 where it follows no event."""
    rows, texts, items = data.history, data.texts, len(data.items)
    pairs = rows.users * items + rows.items
    named = np.where(texts.items >= 0, texts.users * items + texts.items, -1)
    dated = rows.ts != NO_TIME
    by_time = len(np.unique(rows.ts[dated])) >= MIN_TIMES
    own = pairs if not dated.any() else np.where(dated, rows.items, pairs + items)
    within = _codes(np.where(dated & by_time, -1, own))
    groups = _codes(_codes(np.where(dated, rows.ts, -1)) * (within.max(initial=0) + 1) + within)
    of_text = np.full(len(texts.users), -1, dtype=np.int64)
    order = np.argsort(pairs, kind="stable")
    if len(pairs):
        place = np.minimum(np.searchsorted(pairs[order], named), len(pairs) - 1)
        same = pairs[order][place] == named
        of_text[same] = groups[order][place[same]]
    if by_time:
        times, first = np.unique(rows.ts[dated], return_index=True)
        place = np.minimum(np.searchsorted(times, texts.ts), len(times) - 1)
        same = (times[place] == texts.ts) & (of_text < 0)
        of_text[same] = groups[dated][first][place[same]]
    return groups, of_text


def _codes(values: IntArray) -> IntArray:
    """Return the rank of each value among the distinct ones (n,): below n, so that two of them make a key."""
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)
