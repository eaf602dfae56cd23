"""The rows that filters allow in an index; those of the main part are cached."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from indexer.delta import IndexState
from indexer.files import IntArray, MainPart
from indexer.filters import AttributeLookup, Filter, allowed_rows
from indexer.search.allowed import Allowed, bits_of

_CACHED_ROWS = 8_000_000  # of all filters together: 64 MB
_CACHED_FILTERS = 256
_NO_ROWS = np.zeros(0, dtype=np.int64)
_BITMAP_SHARE = 1 / 256  # of the rows that pass, from which on FAISS may be asked: it is tuned for no less


class FilterCache:
    """Turns filters into rows; threads may share it."""

    def __init__(
        self,
        main: MainPart,
        attributes: AttributeLookup,
        rows: Callable[[Sequence[str], IndexState], IntArray],
    ) -> None:
        """Take the main part, its attributes, and what looks up the rows of ids in a state."""
        self._main, self._attributes, self._rows = main, attributes, rows
        self._of_filter: OrderedDict[Filter, Allowed] = OrderedDict()
        self._appended: tuple[int, dict[Filter, IntArray]] = (0, {})  # of one version

    def allowed(self, wanted: Filter, state: IndexState) -> Allowed:
        """Return the rows that a filter allows in one state.  Raises: ReindexNeededError."""
        denied = self._rows(wanted.deny, state) if wanted.deny else _NO_ROWS
        denied = denied[denied >= 0]
        if not wanted.selects:
            return Allowed(denied=denied)
        main, appended = self._allowed_main(wanted), self._allowed_appended(wanted, state)
        return Allowed(main.main, appended, denied, main.bits, wanted)

    def _allowed_main(self, wanted: Filter) -> Allowed:
        allowed = self._of_filter.get(wanted)
        if allowed is None:
            total = len(self._main)
            rows = allowed_rows(wanted, self._attributes, self._main.ids.rows, total)
            many = len(rows) >= _BITMAP_SHARE * total
            if len(rows) == total:
                allowed = Allowed()
            else:
                allowed = Allowed(rows, bits=bits_of(rows, total) if many else None)
            cached = OrderedDict(self._of_filter)
            cached[wanted] = allowed
            while len(cached) > _CACHED_FILTERS or sum(map(_size, cached.values())) > _CACHED_ROWS:
                cached.popitem(last=False)
            self._of_filter = cached  # replaced, not changed: another thread may be reading
        return allowed

    def _allowed_appended(self, wanted: Filter, state: IndexState) -> IntArray:
        cached = self._appended
        if cached[0] != state.version or len(cached[1]) >= _CACHED_FILTERS:
            cached = self._appended = (state.version, {})
        rows = cached[1].get(wanted)
        if rows is None:
            count, main = len(state.removed_at), len(self._main)

            def appended_rows(item_ids: Sequence[str]) -> IntArray:
                found = self._rows(item_ids, state)
                return np.where(found >= main, found - main, -1)

            rows = allowed_rows(wanted, state.rows.attributes, appended_rows, count)
            rows = cached[1][wanted] = rows[rows < count]  # the index may hold rows put after this state
        return rows


def _size(allowed: Allowed) -> int:
    """Return the memory of a filter in row numbers, bitmap included."""
    bits = 0 if allowed.bits is None else allowed.bits.nbytes // 8
    return 0 if allowed.main is None else len(allowed.main) + bits
