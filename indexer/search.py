"""The search: candidates of the main part, exact scores, what changed since merged in."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.approximate import Approximate, Bits
from indexer.arrays import FloatArray, IntArray
from indexer.delta import Snapshot
from indexer.exact import best_of_all, best_of_masked, best_of_parts, best_of_some, scores_of
from indexer.policy import FilterPolicy

Searched = tuple[IntArray, FloatArray]
BoolArray = npt.NDArray[np.bool_]

_ROOM = 64  # excluded items that a first search makes room for
_NO_ROWS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Excluded:
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
    """

    main: IntArray | None = None
    late: IntArray | None = None
    denied: IntArray = field(default_factory=lambda: _NO_ROWS)


@dataclass(frozen=True)
class Searchable:
    """One state of an index of M main rows.

    Attributes:
        vectors: (M, D) float32 of the main part.
        approximate: FAISS over them; None where every vector is compared.
        policy: of filters.
        now: what changed since.
    """

    vectors: FloatArray
    approximate: Approximate | None
    policy: FilterPolicy
    now: Snapshot

    def search(self, queries: FloatArray, k: int, excluded: Excluded | None, allowed: Allowed) -> Searched:
        """Return rows (B, k) and scores (B, k), best first, −1 and −inf where fewer are left."""
        barred = _Barred.of(self, len(queries), excluded, allowed)
        best = self._main(queries, k, barred, allowed)
        if len(self.now.vectors):
            best = best_of_parts([best, self._late(queries, k, barred, allowed)], k)
        return _padded(best[0], k, -1), _padded(best[1], k, -np.inf)

    def _main(self, queries: FloatArray, k: int, barred: "_Barred", allowed: Allowed) -> Searched:
        """Return at most k of the main part: from a search with little room, and again where too little."""
        passing = len(self.vectors) if allowed.main is None else len(allowed.main)
        if not passing:
            return np.full((len(queries), 0), -1), np.zeros((len(queries), 0), np.float32)
        left = np.minimum(k, passing - barred.counts(allowed))  # (B,) results that there are at least
        room = k + min(barred.most, k + _ROOM)
        rows, scores = barred.best(*self._found(queries, min(room, passing), allowed), k)
        # With room for all that may be barred and every vector compared, no search can fall short.
        for more, sure in ((8 * room, False), (k + barred.most, True)):
            short = np.flatnonzero((rows >= 0).sum(axis=1) < left)
            if not len(short):
                break
            found = self._found(queries[short], min(more, k + barred.most, passing), allowed, sure=sure)
            again = barred.best(*found, k, short)
            rows, scores = _padded(rows, k, -1), _padded(scores, k, -np.inf)
            rows[short], scores[short] = _padded(again[0], k, -1), _padded(again[1], k, -np.inf)
        return rows, scores

    def _found(self, queries: FloatArray, count: int, allowed: Allowed, *, sure: bool = False) -> Searched:
        """Return `count` candidates of the main part with exact scores, best first; `sure` compares all."""
        queries = np.ascontiguousarray(queries)
        if allowed.main is None:
            if self.approximate is None or sure:
                return best_of_all(self.vectors, queries, count)
            effort = self.approximate.effort
            rows = self.approximate.search(queries, count * effort.refine, effort)
            return rows, scores_of(self.vectors, queries, rows)
        effort_of = self.policy.effort(len(allowed.main), len(self.vectors))
        if self.approximate is not None and effort_of is not None and not sure:
            bits = _bits(allowed.main, len(self.vectors))
            rows = self.approximate.search(queries, count * effort_of.refine, effort_of, bits)
            return rows, scores_of(self.vectors, queries, rows)
        share = len(allowed.main) / len(self.vectors)
        if self.approximate is None and share > self.policy.scan_share:
            mask = np.zeros(len(self.vectors), dtype=bool)
            mask[allowed.main] = True
            return best_of_masked(self.vectors, mask, queries, count)
        return best_of_some(self.vectors, allowed.main, queries, count)

    def _late(self, queries: FloatArray, k: int, barred: "_Barred", allowed: Allowed) -> Searched:
        """Return the best of the rows after the main part."""
        late = np.arange(len(self.now.vectors)) if allowed.late is None else allowed.late
        late = late[late < len(self.now.vectors)]  # an item may have come since the filter was worked out
        scores = (
            queries @ self.now.vectors[late].T if allowed.late is not None else queries @ self.now.vectors.T
        )
        rows = np.broadcast_to(late + len(self.vectors), scores.shape)
        return barred.best(rows.copy(), scores, k)


