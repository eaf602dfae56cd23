"""The changes to an index since its main part was built: rows appended and rows removed.

One writer at a time; readers take no lock. A removed row keeps the number of the version that removed it, so
a search in an older state of the index still sees that whole state. Once more appended rows are removed than
live, the live ones are copied and numbered anew: a row number means something in its own state alone.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from indexer.files import FloatArray, IntArray, ItemChange, ItemIds, longest_of
from indexer.filters import ItemTerms, MutableAttributeIndex, terms_of
from store.attributes import parse_attributes

Versions = npt.NDArray[np.int32]

_FIRST_CAPACITY = 64  # rows
_KEPT_REMOVED = 1_024  # appended rows that may be removed before they are let go of, however few are live


class AppendedRows:
    """What is known of appended rows beside numbers: it grows at its end, and readers stop at their state's.

    Attributes:
        changes: for each row, counted from 0, what was put.
        terms: its kind and attributes.
        previous: the row that its id was put at before, or −1.
        newest: the row that an id was last put at.
        attributes: the terms, to be found by.
    """

    def __init__(self) -> None:
        self.changes: list[ItemChange] = []
        self.terms: list[ItemTerms] = []
        self.previous: list[int] = []
        self.newest: dict[str, int] = {}
        self.attributes = MutableAttributeIndex()

    def add(self, changes: Sequence[ItemChange], terms: Sequence[ItemTerms]) -> None:
        """Add rows, which no search finds yet."""
        first = len(self.changes)
        self.changes += changes
        self.terms += terms
        for row, one in enumerate(terms, start=first):
            self.attributes.add(row, one)

    def name(self, first: int, count: int) -> None:
        """Note that the ids of rows from `first` on were put there; `count` before them are never found."""
        ids = [change.item_id for change in self.changes[first:]]
        # First: a reader that finds the new row of an id before its state has it goes on to the previous one.
        self.previous += [-1] * count + [self.newest.get(item_id, -1) for item_id in ids]
        self.newest |= {item_id: first + i for i, item_id in enumerate(ids)}

    def only(self, rows: IntArray) -> "AppendedRows":
        """Return some rows (n,) in their order, each of another id, as the only ones."""
        kept = AppendedRows()
        kept.add([self.changes[row] for row in rows.tolist()], [self.terms[row] for row in rows.tolist()])
        kept.name(0, 0)
        return kept


@dataclass(frozen=True)
class IndexState:
    """One state of an index; d rows are appended to the main part, and v of them have a vector.

    Shapes:
        vectors: (v, D) float32, and vector_rows: (v,) int64, the row of each, counted from 0 and increasing.
        popularity: (d,) float32.
        removed_at, main_removed_at: version that removed a row, 0 for a live one; (d,) and (M,) int32.

    Attributes:
        rows: what is known of the appended rows beside the arrays.
        version: 0 without changes, one more after each.
        main_removed, removed: numbers of main and of appended rows that are removed.
        without_vector: number of live rows without a vector.
    """

    rows: AppendedRows
    version: int
    vectors: FloatArray
    vector_rows: IntArray
    popularity: FloatArray
    removed_at: Versions
    main_removed_at: Versions
    main_removed: int
    removed: int
    without_vector: int

    @cached_property
    def longest(self) -> float:
        """The length of the longest of the vectors."""
        return longest_of(self.vectors)

    def ids_of(self, rows: IntArray) -> list[str]:
        """Return the ids of appended rows (n,), counted from 0."""
        return [self.rows.changes[row].item_id for row in rows.tolist()]

    def live(self, rows: IntArray) -> npt.NDArray[np.bool_]:
        """Tell which rows, of any shape, are live in this state; row −1 is not."""
        main = len(self.main_removed_at)
        if not len(self.removed_at):
            at = self.main_removed_at[np.maximum(rows, 0)] if main else np.zeros(rows.shape, np.int32)
        else:
            appended = rows >= main
            at = np.where(appended, self.removed_at[np.where(appended, rows - main, 0)], 0)
            if main:
                at = np.where(appended, at, self.main_removed_at[np.where(appended, 0, np.maximum(rows, 0))])
        return np.asarray((rows >= 0) & ((at == 0) | (at > self.version)))

    def vectors_of(self, rows: IntArray) -> FloatArray:
        """Return the vectors (n, D) of appended rows (n,), counted from 0; zero for a row without one."""
        found = np.zeros((len(rows), self.vectors.shape[1]), dtype=np.float32)
        at = np.searchsorted(self.vector_rows, rows)
        at[at == len(self.vector_rows)] = 0
        known = self.vector_rows[at] == rows if len(self.vector_rows) else np.zeros(len(rows), dtype=bool)
        found[known] = self.vectors[at[known]]
        return found


@dataclass(frozen=True)
class _Rows:
    """Changes as rows, ready to be written by steps that cannot fail.

    Shapes:
        with_vector: (v,) int64, which of the n changes have a vector; vectors: (v, D); popularity: (n,).
    """

    changes: list[ItemChange]
    terms: list[ItemTerms]
    with_vector: IntArray
    vectors: FloatArray
    popularity: FloatArray

    @classmethod
    def of(cls, changes: list[ItemChange], dim: int) -> "_Rows":
        """Prepare changes as rows.  Raises: BadAttributesError, ValueError."""
        terms = [terms_of(change.kind, parse_attributes(change.attributes)) for change in changes]
        with_vector = np.array([i for i, change in enumerate(changes) if change.has_vector], dtype=np.int64)
        vectors = np.empty((len(with_vector), dim), dtype=np.float32)
        for i, place in enumerate(with_vector.tolist()):
            vectors[i] = changes[place].vector
        popularity = np.array([change.popularity for change in changes], dtype=np.float32)
        return cls(changes, terms, with_vector, vectors, popularity)


class Delta:
    """The changes to an index of M main rows with D coordinates.

    Attributes:
        state: the latest state, which a new search takes.
    """

    def __init__(self, main: ItemIds, dim: int) -> None:
        self._main = main
        self._rows = AppendedRows()
        self._dim = dim
        self._vectors = np.empty((_FIRST_CAPACITY, dim), dtype=np.float32)
        self._vector_rows = np.empty(_FIRST_CAPACITY, dtype=np.int64)
        self._popularity = np.empty(_FIRST_CAPACITY, dtype=np.float32)
        self._removed_at = np.zeros(_FIRST_CAPACITY, dtype=np.int32)
        self._writing = threading.Lock()
        none = self._vectors[:0], self._vector_rows[:0], self._popularity[:0], self._removed_at[:0]
        self.state = IndexState(self._rows, 0, *none, np.zeros(len(main), dtype=np.int32), 0, 0, 0)

    def rows(self, ids: Sequence[str], state: IndexState | None = None) -> IntArray:
        """Return the row of each id as (n,) int64, −1 where the item is not live.

        Args:
            ids: any.
            state: to look them up in, which a search must then use too; None is the latest.
        """
        state = state or self.state  # before anything is looked up: what is put meanwhile has another row
        return self.current_rows(self._main.rows(ids), ids.__getitem__, state)

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
        rows = np.where(state.live(main_rows), main_rows, -1)
        appended = len(state.removed_at)
        if not appended:
            return rows
        for position in np.flatnonzero(rows < 0).tolist():
            row = state.rows.newest.get(name_of(position), -1)
            while row >= appended:  # put after this state
                row = state.rows.previous[row]
            if row >= 0 and not 0 < state.removed_at[row] <= state.version:
                rows[position] = len(self._main) + row
        return rows

    def apply(self, puts: Sequence[ItemChange], removed: Sequence[str] = ()) -> None:
        """Put and remove items; a search sees all of it or nothing.

        Removing an item that is not live does nothing; where nothing changes, the state stays as it is. An
        item without a vector has a row, too, which filters find and searches by vector do not look at.

        Raises:
            BadAttributesError: of an item that is put; nothing changes.
            ValueError: a vector is not (D,); nothing changes.
        """
        with self._writing:
            latest = {put.item_id: put for put in puts}
            replaced = self.rows(list({**latest, **dict.fromkeys(removed)}))
            new = _Rows.of([put for put in latest.values() if put.listed or put.has_vector], self._dim)
            if new.changes or (replaced >= 0).any():
                self._commit(new, self._write(new), replaced)
            if self.state.removed > max(_KEPT_REMOVED, len(self.state.removed_at) - self.state.removed):
                self._let_go_of_removed()

    def _write(self, new: _Rows) -> int:
        """Write rows where no search looks yet; return the number of the first.

        Rows of a change that broke off halfway are never used again, so their attributes reach no other item.
        """
        first, before = len(self._rows.changes), self.state
        count, filled = first + len(new.changes), len(before.vectors) + len(new.vectors)
        self._reserve(count, filled)
        self._rows.add(new.changes, new.terms)
        self._popularity[first:count] = new.popularity
        self._vectors[len(before.vectors) : filled] = new.vectors
        self._vector_rows[len(before.vectors) : filled] = new.with_vector + first
        return first

    def _commit(self, new: _Rows, first: int, replaced: IntArray) -> None:
        """Publish the state with the new rows and without the replaced ones, by steps that do not fail."""
        before, main = self.state, len(self._main)
        version, count = before.version + 1, first + len(new.changes)
        of_main, appended = replaced[(replaced >= 0) & (replaced < main)], replaced[replaced >= main] - main
        without_vector = sum(not self._rows.changes[row].has_vector for row in appended.tolist())
        broken_off = first - len(before.removed_at)
        self._rows.name(first, broken_off)
        self._removed_at[first - broken_off : first] = version
        self._removed_at[appended] = version
        before.main_removed_at[of_main] = version
        filled = len(before.vectors) + len(new.vectors)
        self.state = IndexState(
            self._rows,
            version,
            self._vectors[:filled],
            self._vector_rows[:filled],
            self._popularity[:count],
            self._removed_at[:count],
            before.main_removed_at,
            before.main_removed + len(of_main),
            before.removed + len(appended) + broken_off,
            before.without_vector - without_vector + len(new.changes) - len(new.vectors),
        )

    def _let_go_of_removed(self) -> None:
        """Copy the live rows, numbered anew, as a new state; earlier states keep what they have.

        So an item or a person that changes often takes as much memory as one that changed once.
        """
        before = self.state
        live = np.flatnonzero(before.removed_at == 0)
        with_vector = before.removed_at[before.vector_rows] == 0
        # All that may fail comes first: what the next put writes into must fit the state.
        rows = before.rows.only(live)
        vectors = before.vectors[with_vector]
        vector_rows = np.searchsorted(live, before.vector_rows[with_vector]).astype(np.int64)
        popularity, removed_at = before.popularity[live], np.zeros(len(live), dtype=np.int32)
        state = IndexState(
            rows,
            before.version + 1,
            vectors,
            vector_rows,
            popularity,
            removed_at,
            before.main_removed_at,
            before.main_removed,
            0,
            before.without_vector,
        )
        self._rows, self._vectors, self._vector_rows = rows, vectors, vector_rows
        self._popularity, self._removed_at, self.state = popularity, removed_at, state

    def changes(self) -> list[ItemChange]:
        """Return the appended rows that are live."""
        state = self.state
        removed_at = state.removed_at.tolist()
        return [change for change, at in zip(state.rows.changes, removed_at, strict=False) if not at]

    def main_removed(self) -> IntArray:
        """Return the rows of the main part that are removed, sorted."""
        return np.flatnonzero(self.state.main_removed_at)

    def _reserve(self, rows: int, vectors: int) -> None:
        """Enlarge the arrays to so many rows and vectors; earlier states keep the old arrays."""
        of_rows, of_vectors = ("_popularity", "_removed_at"), ("_vectors", "_vector_rows")
        for names, needed in ((of_rows, rows), (of_vectors, vectors)):
            capacity = len(getattr(self, names[0]))
            if needed <= capacity:
                continue
            grown = {}
            for name in names:
                old = getattr(self, name)
                grown[name] = np.zeros((max(needed, 2 * capacity), *old.shape[1:]), dtype=old.dtype)
                grown[name][:capacity] = old
            for name, new in grown.items():
                setattr(self, name, new)
