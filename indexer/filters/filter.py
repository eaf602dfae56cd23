"""Filters: which items a query may find, by kind, attributes and id."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from indexer.files import IntArray
from indexer.filters.attribute_index import KIND, Moment, Number, Value, rows_once, term, truth

_MASKED = 64  # rows per row of a set, below which a mask of all rows is faster than sorting
_EXACT = 2**53  # up to it every integer is a double


class FilterError(ValueError):
    """A filter contradicts itself: an empty range, or a condition without values."""


@dataclass(frozen=True)
class Filter:
    """Conditions that an item must meet, all of them.

    Numbers are compared exactly: an integer beyond 2^53 does not equal its neighbours.

    Attributes:
        kinds: the item is of one of these; empty allows every kind.
        equals: per attribute, the values of which the item has one; a list has each of its elements, and a
            text that is a date or a time is also that moment.
        ranges: per attribute, the least and the greatest number, both allowed; ±inf for an open end.
        allow: the only items allowed; None allows all.
        deny: items not allowed.
        times: per attribute, the first and the last moment, both allowed.
        unequal: per attribute, the values of which the item has none; so does an item without the attribute.

    Raises:
        FilterError: a range ends before it begins, or a condition has no values.
    """

    kinds: tuple[str, ...] = ()
    equals: tuple[tuple[str, tuple[Value, ...]], ...] = ()
    ranges: tuple[tuple[str, Number, Number], ...] = ()
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    times: tuple[tuple[str, Moment, Moment], ...] = ()
    unequal: tuple[tuple[str, tuple[Value, ...]], ...] = ()
    _kinds_of_values: tuple[type, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # True equals 1 in Python, but no item matches both: filters that differ in it must differ.
        named = self.equals + self.unequal
        kinds = tuple(type(value) for _, values in named for value in values)
        object.__setattr__(self, "_kinds_of_values", kinds)
        for name, values in named:
            if not values:
                raise FilterError(f"attribute {name!r} is to equal one of no values")
        for name, least, greatest in self.ranges + self.times:
            if not least <= greatest:  # also refuses NaN
                raise FilterError(f"the range of attribute {name!r} is empty: {least} to {greatest}")

    @property
    def selects(self) -> bool:
        """Whether it has a condition beside denied ids."""
        conditions = self.kinds or self.equals or self.ranges or self.times or self.unequal
        return bool(conditions) or self.allow is not None

    def both(self, other: "Filter") -> "Filter":
        """Return the filter that allows what both allow."""
        kinds, allow = self.kinds or other.kinds, other.allow if self.allow is None else self.allow
        if self.kinds and other.kinds:
            kinds = tuple(kind for kind in self.kinds if kind in set(other.kinds))
        if self.allow is not None and other.allow is not None:
            allow = tuple(set(self.allow) & set(other.allow))
        if not kinds and self.kinds:
            allow = ()  # no kind is left, and none would mean each
        return Filter(
            kinds,
            self.equals + other.equals,
            self.ranges + other.ranges,
            None if allow is None else tuple(sorted(allow)),
            self.deny + other.deny,
            self.times + other.times,
            self.unequal + other.unequal,
        )


class AttributeLookup(Protocol):
    """Finds rows by kind and attributes; `AttributeIndex` and `MutableAttributeIndex` do."""

    def having(self, term: str) -> IntArray:
        """Return the rows with a term, sorted."""

    def between(self, name: str, least: Number, greatest: Number) -> IntArray:
        """Return the rows with a number within a range, sorted and each once."""

    def during(self, name: str, first: Moment, last: Moment) -> IntArray:
        """Return the rows with a date or time within a range, sorted and each once."""


def allowed_rows(
    wanted: Filter, attributes: AttributeLookup, rows_of: Callable[[Sequence[str]], IntArray], total: int
) -> IntArray:
    """Return the rows int64, sorted, that a filter which `selects` allows.

    Row sets are sorted arrays, and masks where they are large: making roaring bitmaps of the rows on disk
    takes longer than uniting or intersecting arrays, and the search needs arrays anyway.

    Args:
        wanted: the filter.
        attributes: of the rows.
        rows_of: gives the rows of ids, −1 for an unknown id.
        total: number of rows.
    """
    clauses = []
    if wanted.allow is not None:
        rows = rows_of(wanted.allow)
        clauses.append(rows_once(rows[rows >= 0]))
    if wanted.kinds:
        clauses.append(_union([attributes.having(term(KIND, kind)) for kind in wanted.kinds], total))
    for name, values in wanted.equals:
        clauses.append(_union([_equal(attributes, name, value) for value in values], total))
    for name, least, greatest in wanted.ranges:
        clauses.append(attributes.between(name, least, greatest))
    for name, first, last in wanted.times:
        clauses.append(attributes.during(name, first, last))
    clauses.sort(key=len)
    found = clauses[0] if clauses else np.arange(total)
    for clause in clauses[1:]:
        found = found[_are_in(clause, found)]
    denied = [_equal(attributes, name, value) for name, values in wanted.unequal for value in values]
    if wanted.deny:
        denied.append(rows_of(wanted.deny))
    return _without(found, denied, total) if denied else found


def above(value: Number) -> Number:
    """Return the least number greater than a value: an end of a range that leaves the value itself out."""
    if abs(value) >= _EXACT and math.isfinite(value):
        return int(value) + 1  # from there on every number of an item is a whole one
    return math.nextafter(value, math.inf)


def below(value: Number) -> Number:
    """Return the greatest number less than a value."""
    return -above(-value)


def _equal(attributes: AttributeLookup, name: str, value: Value) -> IntArray:
    if isinstance(value, bool):
        return attributes.having(truth(f"attributes.{name}", value))
    if isinstance(value, str):
        return attributes.having(term(f"attributes.{name}", value))
    if isinstance(value, Moment):
        return attributes.during(name, value, value)
    return attributes.between(name, value, value)


def _union(parts: list[IntArray], total: int) -> IntArray:
    """Unite sets of rows; rows from `total` on, which a writer has just added, may be missing."""
    if len(parts) == 1:
        return parts[0]
    if sum(map(len, parts)) * _MASKED < total:
        return rows_once(np.concatenate(parts))
    return np.flatnonzero(_mask(parts, total))


def _without(rows: IntArray, parts: list[IntArray], total: int) -> IntArray:
    """Return the rows below `total` that no part holds."""
    rows = rows[rows < total]
    if len(rows) * _MASKED < total:
        return rows[~_are_in(rows_once(np.concatenate(parts)), rows)]
    return rows[~_mask(parts, total)[rows]]


def _mask(parts: list[IntArray], total: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(total, dtype=bool)
    for part in parts:
        mask[part[(part >= 0) & (part < total)]] = True
    return mask


def _are_in(known: IntArray, rows: IntArray) -> npt.NDArray[np.bool_]:
    """Tell which rows are in a sorted array, in time that hardly depends on its length."""
    if not len(known):
        return np.zeros(len(rows), dtype=bool)
    places = np.searchsorted(known, rows)
    places[places == len(known)] = 0
    return np.asarray(known[places] == rows)
