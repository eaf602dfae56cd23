"""Which items a query may find: by kind, attributes and id."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from indexer.arrays import IntArray

KIND = "kind"
Value = str | bool | float


class FilterError(ValueError):
    """A filter cannot be meant."""


@dataclass(frozen=True)
class Filter:
    """Conditions that an item must meet, all of them.

    Attributes:
        kinds: the item is of one of these; empty allows every kind.
        equals: per attribute, the values of which the item has one; a list has each of its elements.
        ranges: per attribute, the least and the greatest value, both allowed; ±inf where there is no end.
        allow: the only items allowed; None allows all.
        deny: items not allowed.

    Raises:
        FilterError: a range ends before it begins, or a condition has no values.
    """

    kinds: tuple[str, ...] = ()
    equals: tuple[tuple[str, tuple[Value, ...]], ...] = ()
    ranges: tuple[tuple[str, float, float], ...] = ()
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    _kinds_of_values: tuple[type, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # True equals 1 in Python, but no item has one for the other: filters that differ in it differ.
        kinds = tuple(type(value) for _, values in self.equals for value in values)
        object.__setattr__(self, "_kinds_of_values", kinds)
        for name, values in self.equals:
            if not values:
                raise FilterError(f"attribute {name!r} is to equal one of no values")
        for name, least, greatest in self.ranges:
            if not least <= greatest:  # also refuses NaN
                raise FilterError(f"the range of attribute {name!r} is empty: {least} to {greatest}")

    @property
    def selects(self) -> bool:
        """Whether it says more than which ids are denied."""
        return bool(self.kinds or self.equals or self.ranges) or self.allow is not None


class Facts(Protocol):
    """What is known of the items of some rows."""

    def having(self, term: str) -> IntArray:
        """Return the rows with a term, sorted."""

    def between(self, name: str, least: float, greatest: float) -> IntArray:
        """Return the rows with a number within a range, sorted and each once."""


def allowed_rows(wanted: Filter, facts: Facts, rows_of: Callable[[Sequence[str]], IntArray]) -> IntArray:
    """Return the rows that a filter which `selects` allows, sorted; `rows_of` gives −1 for an unknown id."""
    clauses = []
    if wanted.allow is not None:
        rows = rows_of(wanted.allow)
        clauses.append(np.unique(rows[rows >= 0]))
    if wanted.kinds:
        clauses.append(_union([facts.having(term(KIND, kind)) for kind in wanted.kinds]))
    for name, values in wanted.equals:
        clauses.append(_union([_equal(facts, name, value) for value in values]))
    for name, least, greatest in wanted.ranges:
        clauses.append(facts.between(name, least, greatest))
    clauses.sort(key=len)
    found = clauses[0]
    for clause in clauses[1:]:
        found = _common(found, clause)
    if wanted.deny:
        found = np.setdiff1d(found, rows_of(wanted.deny), assume_unique=False)
    return np.asarray(found, dtype=np.int64)


def term(name: str, value: str) -> str:
    """Return the term for a field with a text value."""
    return f"{name}\0{value}"


def facts_of(kind: str | None, attributes: dict[str, Any]) -> tuple[list[str], list[tuple[str, float]]]:
    """Return the terms and the named numbers of an item.

    Texts and truth values are terms, numbers are numbers, a list is each of its elements, an object is its
    members with dotted names, null is nothing.
    """
    terms = [] if kind is None else [term(KIND, kind)]
    numbers: list[tuple[str, float]] = []
    for name, value in _flat("attributes", attributes):
        if isinstance(value, bool):
            terms.append(term(name, _truth(value)))
        elif isinstance(value, str):
            terms.append(term(name, value))
        elif math.isfinite(value):
            numbers.append((name.removeprefix("attributes."), float(value)))
    return terms, numbers


def _flat(name: str, value: Any) -> Iterator[tuple[str, Value]]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield from _flat(f"{name}.{key}", member)
    elif isinstance(value, list):
        for member in value:
            yield from _flat(name, member)
    elif value is not None:
        yield name, value


def _equal(facts: Facts, name: str, value: Value) -> IntArray:
    if isinstance(value, bool):
        return facts.having(term(f"attributes.{name}", _truth(value)))
    if isinstance(value, str):
        return facts.having(term(f"attributes.{name}", value))
    return facts.between(name, value, value)


def _truth(value: bool) -> str:
    """Return the text of a truth value, which no text of an item can be."""
    return "\0true" if value else "\0false"


def _union(parts: list[IntArray]) -> IntArray:
    return parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts))


def _common(few: IntArray, many: IntArray) -> IntArray:
    """Return what two sorted arrays of distinct rows share, in time that hardly depends on the longer one."""
    places = np.searchsorted(many, few)
    places[places == len(many)] = 0
    return few[many[places] == few] if len(many) else few[:0]
