"""The search: candidates of the main part with exact scores, merged with the appended rows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.delta import IndexState
from indexer.files import FloatArray, IntArray, MainPart
from indexer.search.allowed import Allowed, CandidateSearch
from indexer.search.ann import FilterPolicy
from indexer.search.exact import (
    Searched,
    as_matrix,
    best_of,
    best_of_all,
    best_of_masked,
    best_of_some,
    scores_of,
    slack_of,
    take_columns,
)

BoolArray = npt.NDArray[np.bool_]
_SPARE_EXCLUDED = 64  # rows beyond k that a first search makes up for where any is excluded
_SPARE_REMOVED = 4  # removed rows it makes up for, beside twice as many as k random rows would hold
_WIDER = 8  # times the candidates and the lists probed, of a second search
_TABLE_VALUES = 2_048  # values from which on a table pays
_TABLE = 1 << 16
_APPENDED_SCORES = 1 << 24  # of appended rows, at a time
_MULTIPLIED_BATCH = 8  # from this many queries on, a matrix product selects among the appended rows
_NO_ROWS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Exclusions:
    """Rows that a search leaves out: pairs of query number and row.

    Shapes:
        queries, rows: (n,) int64, any order; repeats do no harm.
    """

    queries: IntArray
    rows: IntArray


@dataclass(frozen=True)
class SearchMask:
    """The rows that one search must not return, beside those that its filter does not allow.

    Attributes:
        main: number of rows in the main part.
        state: of the index.
        batch: number of queries.
        queries, rows: of each excluded pair.
        denied: sorted rows.
        own: number of rows, at most, that are excluded or denied for any one query.
        appended: whether any excluded row is an appended one.
    """

    main: int
    state: IndexState
    batch: int
    queries: IntArray
    rows: IntArray
    denied: IntArray
    own: int
    appended: bool

    @classmethod
    def of(
        cls, main: int, state: IndexState, batch: int, excluded: Exclusions | None, allowed: Allowed
    ) -> "SearchMask":
        """Collect what a search must not return; rows that the state does not have are ignored."""
        total = main + len(state.removed_at)
        queries, rows, most, appended = _NO_ROWS, _NO_ROWS, 0, False
        if excluded is not None and len(excluded.rows) and total:
            queries, rows = excluded.queries, excluded.rows
            last = int(rows.max())
            appended = last >= main
            if last >= total or rows.min() < 0:
                known = (rows >= 0) & (rows < total)
                queries, rows = queries[known], rows[known]
            most = len(rows) if batch == 1 else int(np.bincount(queries).max(initial=0))
        denied = np.sort(allowed.denied) if len(allowed.denied) else allowed.denied
        return cls(main, state, batch, queries, rows, denied, most + len(denied), appended)

    def of_one(self, query: int) -> "SearchMask":
        """Return the mask of one query of the batch, as a batch of one."""
        rows = self.rows[self.queries == query]
        queries, own = np.zeros(len(rows), dtype=np.int64), len(rows) + len(self.denied)
        appended = bool(len(rows)) and int(rows.max()) >= self.main
        return SearchMask(self.main, self.state, 1, queries, rows, self.denied, own, appended)

    @cached_property
    def codes(self) -> IntArray:
        """Query number · total + row of each excluded pair, sorted."""
        codes = self.queries * self.total + self.rows
        codes.sort()
        return codes

    @cached_property
    def total(self) -> int:
        """Number of rows, main and appended."""
        return self.main + len(self.state.removed_at)

    @cached_property
    def most(self) -> int:
        """Number of main rows, at most, that any one query must not find, beside those the filter bars."""
        return self.own + self.state.main_removed

    def spare(self, k: int) -> int:
        """Return how many candidates beyond k a first search takes; if too few, another follows.

        However many rows are excluded or denied for a query, it is the same number, so that FAISS looks at
        the same candidates in every batch.
        """
        removed = self.state.main_removed
        likely = min(removed, _SPARE_REMOVED + 2 * k * removed // max(1, self.main)) if removed else 0
        return (k + _SPARE_EXCLUDED if self.own else 0) + likely

    def open_appended(self, query: IntArray, appended: IntArray, allowed: Allowed) -> BoolArray:
        """Tell which pairs (n,) of a query number and an appended row, counted from 0, may be found."""
        rows = appended + self.main
        found = self.state.live(rows)
        if allowed.appended is not None:
            found &= _is_among(appended, allowed.appended)
        if len(self.denied):
            found &= ~_is_among(rows, self.denied)
        if self.appended:
            found &= ~_is_among(query * self.total + rows, self.codes)
        return found

    def available(self, k: int, passing: int, allowed: Allowed) -> IntArray | int:
        """Return how many of k results the main part has: for each query (B,), or one number for all."""
        if passing - self.most >= k:
            return k
        passed = np.arange(passing) if allowed.main is None else allowed.main
        open_to_all = passed[self.state.live(passed) & ~_is_among(passed, self.denied)]
        query, row = np.divmod(np.unique(self.codes), max(1, self.total))
        counts = np.bincount(query[_is_among(row, open_to_all)], minlength=self.batch)  # (B,)
        return np.minimum(k, len(open_to_all) - counts)

    def drop_masked(self, found: Searched, k: int, queries: IntArray | None = None) -> Searched:
        """Drop masked rows from candidates (B, n), which are best first; the first k of the others are kept.

        Where a query has fewer, −1 and −inf follow, or there are fewer columns.

        Args:
            found: rows and scores of the main part.
            k: at most so many.
            queries: (B,) numbers of the queries; None for all of them.
        """
        rows, scores = found
        if not self.most:
            return rows[:, :k], scores[:, :k]
        if self.batch == 1:
            keep = self._open_to_one(rows[0])[:k]
            return rows[:, keep], scores[:, keep]
        out = rows < 0
        if self.state.main_removed:
            removed_at = self.state.main_removed_at[rows]  # row −1 is out already
            out |= (removed_at != 0) & (removed_at <= self.state.version)
        if len(self.rows):
            numbers = np.arange(len(rows)) if queries is None else queries
            out |= _is_among(numbers[:, None] * self.total + rows, self.codes)
        if len(self.denied):
            out |= _is_among(rows, self.denied)
        order = np.argsort(out, axis=1, kind="stable")[:, :k]
        rows, scores, out = take_columns(rows, order), take_columns(scores, order), take_columns(out, order)
        rows[out], scores[out] = -1, -np.inf
        return rows, scores

    def _open_to_one(self, rows: IntArray) -> list[int]:
        """Return the places of those rows (n,) that the only query may find."""
        out = {-1, *self.rows.tolist(), *self.denied.tolist()}  # faster than arrays of this size
        places = [place for place, row in enumerate(rows.tolist()) if row not in out]
        if not self.state.main_removed:
            return places
        removed_at, version = self.state.main_removed_at[rows].tolist(), self.state.version
        return [place for place in places if not 0 < removed_at[place] <= version]


@dataclass(frozen=True)
class Searchable:
    """One state of an index.

    Attributes:
        main: the main part.
        approximate: finds candidates among its vectors; None where every vector is compared.
        policy: of filtered searches.
        state: the changes.
        ids_of: gives the item ids of rows (n,), which decide between equal scores.
    """

    main: MainPart
    approximate: CandidateSearch | None
    policy: FilterPolicy
    state: IndexState
    ids_of: Callable[[IntArray], list[str]]

    def search(self, queries: FloatArray, k: int, excluded: Exclusions | None, allowed: Allowed) -> Searched:
        """Return rows (B, k) and scores (B, k), best first, −1 and −inf where fewer are available.

        Every score is computed by `scores_of`; items with equal scores are in the order of their ids.
        """
        mask = SearchMask.of(len(self.main.vectors), self.state, len(queries), excluded, allowed)
        rows, scores = self._search_main(queries, k, mask, allowed)
        best = _widened(rows, k, -1), _widened(scores, k, -np.inf)
        return self._merge_appended(best, queries, k, mask, allowed) if len(self.state.vectors) else best

    def _search_main(self, queries: FloatArray, k: int, mask: SearchMask, allowed: Allowed) -> Searched:
        """Return at most k rows of the main part; a query that gets too few is searched again, wider."""
        passing = len(self.main.vectors) if allowed.main is None else len(allowed.main)
        if not passing:
            return np.full((len(queries), 0), -1), np.zeros((len(queries), 0), np.float32)
        spare, most = mask.spare(k), min(k, passing)
        rows, scores = mask.drop_masked(self._candidates(queries, most, spare, allowed), k)
        if rows.shape[1] == k and rows[:, -1].min() >= 0:
            return rows, scores
        available = mask.available(k, passing, allowed)  # (B,) or one number for all
        if mask.batch > 1:  # one by one, so that each has the answer that it has alone
            short = np.flatnonzero((rows >= 0).sum(axis=1) < available)
            rows, scores = _widened(rows, k, -1), _widened(scores, k, -np.inf)
            for query in short.tolist():
                found = self._search_main(queries[query : query + 1], k, mask.of_one(query), allowed)
                rows[query], scores[query] = _widened(found[0], k, -1)[0], _widened(found[1], k, -np.inf)[0]
            return rows, scores
        # With every vector compared and as many spare candidates as rows are masked, none falls short.
        for wider, exact in ((min(_WIDER * (k + spare), mask.most), False), (mask.most, True)):
            short = np.flatnonzero((rows >= 0).sum(axis=1) < available)
            if not len(short):
                break
            found = self._candidates(queries[short], most, wider, allowed, times=_WIDER, exact=exact)
            again = mask.drop_masked(found, k, short)
            rows, scores = _widened(rows, k, -1), _widened(scores, k, -np.inf)
            rows[short], scores[short] = _widened(again[0], k, -1), _widened(again[1], k, -np.inf)
        return rows, scores

    def _candidates(
        self,
        queries: FloatArray,
        k: int,
        spare: int,
        allowed: Allowed,
        *,
        times: int = 1,
        exact: bool = False,
    ) -> Searched:
        """Return the best k + `spare` rows found in the main part, or fewer, with exact scores, best first.

        Args:
            queries: (B, D).
            k: results.
            spare: candidates beside them, for those that are masked.
            allowed: by the filter.
            times: as many lists probed as usual.
            exact: compare every vector that is allowed.
        """
        approximate = None if exact else self.approximate
        main, total, count = allowed.main, len(self.main.vectors), k + spare
        if main is None:
            if approximate is None:
                return best_of_all(self.main.vectors, queries, min(count, total), self.main.longest)
            params = approximate.search_params.times(times)
            found = approximate.candidates(self.main.vectors, queries, k, params, allowed, spare=spare)
            return best_of(*found, count)
        filtered = self.policy.search_params(len(main), total)
        if approximate is not None and filtered is not None and approximate.takes(filtered):
            params = filtered.times(times)
            found = approximate.candidates(self.main.vectors, queries, k, params, allowed, spare=spare)
            return best_of(*found, count)
        if len(main) > self.policy.scan_share * total:
            passing = np.zeros(total, dtype=bool)
            passing[main] = True
            return best_of_masked(self.main.vectors, passing, queries, min(count, total), self.main.longest)
        return best_of_some(self.main.vectors, main, queries, count)

    def _merge_appended(
        self, best: Searched, queries: FloatArray, k: int, mask: SearchMask, allowed: Allowed
    ) -> Searched:
        """Return the best k of the results (B, k) of the main part and of the appended rows."""
        step = max(1, _APPENDED_SCORES // len(self.state.vectors))
        found = []
        for start in range(0, len(queries), step):
            some = queries[start : start + step]
            part = best[0][start : start + step], best[1][start : start + step]
            query, at = self._candidates_appended(some, part[1][:, -1:])
            if len(query):  # few, so the mask is only asked about these
                unmasked = mask.open_appended(query + start, self.state.vector_rows[at], allowed)
                query, at = query[unmasked], at[unmasked]
            if len(query):
                places, _ = as_matrix(query, len(some), at, np.zeros(len(at), np.float32))
                scores = scores_of(self.state.vectors, some, places)
                appended = self.state.vector_rows[places] + len(self.main.vectors)
                rows = np.where(places < 0, -1, appended)
                both = np.concatenate([part[0], rows], axis=1), np.concatenate([part[1], scores], axis=1)
                part = best_by_id(both, k, len(self.main.vectors), self.ids_of)
            found.append(part)
        if len(found) == 1:
            return found[0]
        return np.concatenate([rows for rows, _ in found]), np.concatenate([scores for _, scores in found])

    def _candidates_appended(self, queries: FloatArray, last: FloatArray) -> tuple[IntArray, IntArray]:
        """Return query and place in `state.vectors` of what may score as high as the k-th so far (B, 1)."""
        vectors = self.state.vectors
        if len(queries) < _MULTIPLIED_BATCH:
            every = np.broadcast_to(np.arange(len(vectors)), (len(queries), len(vectors)))
            scores = scores_of(vectors, queries, every)
        else:
            scores = queries @ vectors.T  # (B, v)
            last = last - slack_of(queries, self.state.longest)
        query, at = np.divmod(np.flatnonzero(scores >= last), len(vectors))
        return query, at


def best_by_id(found: Searched, k: int, main: int, ids_of: Callable[[IntArray], list[str]]) -> Searched:
    """Select the best k of rows (B, n) with scores (B, n), best first; equal scores are in the order of ids.

    Args:
        found: rows and scores, in any order.
        k: how many.
        main: number of rows in the main part, whose order is that of their ids.
        ids_of: gives the item ids of rows (n,).
    """
    rows, scores = found
    appended = rows >= main
    if not appended.any():
        return best_of(rows, scores, k)
    best = best_of(np.where(appended, -1, rows), np.where(appended, np.float32(-np.inf), scores), k)
    last = best[1][:, k - 1 : k] if best[1].shape[1] == k else np.float32(-np.inf)
    query, at = np.divmod(np.flatnonzero(appended & (scores >= last)), rows.shape[1])
    further = as_matrix(query, len(rows), rows[query, at], scores[query, at])
    rows = np.concatenate([best[0], further[0]], axis=1)
    rows, scores = best_of(rows, np.concatenate([best[1], further[1]], axis=1), rows.shape[1])
    # Appended rows are now behind the others of equal scores: those groups are put in the order of ids.
    tied = (scores[:, 1:] == scores[:, :-1]) & (rows[:, 1:] >= main)
    for one in np.flatnonzero(tied.any(axis=1)).tolist():
        starts = np.flatnonzero(np.append(True, scores[one, 1:] != scores[one, :-1]))
        for start, end in zip(starts, np.append(starts[1:], rows.shape[1]), strict=True):
            same = rows[one, start:end]
            if len(same) > 1 and same[-1] >= main:
                rows[one, start:end] = same[np.argsort(np.array(ids_of(same), dtype=object))]
    return rows[:, :k], scores[:, :k]


def _is_among(values: IntArray, known: IntArray) -> BoolArray:
    """Tell which values, of any shape, are among sorted ones."""
    if not len(known):
        return np.zeros(values.shape, dtype=bool)
    if values.size < _TABLE_VALUES:
        return _is_in_sorted(values, known)
    # A table of the last 16 bits rules out nearly all values, several times faster than a search for each.
    table = np.zeros(_TABLE, dtype=bool)
    table[known & (_TABLE - 1)] = True
    found = np.asarray(table[values & (_TABLE - 1)])
    found[found] = _is_in_sorted(values[found], known)
    return found


def _is_in_sorted(values: IntArray, known: IntArray) -> BoolArray:
    places = np.searchsorted(known, values)
    places[places == len(known)] = 0
    return np.asarray(known[places] == values)


def _widened(values: npt.NDArray[Any], k: int, filler: float) -> npt.NDArray[Any]:
    missing = k - values.shape[1]
    return values if missing <= 0 else np.pad(values, ((0, 0), (0, missing)), constant_values=filler)
