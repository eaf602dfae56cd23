"""What changed since the main part of an index was built: new rows, and rows that are gone.

One writer at a time; readers take no lock. A row that goes keeps the number of the version in which it went,
so whoever searches with an older snapshot still sees one whole state.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from indexer.arrays import FloatArray, IntArray
from indexer.exact import longest_of
from indexer.facts import GrowingFacts
from indexer.filters import facts_of
from indexer.ids import ItemIds
from indexer.parts import Change

Versions = npt.NDArray[np.int32]

_ROOM = 64  # rows to begin with


@dataclass(frozen=True)
class Snapshot:
    """One state of an index.

    Shapes:
        vectors: (d, D) float32 of the rows after the main part; popularity: (d,) float32.
        went, main_went: version in which a row went, 0 while it is there; (d,) and (M,).
    """

    version: int
    vectors: FloatArray
    popularity: FloatArray
    went: Versions
    main_went: Versions
    main_gone: int
    gone: int

    @cached_property
    def longest(self) -> float:
        """The length of the longest of the vectors."""
        return longest_of(self.vectors)

    def there(self, rows: IntArray) -> npt.NDArray[np.bool_]:
        """Return which rows, of any shape, are there; row −1 is not."""
        main = len(self.main_went)
        if not len(self.vectors):
            went = self.main_went[np.maximum(rows, 0)] if main else np.zeros(rows.shape, np.int32)
        else:
            late = rows >= main
            went = np.where(late, self.went[np.where(late, rows - main, 0)], 0)
            if main:
                went = np.where(late, went, self.main_went[np.where(late, 0, np.maximum(rows, 0))])
        return np.asarray((rows >= 0) & ((went == 0) | (went > self.version)))


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
        self._changes: list[Change] = []
        self._vectors = np.empty((_ROOM, dim), dtype=np.float32)
        self._popularity = np.empty(_ROOM, dtype=np.float32)
        self._went = np.zeros(_ROOM, dtype=np.int32)
        self._writing = threading.Lock()
        self.facts = GrowingFacts()
        none = self._vectors[:0], self._popularity[:0], self._went[:0]
        self.now = Snapshot(0, *none, np.zeros(len(main), dtype=np.int32), 0, 0)

    def rows(self, ids: Sequence[str], now: Snapshot | None = None) -> IntArray:
        """Return the row of each id as (n,) int64, −1 where the item is not there.

        Args:
            ids: any.
            now: the state that is asked about, which a search must then use too; None is the latest.
        """
        now = now or self.now  # before anything is looked up: what is put meanwhile has another row
        rows = self._main.rows(ids)
        if not now.version:
            return rows
        late = len(now.went)
        for place, item_id in enumerate(ids):
            row = self._newest.get(item_id, -1)
            while row >= late:  # put since
                row = self._before[row]
            if row >= 0:
                rows[place] = len(self._main) + row
        rows[~now.there(rows)] = -1
        return rows

    def of_rows(self, rows: IntArray) -> list[str]:
        """Return the ids of rows (n,) after the main part, counted from 0."""
        return [self._changes[row].item_id for row in rows.tolist()]

    def apply(self, puts: Sequence[Change], removed: Sequence[str] = ()) -> None:
        """Put and remove items; searches see all of it or nothing.

        What is not there is removed in vain; what is put without a vector is not there.
        """
        with self._writing:
            latest = {put.item_id: put for put in puts}
            there = [put for put in latest.values() if put.vector.any()]
            version = self.now.version + 1
            main_gone, gone = self._let_go(list({**latest, **dict.fromkeys(removed)}), version)
            first = len(self._changes)
            self._make_room(first + len(there))
            for put in there:
                self._append(put)
            self._before += [self._newest.get(put.item_id, -1) for put in there]
            self._newest |= {put.item_id: first + i for i, put in enumerate(there)}
            count = first + len(there)
            self.now = Snapshot(
                version,
                self._vectors[:count],
                self._popularity[:count],
                self._went[:count],
                self.now.main_went,
                self.now.main_gone + main_gone,
                self.now.gone + gone,
            )

    def changes(self) -> list[Change]:
        """Return the rows after the main part that are there."""
        return [c for c, went in zip(self._changes, self.now.went.tolist(), strict=False) if not went]

    def main_gone(self) -> IntArray:
        """Return the rows of the main part that are gone, sorted."""
        return np.flatnonzero(self.now.main_went)

    def _let_go(self, ids: Sequence[str], version: int) -> tuple[int, int]:
        """Mark the rows of ids as gone in a version; return how many of the main part, and after it."""
        rows = self.rows(ids)
        main = len(self._main)
        early, late = rows[(rows >= 0) & (rows < main)], rows[rows >= main] - main
        self.now.main_went[early] = version
        self._went[late] = version
        return len(early), len(late)

    def _append(self, put: Change) -> None:
        row = len(self._changes)
        self._vectors[row], self._popularity[row] = put.vector, put.popularity
        self.facts.add(row, facts_of(put.kind, json.loads(put.attributes)))
        self._changes.append(put)

    def _make_room(self, rows: int) -> None:
        if rows > len(self._vectors):
            size = max(rows, 2 * len(self._vectors))
            for name in ("_vectors", "_popularity", "_went"):
                old = getattr(self, name)
                new = np.zeros((size, *old.shape[1:]), dtype=old.dtype)
                new[: len(old)] = old
                setattr(self, name, new)  # snapshots keep the old one
