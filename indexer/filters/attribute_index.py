"""The attribute index: kinds and attributes of items, inverted from a value to the rows that have it.

Texts and truth values are terms, numbers and dates are columns that a range is looked up in.
"""

import json
import math
import re
from abc import ABC, abstractmethod
from array import array
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from indexer.files import IntArray, hash_of, hashes_of, map_tensors
from store.attributes import named_values

_FIRST = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_ISO = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:[T ](?P<time>\d\d:\d\d(?::\d\d)?)(?:\.(?P<fraction>\d+))?"
    r"(?P<zone>Z|(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>\d\d)?)?)?",
    re.ASCII,
)
KIND = "kind"
_MOST_INT64 = 2**63 - 1
FACTS_LAYOUT = 2  # of the file; 1 had numbers as doubles alone, and no moments
_MOMENTS = "moment_names"
_INEXACT = 2**53  # the first double that also stands for another integer in the first layout
_NO_ROWS = np.zeros(0, dtype=np.int64)


class Moment(int):
    """Microseconds since 1970-01-01T00:00:00Z."""


def moment_of(text: str) -> Moment | None:
    """Parse a text as a moment; None where it is no date or time.

    It is one where the whole text is a date of ISO 8601, 1999-05-01, or a date and a time, 1999-05-01T20:15,
    with T or a blank between them, seconds or without, a fraction of them, and Z or an offset such as +02:00,
    +0200 or +02. A date is its first moment; without an offset it is UTC. The year is 0001 to 9999. Beyond
    microseconds digits are dropped.
    """
    if len(text) < 10 or text[4] != "-":
        return None  # the quick way out for nearly all texts
    read = _ISO.fullmatch(text)
    if read is None or (read["fraction"] and len(read["time"]) < len("20:15:00")):
        return None
    try:
        local = datetime.fromisoformat(f"{read['date']}T{read['time'] or '00:00'}")
    except ValueError:  # such as the 30th of February
        return None
    hours, minutes = int(read["hours"] or 0), int(read["minutes"] or 0)
    if hours > 23 or minutes > 59:
        return None
    offset = timedelta(hours=hours, minutes=minutes) // _MICROSECOND * (-1 if read["sign"] == "-" else 1)
    fraction = int((read["fraction"] or "")[:6].ljust(6, "0"))
    return Moment((local - _FIRST) // _MICROSECOND + fraction - offset)


Number = int | float
Value = str | bool | int | float | Moment
ItemTerms = tuple[list[str], list[tuple[str, Number]], list[tuple[str, Moment]]]


def term(name: str, value: str) -> str:
    """Return the term for a field with a text value; no other field and value have the same.

    Files on disk hold hashes of terms, so those without nul stay as they are.
    """
    if "\0" in name or "\0" in value:
        return f"\0text {len(name)}\0{name}{value}"
    return f"{name}\0{value}"


def terms_of(kind: str | None, attributes: dict[str, Any]) -> ItemTerms:
    """Split the kind and attributes of an item into terms, named numbers and named moments.

    Texts and truth values are terms, numbers are numbers, a list is each of its elements, an object is its
    members with dotted names, null is nothing. A text that is an ISO date or time is a moment, too.
    """
    terms = [] if kind is None else [term(KIND, kind)]
    numbers: list[tuple[str, Number]] = []
    moments: list[tuple[str, Moment]] = []
    for short, value in named_values(attributes):
        name = f"attributes.{short}"
        if isinstance(value, bool):
            terms.append(truth(name, value))
        elif isinstance(value, str):
            terms.append(term(name, value))
            moment = moment_of(value)
            if moment is not None:
                moments.append((short, moment))
        elif math.isfinite(value):
            numbers.append((short, value))
    return terms, numbers, moments


def as_double(value: Number) -> tuple[float, int]:
    """Split a number into the nearest double and the remainder; such pairs are in the order of the numbers.

    A remainder that 64 bits cannot hold is cut to the greatest that they can: it stays on the right side of
    every double and of every integer of 64 bits, which is all that filters compare with.
    """
    near = float(value)
    if isinstance(value, float) or math.isinf(near):
        return near, 0
    return near, max(-_MOST_INT64, min(value - int(near), _MOST_INT64))


def truth(name: str, value: bool) -> str:
    """Return the term for a field with a truth value; no text of an item has the same."""
    said = "true" if value else "false"
    return f"\0truth {len(name)}\0{name}{said}" if "\0" in name else f"{name}\0\0{said}"


class ReindexNeededError(RuntimeError):
    """A filter needs what the attribute index of an older version does not hold."""

    def __init__(self, index_id: str, needed: str) -> None:
        super().__init__(
            f"index {index_id} is from before {needed} could be asked for: run `triptych reindex`"
        )
        self.index_id = index_id


class _Columns(ABC):
    """Numbers and moments of rows added in order: a column of values and one of rows for each attribute."""

    def __init__(self) -> None:
        self._numbers: dict[str, tuple[array[float], array[int], array[int]]] = {}
        self._moments: dict[str, tuple[array[int], array[int]]] = {}

    def add(self, row: int, terms: ItemTerms) -> None:
        """Add what `terms_of` returns for one row; rows come in order."""
        texts, numbers, moments = terms
        for text in set(texts):
            self._add_term(text, row)
        for name, value in numbers:
            doubles, rests, rows = self._numbers.setdefault(name, (array("d"), array("q"), array("i")))
            double, rest = as_double(value)
            doubles.append(double)
            rests.append(rest)
            rows.append(row)
        for name, moment in moments:
            times, rows = self._moments.setdefault(name, (array("q"), array("i")))
            times.append(moment)
            rows.append(row)

    @abstractmethod
    def _add_term(self, text: str, row: int) -> None:
        """Add a term of a row; each term once, rows in order."""


class AttributeIndexBuilder(_Columns):
    """Collects kinds and attributes row by row, 12 bytes a term, and writes them as an attribute index."""

    def __init__(self) -> None:
        super().__init__()
        self._terms = array("Q")
        self._rows = array("i")

    def _add_term(self, text: str, row: int) -> None:
        self._terms.append(hash_of(text))
        self._rows.append(row)

    def write(self, path: Path) -> None:
        """Write one file: terms as sorted hashes with their rows, numbers and moments sorted with theirs.

        The remainders of integers that are no doubles lie beside an attribute's numbers where there are any.
        """
        terms, rows = np.asarray(self._terms), np.asarray(self._rows)
        order = np.argsort(terms, kind="stable")  # rows of a term stay in order
        distinct, starts = np.unique(terms[order], return_index=True)
        names, moments = sorted(self._numbers), sorted(self._moments)
        tensors = {
            "terms": distinct,
            "starts": np.append(starts, len(terms)).astype(np.int64),
            "rows": rows[order],
            "names": _as_bytes(names),
            _MOMENTS: _as_bytes(moments),
        }
        for i, name in enumerate(names):
            doubles, rests, owners = map(np.asarray, self._numbers[name])
            order = np.lexsort((rests, doubles))
            tensors |= {f"values{i}": doubles[order], f"owners{i}": owners[order]}
            if rests.any():
                tensors[f"rests{i}"] = rests[order]
        for i, name in enumerate(moments):
            times, owners = map(np.asarray, self._moments[name])
            order = np.argsort(times, kind="stable")
            tensors |= {f"moments{i}": times[order], f"moment_owners{i}": owners[order]}
        save_file(tensors, path)


class AttributeIndex:
    """The attribute index of the main part, memory-mapped.

    Two terms whose 64-bit hashes agree count as one: with a million terms, one chance in 10^7. A file of an
    older version holds numbers as doubles alone, and neither moments nor texts with nul under terms of their
    own; a filter that needs them raises ReindexNeededError.
    """

    def __init__(self, path: Path) -> None:
        self._index_id = path.parent.name
        self._tensors = map_tensors(path)
        self._number = {name: i for i, name in enumerate(_from_bytes(self._tensors["names"]))}
        self._old = _MOMENTS not in self._tensors
        moments = [] if self._old else _from_bytes(self._tensors[_MOMENTS])
        self._moment = {name: i for i, name in enumerate(moments)}

    def having(self, term: str) -> IntArray:
        """Return the rows with a term, sorted.  Raises: ReindexNeededError."""
        if self._old and term.startswith("\0"):
            raise ReindexNeededError(self._index_id, "texts with nul")
        terms, starts = self._tensors["terms"], self._tensors["starts"]
        value = hashes_of([term])[0]
        place = int(np.searchsorted(terms, value))
        if place == len(terms) or terms[place] != value:
            return _NO_ROWS
        return self._tensors["rows"][starts[place] : starts[place + 1]].astype(np.int64)

    def between(self, name: str, least: Number, greatest: Number) -> IntArray:
        """Return the rows with a number within a range, sorted and each once.  Raises: ReindexNeededError."""
        if name not in self._number:
            return _NO_ROWS
        if self._old and any(_INEXACT <= abs(end) < np.inf for end in (least, greatest)):
            raise ReindexNeededError(self._index_id, "integers beyond 2^53 to the last digit")
        i = self._number[name]
        first, last = self._place(i, least, "left"), self._place(i, greatest, "right")
        return rows_once(self._tensors[f"owners{i}"][first:last])

    def during(self, name: str, first: Moment, last: Moment) -> IntArray:
        """Return the rows with a moment within a range, sorted and each once.  Raises: ReindexNeededError."""
        if self._old:
            raise ReindexNeededError(self._index_id, "dates and times")
        if name not in self._moment:
            return _NO_ROWS
        i = self._moment[name]
        times = self._tensors[f"moments{i}"]
        start, end = np.searchsorted(times, int(first), "left"), np.searchsorted(times, int(last), "right")
        return rows_once(self._tensors[f"moment_owners{i}"][start:end])

    def by_row(self, total: int) -> "AttributesByRow":
        """Return the attributes of `total` rows, not inverted.  Raises: ReindexNeededError."""
        if self._old:
            raise ReindexNeededError(self._index_id, "the attributes of an item")
        counts = np.diff(self._tensors["starts"])
        rows = self._tensors["rows"].astype(np.int64)
        order = np.argsort(rows, kind="stable")
        terms = np.repeat(self._tensors["terms"], counts)[order]
        starts = np.searchsorted(rows[order], np.arange(total + 1))
        numbers = {
            name: _ends(self._tensors[f"values{i}"], self._tensors[f"owners{i}"], total)
            for name, i in self._number.items()
        }
        moments = {
            name: _ends(self._tensors[f"moments{i}"], self._tensors[f"moment_owners{i}"], total)
            for name, i in self._moment.items()
        }
        return AttributesByRow(terms, starts, numbers, moments)

    def _place(self, i: int, value: Number, side: Literal["left", "right"]) -> int:
        """Return where a number belongs among an attribute's sorted ones, left or right of equal ones."""
        double, rest = as_double(value)
        values, rests = self._tensors[f"values{i}"], self._tensors.get(f"rests{i}")
        first, last = np.searchsorted(values, double, "left"), np.searchsorted(values, double, "right")
        equal = np.zeros(last - first, np.int64) if rests is None else rests[first:last]
        return int(first + np.searchsorted(equal, rest, side))


@dataclass(frozen=True)
class AttributesByRow:
    """The attributes of N rows, as far as an attribute index keeps them.

    Attributes:
        terms: (T,) uint64, the hashes of the terms of one row after another.
        starts: (N + 1,) int64, where those of a row begin.
        numbers, moments: the least and the greatest value (2, N) float64 by attribute; NaN for a row
            without one.
    """

    terms: npt.NDArray[np.uint64]
    starts: IntArray
    numbers: dict[str, npt.NDArray[np.float64]]
    moments: dict[str, npt.NDArray[np.float64]]


class MutableAttributeIndex(_Columns):
    """The attribute index of rows added one by one; readers drop rows that their state does not have.

    Readers copy a column by slicing it, in one step of the interpreter: a view of its memory would make it
    impossible for the writer to add a row meanwhile.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, array[int]] = {}

    def _add_term(self, text: str, row: int) -> None:
        self._rows.setdefault(text, array("i")).append(row)

    def having(self, term: str) -> IntArray:
        """Return the rows with a term, sorted."""
        rows = self._rows.get(term)
        return _NO_ROWS if rows is None else np.array(rows[:], dtype=np.int64)

    def between(self, name: str, least: Number, greatest: Number) -> IntArray:
        """Return the rows with a number within a range, sorted and each once."""
        if name not in self._numbers:
            return _NO_ROWS
        doubles, rests, rows = _copied(self._numbers[name])
        (low, low_rest), (high, high_rest) = as_double(least), as_double(greatest)
        inside = (doubles > low) | ((doubles == low) & (rests >= low_rest))
        inside &= (doubles < high) | ((doubles == high) & (rests <= high_rest))
        return rows_once(rows[inside])

    def during(self, name: str, first: Moment, last: Moment) -> IntArray:
        """Return the rows with a moment within a range, sorted and each once."""
        if name not in self._moments:
            return _NO_ROWS
        times, rows = _copied(self._moments[name])
        return rows_once(rows[(times >= int(first)) & (times <= int(last))])


def rows_once(rows: npt.NDArray[Any]) -> IntArray:
    """Return rows (n,) sorted and each once, as int64; `np.unique` takes 2 to 14 times as long."""
    rows = np.sort(rows)
    first = np.append(True, rows[1:] != rows[:-1])[: len(rows)]
    return np.asarray(rows[first], dtype=np.int64)


def _ends(values: npt.NDArray[Any], owners: npt.NDArray[Any], total: int) -> npt.NDArray[np.float64]:
    """Return the least and the greatest of the values (n,) of each owner, (2, total); NaN for none."""
    ends = np.full((2, total), np.nan)
    np.fmin.at(ends[0], owners, values.astype(np.float64))
    np.fmax.at(ends[1], owners, values.astype(np.float64))
    return ends


def _copied(columns: "tuple[array[Any], ...]") -> list[npt.NDArray[Any]]:
    """Copy columns as arrays of one length: a writer may have added to only some of them."""
    copies = [np.array(column[:]) for column in columns]
    count = min(map(len, copies))
    return [copy[:count] for copy in copies]


def _as_bytes(names: list[str]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(json.dumps(names).encode(), np.uint8)


def _from_bytes(written: npt.NDArray[Any]) -> list[str]:
    names: list[str] = json.loads(written.tobytes())
    return names
