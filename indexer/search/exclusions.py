"""What a search must not return: rows that are gone, excluded, denied or not let through by a filter."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from indexer.arrays import IntArray
from indexer.delta import IndexState
from indexer.search.exact import Searched, best_of, taken

BoolArray = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint8]

_ROOM = 64  # beside k, excluded items that a first search makes room for
_GONE_ROOM = 4  # rows that are gone, and twice as many as there are among k rows drawn at random
_MANY = 2_048  # values, from which on a table pays
_TABLE = 1 << 16
_NO_ROWS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Exclusions:
    """Items to leave out of the results of a batch: pairs of query number and index row.

    Shapes:
        queries, rows: (n,) int64, any order; repeats do no harm.
    """

    queries: IntArray
    rows: IntArray


@dataclass(frozen=True)
class Allowed:
    """The rows that a filter lets pass.

    Shapes:
        main: (n,) int64, sorted, of the main part; None where all of them pass.
        late: (m,) int64, sorted, of the rows after it, counted from 0; None where all of them pass.
        denied: (d,) int64, of both; what passes otherwise, but is denied by id.
        bits: little-endian bitmap of `main` where somebody keeps one; None is made when needed.
    """

    main: IntArray | None = None
    late: IntArray | None = None
    denied: IntArray = field(default_factory=lambda: _NO_ROWS)
    bits: Bits | None = None


@dataclass(frozen=True)
class SearchMask:
    """What one search must not return, beside what its filter bars.

    Attributes:
        main: rows in the main part.
        now: what changed since.
        batch: queries of the search.
        queries, rows: of each excluded pair.
        denied: sorted rows.
        own: rows, at most, that are excluded or denied for any one query.
        late: whether any excluded pair has a row after the main part.
    """

    main: int
    now: IndexState
    batch: int
    queries: IntArray
    rows: IntArray
    denied: IntArray
    own: int
    late: bool

    @classmethod
    def of(
        cls, main: int, now: IndexState, batch: int, excluded: Exclusions | None, allowed: Allowed
    ) -> "SearchMask":
        """Return what is barred in a search."""
        total = main + len(now.went)
        queries, rows, most, late = _NO_ROWS, _NO_ROWS, 0, False
        if excluded is not None and len(excluded.rows) and total:
            queries, rows = excluded.queries, excluded.rows
            last = int(rows.max())
            late = last >= main
            if last >= total or rows.min() < 0:
                known = (rows >= 0) & (rows < total)
                queries, rows = queries[known], rows[known]
            most = len(rows) if batch == 1 else int(np.bincount(queries).max(initial=0))
        denied = np.sort(allowed.denied) if len(allowed.denied) else allowed.denied
        return cls(main, now, batch, queries, rows, denied, most + len(denied), late)

    @cached_property
    def codes(self) -> IntArray:
        """Query number · total + row of each excluded pair, sorted."""
        codes = self.queries * self.total + self.rows
        codes.sort()
        return codes

    @property
    def total(self) -> int:
        """Rows of the main part and after it."""
        return self.main + len(self.now.went)

    @property
    def most(self) -> int:
        """Rows of the main part, at most, that any one query may not find, beside those the filter bars."""
        return self.own + self.now.main_gone

    def room(self, k: int) -> int:
        """Return how many more than k a first search asks for; where that is too little, another follows."""
        gone = self.now.main_gone
        likely = min(gone, _GONE_ROOM + 2 * k * gone // max(1, self.main)) if gone else 0
        return min(self.own, k + _ROOM) + likely

    def open_late(self, query: IntArray, late: IntArray, allowed: Allowed) -> BoolArray:
        """Return which pairs (n,) of a query number and a row, counted after the main part, may be found."""
        rows = late + self.main
        found = self.now.there(rows)
        if allowed.late is not None:
            found &= _among(late, allowed.late)
        if len(self.denied):
            found &= ~_among(rows, self.denied)
        if self.late:
            found &= ~_among(query * self.total + rows, self.codes)
        return found

    def left(self, k: int, passing: int, allowed: Allowed) -> IntArray | int:
        """Return how many of k results there are in the main part: of each query (B,), or of all of them."""
        if passing - self.most >= k:
            return k
        passed = np.arange(passing) if allowed.main is None else allowed.main
        open_to_all = passed[self.now.there(passed) & ~_among(passed, self.denied)]
        query, row = np.divmod(np.unique(self.codes), max(1, self.total))
        counts = np.bincount(query[_among(row, open_to_all)], minlength=self.batch)  # (B,)
        return np.minimum(k, len(open_to_all) - counts)

    def best(self, found: Searched, k: int, room: int, queries: IntArray | None = None) -> Searched:
        """Return the best k of candidates (B, n) that are not barred, best first, −1 and −inf behind them.

        Of more than k + `room` only the best of all are looked at, barred or not.
        """
        rows, scores = best_of(*found, k + room)
        if not self.most:
            return rows, scores
        if self.batch == 1:
            keep = self._open_to_one(rows[0])[:k]
            return rows[:, keep], scores[:, keep]
        out = rows < 0
        if self.now.main_gone:
            went = self.now.main_went[rows]  # row −1 is out already
            out |= (went != 0) & (went <= self.now.version)
        if len(self.rows):
            numbers = np.arange(len(rows)) if queries is None else queries
            out |= _among(numbers[:, None] * self.total + rows, self.codes)
        if len(self.denied):
            out |= _among(rows, self.denied)
        order = np.argsort(out, axis=1, kind="stable")[:, :k]
        rows, scores, out = taken(rows, order), taken(scores, order), taken(out, order)
        rows[out], scores[out] = -1, -np.inf
        return rows, scores

    def _open_to_one(self, rows: IntArray) -> list[int]:
        """Return the places of rows (n,) that the only query may find."""
        out = {-1, *self.rows.tolist(), *self.denied.tolist()}  # quicker than arrays so small
        places = [place for place, row in enumerate(rows.tolist()) if row not in out]
        if not self.now.main_gone:
            return places
        went, version = self.now.main_went[rows].tolist(), self.now.version
        return [place for place in places if not 0 < went[place] <= version]


def bits_of(rows: IntArray, total: int) -> Bits:
    """Return rows of `total` as a little-endian bitmap."""
    mask = np.zeros(total, dtype=bool)
    mask[rows] = True
    return np.packbits(mask, bitorder="little")


def _among(values: IntArray, known: IntArray) -> BoolArray:
    """Return which values, of any shape, are among sorted ones."""
    if not len(known):
        return np.zeros(values.shape, dtype=bool)
    if values.size < _MANY:
        return _held(values, known)
    # By their last bits first, which rules out nearly all: a search for each takes several times as long.
    table = np.zeros(_TABLE, dtype=bool)
    table[known & (_TABLE - 1)] = True
    found = np.asarray(table[values & (_TABLE - 1)])
    found[found] = _held(values[found], known)
    return found


def _held(values: IntArray, known: IntArray) -> BoolArray:
    places = np.searchsorted(known, values)
    places[places == len(known)] = 0
    return np.asarray(known[places] == values)
