"""Filters worked out against an index; those of the main part are remembered."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from indexer.delta import Delta, IndexState
from indexer.files import IntArray, MainPart
from indexer.filters.filter import Facts, Filter, allowed_rows
from indexer.search.search import Allowed, bits_of

_REMEMBERED_ROWS = 8_000_000  # of all filters together: 64 MB
_REMEMBERED = 256
_NO_ROWS = np.zeros(0, dtype=np.int64)
_BITS = 64  # of a row number


class FilterCache:
    """Turns filters into rows; threads may share it."""

    def __init__(self, main: MainPart, attributes: Facts, delta: Delta) -> None:
        self._main, self._attributes, self._delta = main, attributes, delta
        self._known_late: tuple[int, dict[Filter, IntArray]] = (0, {})  # of one version
        self._known: OrderedDict[Filter, Allowed] = OrderedDict()

    def allowed(self, wanted: Filter | None, now: IndexState) -> Allowed:
        """Return the rows that a filter lets pass in one state.  Raises: ReindexNeededError."""
        if wanted is None:
            return Allowed()
        denied = self._delta.rows(wanted.deny, now) if wanted.deny else _NO_ROWS
        denied = denied[denied >= 0]
        if not wanted.selects:
            return Allowed(denied=denied)
        main, late = self._of_main(wanted), self._of_late(wanted, now)
        return Allowed(main.main, late, denied, main.bits)

    def _of_main(self, wanted: Filter) -> Allowed:
        main = self._known.get(wanted)
        if main is None:
            rows = allowed_rows(wanted, self._attributes, self._main.ids.rows, len(self._main))
            many = len(rows) * _BITS >= len(self._main)  # then a bitmap is smaller than the rows
            if len(rows) == len(self._main):
                main = Allowed()
            else:
                main = Allowed(rows, bits=bits_of(rows, len(self._main)) if many else None)
            known = OrderedDict(self._known)
            known[wanted] = main
            while len(known) > _REMEMBERED or sum(map(_size, known.values())) > _REMEMBERED_ROWS:
                known.popitem(last=False)
            self._known = known  # swapped whole: another thread may be reading
        return main

    def _of_late(self, wanted: Filter, now: IndexState) -> IntArray:
        known = self._known_late
        if known[0] != now.version or len(known[1]) >= _REMEMBERED:
            known = self._known_late = (now.version, {})
        rows = known[1].get(wanted)
        if rows is None:
            count, main = len(now.went), len(self._main)

            def late_rows(item_ids: Sequence[str]) -> IntArray:
                found = self._delta.rows(item_ids, now)
                return np.where(found >= main, found - main, -1)

            rows = allowed_rows(wanted, self._delta.facts, late_rows, count)
            rows = known[1][wanted] = rows[rows < count]  # the facts may know rows that came since
        return rows


def _size(allowed: Allowed) -> int:
    return 0 if allowed.main is None else len(allowed.main)
