"""The search: candidates of the main part, exact scores, what changed since merged in."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.delta import IndexState
from indexer.files import FloatArray, IntArray, MainPart
from indexer.search.ann import AnnIndex, FilterPolicy
from indexer.search.exact import (
    Searched,
    best_of,
    best_of_all,
    best_of_masked,
    best_of_some,
    padded,
    scores_of,
    slack_of,
    taken,
)

BoolArray = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint8]
_ROOM = 64  # beside k, excluded items that a first search makes room for
_GONE_ROOM = 4  # rows that are gone, and twice as many as there are among k rows drawn at random
_MANY = 2_048  # values, from which on a table pays
_TABLE = 1 << 16
_NO_ROWS = np.zeros(0, dtype=np.int64)
_HARDER = 8  # times the effort of a first search that fell short
_LATE_SCORES = 1 << 24  # at a time, of rows after the main part
_MULTIPLIED_BATCH = (
    8  # from this many queries on, a matrix product chooses among the rows after the main part
)


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


@dataclass(frozen=True)
class Searchable:
    """One state of an index of M main rows.

    Attributes:
        main: the main part.
        approximate: FAISS over its vectors; None where every vector is compared.
        policy: of filters.
        now: what changed since.
        ids_of: the item ids of rows (n,), which decide between equal scores.
    """

    main: MainPart
    approximate: AnnIndex | None
    policy: FilterPolicy
    now: IndexState
    ids_of: Callable[[IntArray], list[str]]

    def search(self, queries: FloatArray, k: int, excluded: Exclusions | None, allowed: Allowed) -> Searched:
        """Return rows (B, k) and scores (B, k), best first, −1 and −inf where fewer are left.

        Every score is made by `scores_of`; items with equal ones are in the order of their ids.
        """
        mask = SearchMask.of(len(self.main), self.now, len(queries), excluded, allowed)
        rows, scores = self._main(queries, k, mask, allowed)
        best = _padded(rows, k, -1), _padded(scores, k, -np.inf)
        return self._with_late(best, queries, k, mask, allowed) if len(self.now.vectors) else best

    def _main(self, queries: FloatArray, k: int, mask: SearchMask, allowed: Allowed) -> Searched:
        """Return at most k of the main part: from a search with little room, and again where too little."""
        passing = len(self.main) if allowed.main is None else len(allowed.main)
        if not passing:
            return np.full((len(queries), 0), -1), np.zeros((len(queries), 0), np.float32)
        room = mask.room(k)
        rows, scores = mask.best(self._found(queries, min(k, passing), room, allowed), k, room)
        if rows.shape[1] == k and rows[:, -1].min() >= 0:
            return rows, scores
        left = mask.left(k, passing, allowed)  # (B,) or one number for all
        # With room for all that may be barred and every vector compared, no search can fall short.
        for more, sure in ((min(_HARDER * (k + room), mask.most), False), (mask.most, True)):
            short = np.flatnonzero((rows >= 0).sum(axis=1) < left)
            if not len(short):
                break
            found = self._found(queries[short], min(k, passing), more, allowed, harder=_HARDER, sure=sure)
            again = mask.best(found, k, more, short)
            rows, scores = _padded(rows, k, -1), _padded(scores, k, -np.inf)
            rows[short], scores[short] = _padded(again[0], k, -1), _padded(again[1], k, -np.inf)
        return rows, scores

    def _found(
        self,
        queries: FloatArray,
        k: int,
        room: int,
        allowed: Allowed,
        *,
        harder: int = 1,
        sure: bool = False,
    ) -> Searched:
        """Return k + `room` candidates of the main part or more, with exact scores; `sure` compares all."""
        approximate = None if sure else self.approximate
        main, total = allowed.main, len(self.main)
        if main is None:
            if approximate is None:
                return best_of_all(self.main.vectors, queries, min(k + room, total), self.main.longest)
            search_params = approximate.search_params.times(harder)
            return approximate.scored(self.main.vectors, queries, k, search_params, room=room)
        effort_of = self.policy.search_params(len(main), total)
        if approximate is not None and effort_of is not None and approximate.filters:
            bits = bits_of(main, total) if allowed.bits is None else allowed.bits
            search_params = effort_of.times(harder)
            return approximate.scored(self.main.vectors, queries, k, search_params, bits, room=room)
        if len(main) > self.policy.scan_share * total:
            mask = np.zeros(total, dtype=bool)
            mask[main] = True
            count = min(k + room, total)
            return best_of_masked(self.main.vectors, mask, queries, count, self.main.longest)
        return best_of_some(self.main.vectors, main, queries, k + room)

    def _with_late(
        self, best: Searched, queries: FloatArray, k: int, mask: SearchMask, allowed: Allowed
    ) -> Searched:
        """Return the best k of what was found in the main part (B, k) and of the rows after it."""
        step = max(1, _LATE_SCORES // len(self.now.vectors))
        found = []
        for start in range(0, len(queries), step):
            some = queries[start : start + step]
            part = best[0][start : start + step], best[1][start : start + step]
            query, at = self._late(some, part[1][:, -1:])
            if len(query):  # few, so whether they may be found is asked of them alone
                open_to = mask.open_late(query + start, self.now.places[at], allowed)
                query, at = query[open_to], at[open_to]
            if len(query):
                places, _ = padded(query, len(some), at, np.zeros(len(at), np.float32))
                scores = scores_of(self.now.vectors, some, places)
                rows = np.where(places < 0, -1, self.now.places[places] + len(self.main))
                both = np.concatenate([part[0], rows], axis=1), np.concatenate([part[1], scores], axis=1)
                part = in_order(both, k, len(self.main), self.ids_of)
            found.append(part)
        if len(found) == 1:
            return found[0]
        return np.concatenate([rows for rows, _ in found]), np.concatenate([scores for _, scores in found])

    def _late(self, queries: FloatArray, last: FloatArray) -> tuple[IntArray, IntArray]:
        """Return query and place in `now.vectors` of what may be as good as the last (B, 1)."""
        late = self.now.vectors
        if len(queries) < _MULTIPLIED_BATCH:
            scores = scores_of(
                late, queries, np.broadcast_to(np.arange(len(late)), (len(queries), len(late)))
            )
        else:
            scores = queries @ late.T  # (B, d)
            last = last - slack_of(queries, self.now.longest)
        query, at = np.divmod(np.flatnonzero(scores >= last), len(late))
        return query, at


def in_order(found: Searched, k: int, main: int, ids_of: Callable[[IntArray], list[str]]) -> Searched:
    """Return the best k of rows (B, n) with scores (B, n), best first; of equal scores the smaller id first.

    Args:
        found: rows and scores, in any order.
        k: how many.
        main: rows of the main part, whose order is that of their ids.
        ids_of: the item ids of rows (n,).
    """
    rows, scores = found
    late = rows >= main
    best = best_of(np.where(late, -1, rows), np.where(late, np.float32(-np.inf), scores), k)
    if not late.any():
        return best
    last = best[1][:, k - 1 : k] if best[1].shape[1] == k else np.float32(-np.inf)
    query, at = np.divmod(np.flatnonzero(late & (scores >= last)), rows.shape[1])
    further = padded(query, len(rows), rows[query, at], scores[query, at])
    rows = np.concatenate([best[0], further[0]], axis=1)
    rows, scores = best_of(rows, np.concatenate([best[1], further[1]], axis=1), rows.shape[1])
    # Rows after the main part now come last among equal scores, where the order is not yet that of ids.
    tied = (scores[:, 1:] == scores[:, :-1]) & (rows[:, 1:] >= main)
    for one in np.flatnonzero(tied.any(axis=1)).tolist():
        starts = np.flatnonzero(np.append(True, scores[one, 1:] != scores[one, :-1]))
        for start, end in zip(starts, np.append(starts[1:], rows.shape[1]), strict=True):
            same = rows[one, start:end]
            if len(same) > 1 and same[-1] >= main:
                rows[one, start:end] = same[np.argsort(np.array(ids_of(same), dtype=object))]
    return rows[:, :k], scores[:, :k]


def _padded(values: npt.NDArray[Any], k: int, filler: float) -> npt.NDArray[Any]:
    missing = k - values.shape[1]
    return values if missing <= 0 else np.pad(values, ((0, 0), (0, missing)), constant_values=filler)
