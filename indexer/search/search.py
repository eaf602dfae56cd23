"""The search: candidates of the main part, exact scores, what changed since merged in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.arrays import FloatArray, IntArray
from indexer.delta import IndexState
from indexer.files import MainPart
from indexer.filters.policy import FilterPolicy
from indexer.search.ann import AnnIndex
from indexer.search.exact import (
    Searched,
    best_of,
    best_of_all,
    best_of_masked,
    best_of_some,
    padded,
    scores_of,
    slack_of,
)
from indexer.search.exclusions import Allowed, Exclusions, SearchMask, bits_of

__all__ = ["Allowed", "Exclusions", "Searchable", "Searched"]

_HARDER = 8  # times the effort of a first search that fell short
_LATE_SCORES = 1 << 24  # at a time, of rows after the main part
_MULTIPLIED_BATCH = (
    8  # from this many queries on, a matrix product chooses among the rows after the main part
)


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
