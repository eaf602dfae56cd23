"""What changed since the main part of an index was built: new rows, and rows that are gone.

One writer at a time; readers take no lock. A row that goes keeps the number of the version in which it went,
so whoever searches with an older snapshot still sees one whole state.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from indexer.files import FloatArray, IntArray, ItemChange, ItemIds, longest_of
from indexer.filters.attribute_index import ItemTerms, MutableAttributeIndex, facts_of
from store.attributes import attributes_of

Versions = npt.NDArray[np.int32]

_ROOM = 64  # rows to begin with


@dataclass(frozen=True)
class IndexState:
    """One state of an index; d rows lie after the main part, and v of them have a vector.

    Shapes:
        vectors: (v, D) float32, and places: (v,) int64, the row of each, counted from 0 and increasing.
        popularity: (d,) float32.
        went, main_went: version in which a row went, 0 while it is there; (d,) and (M,).

    Attributes:
        main_gone, gone: rows of the main part, and after it, that are gone.
        without_vector: rows that are there and have no vector.
    """

    version: int
    vectors: FloatArray
    places: IntArray
    popularity: FloatArray
    went: Versions
    main_went: Versions
    main_gone: int
    gone: int
    without_vector: int

    @cached_property
    def longest(self) -> float:
        """The length of the longest of the vectors."""
        return longest_of(self.vectors)

    def there(self, rows: IntArray) -> npt.NDArray[np.bool_]:
        """Return which rows, of any shape, are there; row −1 is not."""
        main = len(self.main_went)
        if not len(self.went):
            went = self.main_went[np.maximum(rows, 0)] if main else np.zeros(rows.shape, np.int32)
        else:
            late = rows >= main
            went = np.where(late, self.went[np.where(late, rows - main, 0)], 0)
            if main:
                went = np.where(late, went, self.main_went[np.where(late, 0, np.maximum(rows, 0))])
        return np.asarray((rows >= 0) & ((went == 0) | (went > self.version)))

    def vectors_of(self, rows: IntArray) -> FloatArray:
        """Return vectors (n, D) of rows (n,) after the main part, counted from 0; zero where one has none."""
        found = np.zeros((len(rows), self.vectors.shape[1]), dtype=np.float32)
        at = np.searchsorted(self.places, rows)
        at[at == len(self.places)] = 0
        placed = self.places[at] == rows if len(self.places) else np.zeros(len(rows), dtype=bool)
        found[placed] = self.vectors[at[placed]]
        return found


@dataclass(frozen=True)
class _Rows:
    """Rows that are ready to be written: all that can fail is done.

    Shapes:
        placed: (v,) int64, which of the n changes have a vector; vectors: (v, D); popularity: (n,) float32.
    """

    changes: list[ItemChange]
    facts: list[ItemTerms]
    placed: IntArray
    vectors: FloatArray
    popularity: FloatArray

    @classmethod
    def of(cls, changes: list[ItemChange], dim: int) -> "_Rows":
        """Return changes as rows.  Raises: BadAttributesError, ValueError."""
        facts = [facts_of(change.kind, attributes_of(change.attributes)) for change in changes]
        placed = np.array([i for i, change in enumerate(changes) if change.has_vector], dtype=np.int64)
        vectors = np.empty((len(placed), dim), dtype=np.float32)
        for i, place in enumerate(placed.tolist()):
            vectors[i] = changes[place].vector
        popularity = np.array([change.popularity for change in changes], dtype=np.float32)
        return cls(changes, facts, placed, vectors, popularity)


class Delta:
    """The changes to an index of M main rows with D coordinates.

    Attributes:
        now: the state that a new search takes.
        facts: kinds and attributes of the rows after the main part, counted from 0.
    """

    def __init__(self, main: ItemIds, dim: int) -> None:
        self._main = main
        self._newest: dict[str, int] = {}  # row, counted from 0, that an id was last put at
        self._before: list[int] = []  # of each row, the one that its id was put at before, or −1
        self._changes: list[ItemChange] = []
        self._dim = dim
        self._vectors = np.empty((_ROOM, dim), dtype=np.float32)
        self._places = np.empty(_ROOM, dtype=np.int64)
        self._popularity = np.empty(_ROOM, dtype=np.float32)
        self._went = np.zeros(_ROOM, dtype=np.int32)
        self._writing = threading.Lock()
        self.facts = MutableAttributeIndex()
        none = self._vectors[:0], self._places[:0], self._popularity[:0], self._went[:0]
        self.now = IndexState(0, *none, np.zeros(len(main), dtype=np.int32), 0, 0, 0)

    def rows(self, ids: Sequence[str], now: IndexState | None = None) -> IntArray:
        """Return the row of each id as (n,) int64, −1 where the item is not there.

        Args:
            ids: any.
            now: the state that is asked about, which a search must then use too; None is the latest.
        """
        now = now or self.now  # before anything is looked up: what is put meanwhile has another row
        return self.current_rows(self._main.rows(ids), ids.__getitem__, now)

    def current_rows(self, main_rows: IntArray, name_of: Callable[[int], str], state: IndexState) -> IntArray:
        """Turn rows of items in the main part into their rows in one state, −1 for an item that is not live.

        Args:
            main_rows: (n,) int64, −1 for an item that the main part lacks; left as it is.
            name_of: gives the item id at a position of `main_rows`; called only where the main part has no
                live row and rows were appended.
            state: to look the items up in.
        """
        if not state.version:
            return main_rows
        rows = np.where(state.there(main_rows), main_rows, -1)
        if not len(state.went):
            return rows
        for position in np.flatnonzero(rows < 0).tolist():
            row = self._newest.get(name_of(position), -1)
            while row >= len(state.went):  # put since
                row = self._before[row]
            if row >= 0 and not 0 < state.went[row] <= state.version:
                rows[position] = len(self._main) + row
        return rows

    def of_rows(self, rows: IntArray) -> list[str]:
        """Return the ids of rows (n,) after the main part, counted from 0."""
        return [self._changes[row].item_id for row in rows.tolist()]

    def apply(self, puts: Sequence[ItemChange], removed: Sequence[str] = ()) -> None:
        """Put and remove items; searches see all of it or nothing.

        What is not there is removed in vain. An item without a vector has a row all the same, which filters
        find and searches by vector do not look at.

        Raises:
            BadAttributesError: of an item that is put; nothing changes.
            ValueError: a vector is not (D,); nothing changes.
        """
        with self._writing:
            latest = {put.item_id: put for put in puts}
            going = self.rows(list({**latest, **dict.fromkeys(removed)}))
            new = _Rows.of([put for put in latest.values() if put.listed or put.has_vector], self._dim)
            first = self._write(new)
            self._commit(new, first, going)

    def _write(self, new: "_Rows") -> int:
        """Write rows where no search looks yet; return the first of them.

        Rows of a change that broke off on the way are not used again, so nothing of them belongs to others.
        """
        first, before = len(self._changes), self.now
        count, filled = first + len(new.changes), len(before.vectors) + len(new.vectors)
        self._make_room(count, filled)
        self._changes += new.changes
        for row, one in enumerate(new.facts, start=first):
            self.facts.add(row, one)
        self._popularity[first:count] = new.popularity
        self._vectors[len(before.vectors) : filled] = new.vectors
        self._places[len(before.vectors) : filled] = new.placed + first
        return first

    def _commit(self, new: "_Rows", first: int, going: IntArray) -> None:
        """Make it true that rows came and went, by steps that do not fail."""
        before, main = self.now, len(self._main)
        version, count = before.version + 1, first + len(new.changes)
        early, late = going[(going >= 0) & (going < main)], going[going >= main] - main
        unplaced = sum(not self._changes[row].has_vector for row in late.tolist())
        broken_off = first - len(before.went)
        ids = [put.item_id for put in new.changes]
        # First: whoever finds the new row of an id before `now` holds it goes on to the one before.
        self._before += [-1] * broken_off + [self._newest.get(item_id, -1) for item_id in ids]
        self._newest |= {item_id: first + i for i, item_id in enumerate(ids)}
        self._went[first - broken_off : first] = version
        self._went[late] = version
        before.main_went[early] = version
        filled = len(before.vectors) + len(new.vectors)
        self.now = IndexState(
            version,
            self._vectors[:filled],
            self._places[:filled],
            self._popularity[:count],
            self._went[:count],
            before.main_went,
            before.main_gone + len(early),
            before.gone + len(late) + broken_off,
            before.without_vector - unplaced + len(new.changes) - len(new.vectors),
        )

    def changes(self) -> list[ItemChange]:
        """Return the rows after the main part that are there."""
        return [c for c, went in zip(self._changes, self.now.went.tolist(), strict=False) if not went]

    def main_gone(self) -> IntArray:
        """Return the rows of the main part that are gone, sorted."""
        return np.flatnonzero(self.now.main_went)

    def _make_room(self, rows: int, vectors: int) -> None:
        for names, needed in ((("_popularity", "_went"), rows), (("_vectors", "_places"), vectors)):
            held = len(getattr(self, names[0]))
            if needed <= held:
                continue
            grown = {}
            for name in names:
                old = getattr(self, name)
                grown[name] = np.zeros((max(needed, 2 * held), *old.shape[1:]), dtype=old.dtype)
                grown[name][:held] = old
            for name, new in grown.items():
                setattr(self, name, new)  # snapshots keep the old one
