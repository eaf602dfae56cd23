"""Item vectors from content: a ridge regression for each combination of parts that an item may have."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg

from encoder.arrays import IntArray
from encoder.content.attributes import AttributeEncoding
from encoder.content.content import (
    INPUTS,
    INPUTS_OF,
    PARTS,
    ContentEncoder,
    ItemContent,
    Widths,
    patterns_of,
)
from encoder.views import FloatArray

Floats = npt.NDArray[np.float64]
PATTERNS = 1 << len(PARTS)
MOST_ITEMS = 30_000  # that a regression is made over: the most popular ones
_ROWS = 4_096


@dataclass(frozen=True)
class ContentSettings:
    """How item vectors are regressed on content.

    Attributes:
        encoding: of the attributes.
        ridge: λ, in units of the mean square of the content's coordinates summed over items.
        popularity: exponent p of an item's weight n^p, n the users who chose it: its vector is the surer.
    """

    encoding: AttributeEncoding = "one-hot"
    ridge: float = 1.0
    popularity: float = 0.5


@dataclass(frozen=True)
class ContentMaps:
    """Linear maps from content to item vectors.

    Shapes:
        maps: (P, 1 + D_C, D) float32, one for each combination of parts (`patterns_of`), zero for
            the empty one and for rows of parts that it lacks; the first row is the constant.

    Attributes:
        widths: of the coordinates of content, by INPUTS; D_C is their sum.
    """

    maps: FloatArray
    widths: Widths

    def vectors(self, content: ItemContent) -> FloatArray:
        """Encode items from their content: (n, D) float32; zero for an item of which nothing is known."""
        patterns = patterns_of(content.present)
        encoded = np.zeros((len(content), self.maps.shape[2]), dtype=np.float32)
        for pattern in np.unique(patterns[patterns > 0]).tolist():
            rows = np.flatnonzero(patterns == pattern)
            encoded[rows] = with_one(content.take(rows).dense()) @ self.maps[pattern]
        return encoded


@dataclass(frozen=True)
class ContentTower:
    """What encodes an item that nobody has touched: the encoder of its content, and the maps."""

    encoder: ContentEncoder
    maps: ContentMaps


@dataclass(frozen=True)
class Moments:
    """Weighted second moments of content and item vectors of some items, from which maps are solved.

    Attributes:
        widths: of the coordinates of content, by INPUTS.
        gram: for each combination of parts, over the items that have at least these: (1 + n, 1 + n)
            float64 of the constant and the n coordinates of these parts.
        cross: the same with the item vectors, (1 + n, D) float64.
    """

    widths: Widths
    gram: dict[int, Floats]
    cross: dict[int, Floats]

    @classmethod
    def of(
        cls, content: ItemContent, vectors: FloatArray, weights: Floats, rows: IntArray, patterns: IntArray
    ) -> "Moments":
        """Sum over the items `rows` (n,).

        Args:
            content: of all N items.
            vectors: (N, D) float32, the targets.
            weights: (N,) of the items.
            rows: which items.
            patterns: the combinations that are wanted, numbers as of `patterns_of`.
        """
        used = {pattern: columns_of(pattern, content.widths) for pattern in patterns.tolist()}
        gram = {pattern: np.zeros((len(columns),) * 2) for pattern, columns in used.items()}
        cross = {pattern: np.zeros((len(columns), vectors.shape[1])) for pattern, columns in used.items()}
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            part = content.take(some)
            has = patterns_of(part.present)
            x = with_one(part.dense()).astype(np.float64)
            y, w = vectors[some].astype(np.float64), weights[some]
            for pattern, columns in used.items():
                enough = np.flatnonzero((has & pattern) == pattern)
                known = x[np.ix_(enough, columns)]
                weighed = known * w[enough, None]
                gram[pattern] += weighed.T @ known
                cross[pattern] += weighed.T @ y[enough]
        return cls(content.widths, gram, cross)

    def __sub__(self, other: "Moments") -> "Moments":
        gram = {pattern: one - other.gram[pattern] for pattern, one in self.gram.items()}
        cross = {pattern: one - other.cross[pattern] for pattern, one in self.cross.items()}
        return Moments(self.widths, gram, cross)

    def solve(self, settings: ContentSettings) -> ContentMaps:
        """Solve the ridge regression of each combination; the constant is not shrunk.

        A combination that no item has is encoded by the part of it that most items have, or not at all.
        """
        dim = next(iter(self.cross.values())).shape[1]
        maps = np.zeros((most_patterns(self.widths), 1 + sum(self.widths), dim), dtype=np.float32)
        support = {pattern: float(gram[0, 0]) for pattern, gram in self.gram.items()}
        for pattern in (one for one, total in support.items() if total):
            gram, cross, total = self.gram[pattern], self.cross[pattern], support[pattern]
            used = columns_of(pattern, self.widths)
            mean_x, mean_y = gram[0, 1:] / total, cross[0] / total
            centred = gram[1:, 1:] - total * np.outer(mean_x, mean_x)
            towards = cross[1:] - total * np.outer(mean_x, mean_y)
            strength = settings.ridge * np.trace(centred) / max(1, len(centred)) + 1e-9 * total
            centred[np.diag_indices_from(centred)] += strength  # positive definite from here on
            slopes = linalg.cho_solve(linalg.cho_factor(centred, overwrite_a=True), towards)
            maps[pattern][used[1:]] = slopes
            maps[pattern][0] = mean_y - mean_x @ slopes
        for pattern in (one for one in range(len(maps)) if not support.get(one)):
            parts = [one for one, total in support.items() if total and one & pattern == one]
            if parts:
                maps[pattern] = maps[max(parts, key=lambda one: support[one])]
        return ContentMaps(maps, self.widths)


def most_patterns(widths: Widths) -> int:
    """Return how many combinations there may be, the empty one among them, of content with some widths."""
    text, words, attributes, vector = widths
    return 1 + (text + words > 0) + 2 * (attributes > 0) + 4 * (vector > 0)


def columns_of(pattern: int, widths: Widths) -> IntArray:
    """Return the rows of a map that a combination of parts uses, the constant first."""
    ends = np.cumsum((1, *widths))
    used = {name for i, part in enumerate(PARTS) if pattern >> i & 1 for name in INPUTS_OF[part]}
    parts = [np.arange(ends[i], ends[i + 1]) for i, name in enumerate(INPUTS) if name in used]
    return np.concatenate([np.zeros(1, np.int64), *parts]).astype(np.int64)


def with_one(content: FloatArray) -> FloatArray:
    """Return dense content (n, D_C) with the constant before it, (n, 1 + D_C)."""
    return np.concatenate([np.ones((len(content), 1), np.float32), content], axis=1)


def sum_of(moments: Sequence[Moments]) -> Moments:
    """Add up moments of different items."""
    first = moments[0]
    return Moments(
        first.widths,
        {pattern: np.sum([one.gram[pattern] for one in moments], axis=0) for pattern in first.gram},
        {pattern: np.sum([one.cross[pattern] for one in moments], axis=0) for pattern in first.cross},
    )