@dataclass(frozen=True)
class _Barred:
    """What a search must not return: gone, excluded or denied rows."""

    state: Searchable
    codes: IntArray  # sorted, query number · total + row
    denied: IntArray  # sorted
    total: int
    batch: int
    most: int

    @classmethod
    def of(cls, state: Searchable, batch: int, excluded: Excluded | None, allowed: Allowed) -> "_Barred":
        """Return what is barred in a search."""
        total = len(state.vectors) + len(state.now.vectors)
        codes = _NO_ROWS
        most = 0
        if excluded is not None and len(excluded.rows):
            known = (excluded.rows >= 0) & (excluded.rows < total)
            codes = np.unique(excluded.queries[known] * total + excluded.rows[known])
            most = int(np.bincount(codes // total).max(initial=0)) if total else 0
        denied = np.unique(allowed.denied)
        return cls(state, codes, denied, total, batch, most + len(denied) + state.now.main_gone)

    def counts(self, allowed: Allowed) -> IntArray:
        """Return how many rows of the main part, at most, are barred for each query (B,)."""
        main = len(self.state.vectors)
        every = self.denied[self.denied < main]
        gone = self.state.now.main_gone
        if allowed.main is not None:
            every = every[_among(every, allowed.main)]
            gone = int((~self.state.now.there(allowed.main)).sum()) if gone else 0
        counts = np.full(self.batch, len(every) + gone, dtype=np.int64)
        rows = self.codes % max(1, self.total)
        own = rows < main
        if allowed.main is not None:
            own &= _among(rows, allowed.main)
        return counts + np.bincount(self.codes[own] // max(1, self.total), minlength=self.batch)

    def best(self, rows: IntArray, scores: FloatArray, k: int, queries: IntArray | None = None) -> Searched:
        """Return the best k of candidates (B, n) that are not barred, best first, −1 and −inf behind them."""
        out = rows < 0
        if self.state.now.main_gone or self.state.now.gone:
            out |= ~self.state.now.there(rows)
        if len(self.codes):
            numbers = np.arange(len(rows)) if queries is None else queries
            out |= _among(numbers[:, None] * self.total + rows, self.codes)
        if len(self.denied):
            out |= _among(rows, self.denied)
        if out.any():
            rows, scores = np.where(out, -1, rows), np.where(out, np.float32(-np.inf), scores)
        if scores.shape[1] > 1 and (scores[:, 1:] > scores[:, :-1]).any():
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
        return rows[:, :k], scores[:, :k]


def _among(values: IntArray, known: IntArray) -> BoolArray:
    """Return which values, of any shape, are among sorted ones; several times faster than np.isin."""
    if not len(known):
        return np.zeros(values.shape, dtype=bool)
    places = np.searchsorted(known, values)
    places[places == len(known)] = 0
    return np.asarray(known[places] == values)


def _bits(rows: IntArray, total: int) -> Bits:
    mask = np.zeros(total, dtype=bool)
    mask[rows] = True
    return np.packbits(mask, bitorder="little")


def _padded(values: npt.NDArray[Any], k: int, filler: float) -> npt.NDArray[Any]:
    missing = k - values.shape[1]
    return values if missing <= 0 else np.pad(values, ((0, 0), (0, missing)), constant_values=filler)
