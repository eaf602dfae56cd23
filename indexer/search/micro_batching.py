"""Searches that wait for a graphics card share its next run."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from indexer.arrays import FloatArray, IntArray

MOST_QUERIES = 1_024  # of one run, unless one call has more
Found = tuple[FloatArray, IntArray]


@dataclass(eq=False)
class _Call:
    queries: FloatArray
    count: int
    given: Any
    found: Found | Exception = field(init=False)


class MicroBatcher:
    """Runs one search at a time; calls that come meanwhile and ask alike go with the next run.

    A card takes hardly longer for many queries than for one. Who comes while it is idle does not wait.
    Threads may share it, which is its purpose.

    Args:
        search: queries (B, D), number of results and parameters → scores and rows (B, n), best first.
    """

    def __init__(self, search: Callable[[FloatArray, int, Any], Found]) -> None:
        self._search = search
        self._waiting: list[_Call] = []
        self._guard = threading.Lock()
        self._turn = threading.Lock()

    def __call__(self, queries: FloatArray, count: int, given: Any = None) -> Found:
        """Return what the search does; calls whose parameters are the same object may share a run.

        Raises:
            Exception: what the run raised, to everybody who was in it.
        """
        mine = _Call(queries, count, given)
        with self._guard:
            self._waiting.append(mine)
        with self._turn:
            if mine in self._waiting:
                self._run(self._group(mine))
        if isinstance(mine.found, Exception):
            raise mine.found
        return mine.found

    def _group(self, mine: _Call) -> list[_Call]:
        """Return a call and those that go with it, which wait no longer."""
        group, rows = [mine], len(mine.queries)
        with self._guard:
            for other in self._waiting:
                alike = other is not mine and other.given is mine.given
                if alike and rows + len(other.queries) <= MOST_QUERIES:
                    group.append(other)
                    rows += len(other.queries)
            self._waiting = [call for call in self._waiting if call not in group]
        return group

    def _run(self, group: list[_Call]) -> None:
        try:
            queries = np.concatenate([call.queries for call in group]) if len(group) > 1 else group[0].queries
            scores, rows = self._search(queries, max(call.count for call in group), group[0].given)
        except Exception as error:
            for call in group:
                call.found = error
            return
        start = 0
        for call in group:
            end = start + len(call.queries)
            call.found = scores[start:end, : call.count], rows[start:end, : call.count]
            start = end
