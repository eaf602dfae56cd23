"""The search: candidates of the main part, exact scores, what changed since merged in."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.approximate import Approximate
from indexer.arrays import FloatArray
from indexer.barred import Allowed, Barred, Excluded, bits_of
from indexer.delta import Snapshot
from indexer.exact import (
    Searched,
    best_of_all,
    best_of_masked,
    best_of_some,
    better,
    merged,
)
from indexer.policy import FilterPolicy

__all__ = ["Allowed", "Excluded", "Searchable", "Searched"]

_HARDER = 8  # times the effort of a first search that fell short
_LATE_SCORES = 1 << 24  # at a time, of rows after the main part


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
        barred = Barred.of(len(self.vectors), self.now, len(queries), excluded, allowed)
        rows, scores = self._main(queries, k, barred, allowed)
        best = _padded(rows, k, -1), _padded(scores, k, -np.inf)
        return self._with_late(best, queries, k, barred, allowed) if len(self.now.vectors) else best

    def _main(self, queries: FloatArray, k: int, barred: Barred, allowed: Allowed) -> Searched:
        """Return at most k of the main part: from a search with little room, and again where too little."""
        passing = len(self.vectors) if allowed.main is None else len(allowed.main)
        if not passing:
            return np.full((len(queries), 0), -1), np.zeros((len(queries), 0), np.float32)
        room = barred.room(k)
        rows, scores = barred.best(self._found(queries, min(k, passing), room, allowed), k, room)
        if rows.shape[1] == k and rows[:, -1].min() >= 0:
            return rows, scores
        left = barred.left(k, passing, allowed)  # (B,) or one number for all
        # With room for all that may be barred and every vector compared, no search can fall short.
        for more, sure in ((min(_HARDER * (k + room), barred.most), False), (barred.most, True)):
            short = np.flatnonzero((rows >= 0).sum(axis=1) < left)
            if not len(short):
                break
            found = self._found(queries[short], min(k, passing), more, allowed, harder=_HARDER, sure=sure)
            again = barred.best(found, k, more, short)
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
        main, total = allowed.main, len(self.vectors)
        if main is None:
            if approximate is None:
                return best_of_all(self.vectors, queries, min(k + room, total))
            effort = approximate.effort.times(harder)
            return approximate.scored(self.vectors, queries, k, effort, room=room)
        effort_of = self.policy.effort(len(main), total)
        if approximate is not None and effort_of is not None and approximate.filters:
            bits = bits_of(main, total) if allowed.bits is None else allowed.bits
            effort = effort_of.times(harder)
            return approximate.scored(self.vectors, queries, k, effort, bits, room=room)
        if len(main) > self.policy.scan_share * total:
            mask = np.zeros(total, dtype=bool)
            mask[main] = True
            return best_of_masked(self.vectors, mask, queries, min(k + room, total))
        return best_of_some(self.vectors, main, queries, k + room)

    def _with_late(
        self, best: Searched, queries: FloatArray, k: int, barred: Barred, allowed: Allowed
    ) -> Searched:
        """Return the best k of what was found in the main part (B, k) and of the rows after it."""
        step = max(1, _LATE_SCORES // len(self.now.vectors))
        found = []
        for start in range(0, len(queries), step):
            scores = queries[start : start + step] @ self.now.vectors.T  # (b, d)
            part = best[0][start : start + step], best[1][start : start + step]
            query, at = better(scores, part)
            if len(query):  # few, so whether they may be found is asked of them alone
                open_to = barred.open_late(query + start, self.now.places[at], allowed)
                query, at = query[open_to], at[open_to]
            rows = self.now.places[at] + len(self.vectors)
            found.append(merged(part, query, rows, scores[query, at], k))
        if len(found) == 1:
            return found[0]
        return np.concatenate([rows for rows, _ in found]), np.concatenate([scores for _, scores in found])


def _padded(values: npt.NDArray[Any], k: int, filler: float) -> npt.NDArray[Any]:
    missing = k - values.shape[1]
    return values if missing <= 0 else np.pad(values, ((0, 0), (0, missing)), constant_values=filler)
