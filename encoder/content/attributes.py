"""Kind and attributes of items as numbers, for a regression: categories, lists, numbers, truth values."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import sparse

from encoder.arrays import IntArray
from encoder.views import Matrix
from store.attributes import Attributes, named_values

AttributeEncoding = Literal["one-hot", "hashed"]
MOST_TERMS = {"one-hot": 512, "hashed": 50_000}  # the most frequent ones
HASHED_DIM = 512
KNOTS = 8  # of a number: the ends of eighths of its values
_LEAST = 2  # items that a term must occur in: one says nothing of another item
_KIND = "kind"


@dataclass(frozen=True)
class Described:
    """Kind and attributes of N items as they were written; None where there are none, or none of use."""

    kinds: Sequence[str | None]
    attributes: Sequence[Attributes | None]

    def __len__(self) -> int:
        return len(self.kinds)

    def take(self, rows: IntArray) -> "Described":
        """Return those of the items `rows` (n,)."""
        kinds, attributes = (
            [values[row] for row in rows.tolist()] for values in (self.kinds, self.attributes)
        )
        return Described(kinds, attributes)


@dataclass(frozen=True)
class AttributeEncoder:
    """Turns kind and attributes into D_A numbers.

    Texts, truth values and elements of lists are terms: each is a coordinate of its own (one-hot, D_A as many
    as there are), or one of HASHED_DIM coordinates that a hash gives it, with a sign (hashed). No more than
    MOST_TERMS are learned, and a term that was not is nothing. A name with n terms in an item gives each
    1 / √n, so that long lists count no more than short ones. A number is shared by the two knots around it,
    linearly, so that "rather cheap" is near "cheap"; a knot is a term.

    Attributes:
        encoding: one-hot or hashed.
        terms: sorted; of one-hot in the order of the coordinates.
        knots: of each number by its dotted name, ascending.

    Source:
        Weinberger et al. 2009, "Feature hashing for large scale multitask learning", equation 1 (signs).
    """

    encoding: AttributeEncoding = "one-hot"
    terms: tuple[str, ...] = ()
    knots: dict[str, tuple[float, ...]] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "_place", {term: i for i, term in enumerate(self.terms)})

    @classmethod
    def fit(cls, items: Described, encoding: AttributeEncoding) -> "AttributeEncoder":
        """Learn the terms and the knots from items; a term that only one of them has is left out."""
        numbers: dict[str, list[float]] = {}
        for attributes in items.attributes:
            for name, number in _numbers(attributes):
                numbers.setdefault(name, []).append(number)
        knots = {
            name: tuple(float(x) for x in np.unique(np.quantile(values, np.linspace(0, 1, KNOTS))))
            for name, values in sorted(numbers.items())
        }
        encoder = cls(encoding, (), knots)
        counts = Counter(
            term
            for kind, attributes in zip(items.kinds, items.attributes, strict=True)
            for term in encoder.weights(kind, attributes)
        )
        often = sorted(counts.items(), key=lambda one: (-one[1], one[0]))[: MOST_TERMS[encoding]]
        useful = sorted(term for term, count in often if _LEAST <= count < len(items))
        return replace(encoder, terms=tuple(useful))

    @property
    def dim(self) -> int:
        """D_A."""
        return HASHED_DIM if self.terms and self.encoding == "hashed" else len(self.terms)

    def encode(self, items: Described) -> Matrix:
        """Encode items: (N, D_A) float32; a term that was not learned is nothing."""
        rows, columns, values = [], [], []
        for row, (kind, attributes) in enumerate(zip(items.kinds, items.attributes, strict=True)):
            for term, weight in self.weights(kind, attributes).items():
                place, sign = self._coordinate(term)
                if place >= 0:
                    rows.append(row)
                    columns.append(place)
                    values.append(sign * weight)
        shape = (len(items), self.dim)
        encoded = sparse.csr_array((np.array(values, np.float32), (rows, columns)), shape=shape)
        encoded.sum_duplicates()
        return encoded

    def weights(self, kind: str | None, attributes: Attributes | None) -> dict[str, float]:
        """Return the terms of one item, with the weight of each."""
        named: dict[str, dict[str, float]] = {} if kind is None else {_KIND: {f"{_KIND}={kind}": 1.0}}
        for name, value in named_values(attributes or {}):
            if isinstance(value, str | bool):
                named.setdefault(name, {})[f"{name}={value}"] = 1.0
        for name, number in _numbers(attributes):
            near = named.setdefault(name, {})
            for knot, weight in self._between(name, number):
                term = f"{name}≈{knot}"
                near[term] = near.get(term, 0.0) + weight
        return {
            term: weight / math.sqrt(sum(terms.values()))
            for terms in named.values()
            for term, weight in terms.items()
        }

    def as_json(self) -> dict[str, Any]:
        """Return the encoder as JSON values."""
        return {
            "encoding": self.encoding,
            "terms": list(self.terms),
            "knots": {name: list(values) for name, values in (self.knots or {}).items()},
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "AttributeEncoder":
        """Make an encoder of the values that `as_json` returned."""
        knots = {name: tuple(float(x) for x in ends) for name, ends in values["knots"].items()}
        return cls(values["encoding"], tuple(values["terms"]), knots)

    def _between(self, name: str, number: float) -> Iterator[tuple[int, float]]:
        """Yield the knots around a number, by their place, with the share of each."""
        ends = (self.knots or {}).get(name, ())
        if not ends:
            return
        at = float(np.interp(number, ends, np.arange(len(ends))))
        low = int(at)
        if at > low:
            yield low + 1, at - low
        yield low, 1.0 - (at - low)

    def _coordinate(self, term: str) -> tuple[int, float]:
        """Return where a term counts, −1 for nowhere, and with which sign."""
        place: int = self._place.get(term, -1)  # type: ignore[attr-defined]
        if place < 0 or self.encoding == "one-hot":
            return place, 1.0
        digest = hashlib.blake2b(term.encode(), digest_size=8).digest()
        number = int.from_bytes(digest, "little")
        return number % HASHED_DIM, 1.0 if number >> 63 else -1.0


def _numbers(attributes: Attributes | None) -> Iterator[tuple[str, float]]:
    """Yield the numbers of an item by their dotted names; of a list each of its elements."""
    for name, value in named_values(attributes or {}):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)
