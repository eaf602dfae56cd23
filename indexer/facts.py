"""Kinds and attributes of items, inverted: from a value to the rows that have it."""

import json
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from indexer.arrays import IntArray, map_tensors
from indexer.filters import facts_of
from indexer.ids import hash_of, hashes_of

ItemFacts = tuple[list[str], list[tuple[str, float]]]
_NONE = np.zeros(0, dtype=np.int64)
_NO_ROWS = array("q")


class FactsBuilder:
    """Collects the facts of items, row by row, and writes them inverted."""

    def __init__(self) -> None:
        self._terms = array("Q")
        self._rows = array("i")
        self._numbers: dict[str, tuple[array[float], array[int]]] = {}

    def add(self, row: int, kind: str | None, attributes: dict[str, Any]) -> None:
        """Take in the facts of one row; rows come in order."""
        terms, numbers = facts_of(kind, attributes)
        for term in set(terms):
            self._terms.append(hash_of(term))
            self._rows.append(row)
        for name, value in numbers:
            values, rows = self._numbers.setdefault(name, (array("d"), array("i")))
            values.append(value)
            rows.append(row)

    def write(self, path: Path) -> None:
        """Write one file: terms as sorted hashes with their rows, numbers sorted with theirs."""
        terms, rows = np.asarray(self._terms), np.asarray(self._rows)
        order = np.argsort(terms, kind="stable")  # rows of a term stay in order
        distinct, starts = np.unique(terms[order], return_index=True)
        names = sorted(self._numbers)
        tensors = {
            "terms": distinct,
            "starts": np.append(starts, len(terms)).astype(np.int64),
            "rows": rows[order],
            "names": np.frombuffer(json.dumps(names).encode(), np.uint8),
        }
        for i, name in enumerate(names):
            values, owners = map(np.asarray, self._numbers[name])
            order = np.argsort(values, kind="stable")
            tensors |= {f"values{i}": values[order], f"owners{i}": owners[order]}
        save_file(tensors, path)


class MappedFacts:
    """The facts of immutable rows, memory-mapped.

    Two terms whose 64-bit hashes agree would be taken for one: with a million terms, one chance in 10^7.
    """

    def __init__(self, path: Path) -> None:
        self._tensors = map_tensors(path)
        names = json.loads(self._tensors["names"].tobytes())
        self._number = {name: i for i, name in enumerate(names)}

    def having(self, term: str) -> IntArray:
        """Return the rows with a term, sorted."""
        terms, starts = self._tensors["terms"], self._tensors["starts"]
        value = hashes_of([term])[0]
        place = int(np.searchsorted(terms, value))
        if place == len(terms) or terms[place] != value:
            return _NONE
        return self._tensors["rows"][starts[place] : starts[place + 1]].astype(np.int64)

    def between(self, name: str, least: float, greatest: float) -> IntArray:
        """Return the rows with a number within a range, sorted and each once."""
        if name not in self._number:
            return _NONE
        i = self._number[name]
        values = self._tensors[f"values{i}"]
        first, last = np.searchsorted(values, least, "left"), np.searchsorted(values, greatest, "right")
        return np.unique(self._tensors[f"owners{i}"][first:last]).astype(np.int64)


class GrowingFacts:
    """The facts of rows that are added one by one; readers ignore rows that they do not know yet.

    Readers copy a column by slicing it, in one step of the interpreter: a view of its memory would make it
    impossible for the writer to add a row meanwhile.
    """

    def __init__(self) -> None:
        self._rows: dict[str, array[int]] = {}
        self._numbers: dict[str, tuple[array[float], array[int]]] = {}

    def add(self, row: int, facts: ItemFacts) -> None:
        """Take in the facts of one row, as `facts_of` returns them; rows come in order."""
        terms, numbers = facts
        for term in set(terms):
            self._rows.setdefault(term, array("q")).append(row)
        for name, value in numbers:
            values, rows = self._numbers.setdefault(name, (array("d"), array("q")))
            values.append(value)
            rows.append(row)

    def having(self, term: str) -> IntArray:
        """Return the rows with a term, sorted."""
        return np.array(self._rows.get(term, _NO_ROWS)[:], dtype=np.int64)

    def between(self, name: str, least: float, greatest: float) -> IntArray:
        """Return the rows with a number within a range, sorted and each once."""
        if name not in self._numbers:
            return _NONE
        values, rows = (np.array(column[:]) for column in self._numbers[name])
        count = min(len(values), len(rows))  # a writer may be between the two
        inside = (values[:count] >= least) & (values[:count] <= greatest)
        return np.unique(rows[:count][inside]).astype(np.int64)
