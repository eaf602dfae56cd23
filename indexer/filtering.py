"""Filters worked out against an index; those of the main part are remembered."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from indexer.arrays import IntArray
from indexer.delta import Delta
from indexer.filters import Filter, allowed_rows
from indexer.parts import MainPart
from indexer.search import Allowed

_REMEMBERED_ROWS = 8_000_000  # of all filters together: 64 MB
_REMEMBERED = 256


class Filtering:
    """Turns filters into rows; threads may share it."""

    def __init__(self, main: MainPart, delta: Delta) -> None:
        self._main, self._delta = main, delta
        self._known: OrderedDict[Filter, IntArray] = OrderedDict()

    def allowed(self, wanted: Filter | None) -> Allowed:
        """Return the rows that a filter lets pass."""
        if wanted is None:
            return Allowed()
        denied = self._delta.rows(wanted.deny)
        denied = denied[denied >= 0]
        if not wanted.selects:
            return Allowed(denied=denied)
        late = allowed_rows(wanted, self._delta.facts, self._late_rows)
        return Allowed(self._of_main(wanted), late, denied)

    def _of_main(self, wanted: Filter) -> IntArray:
        rows = self._known.get(wanted)
        if rows is None:
            rows = allowed_rows(wanted, self._main.facts, self._main.ids.rows)
            known = OrderedDict(self._known)
            known[wanted] = rows
            while len(known) > _REMEMBERED or sum(map(len, known.values())) > _REMEMBERED_ROWS:
                known.popitem(last=False)
            self._known = known  # swapped whole: another thread may be reading
        return rows

    def _late_rows(self, item_ids: Sequence[str]) -> IntArray:
        rows = self._delta.rows(item_ids)
        return np.where(rows >= len(self._main), rows - len(self._main), -1)
