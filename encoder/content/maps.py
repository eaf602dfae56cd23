"""Item vectors from content: a ridge regression for each combination of parts that an item may have."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
MOST_ITEMS = 100_000  # that a regression is made over: the most popular ones
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


class Moments:
    """Weighted second moments of content and item vectors of some items, from which every map is solved.

    Shapes, for each combination of parts over the items that have at least these:
        gram: (8, 1 + D_C, 1 + D_C) float64; cross: (8, 1 + D_C, D) float64.
    """

    def __init__(self, gram: Floats, cross: Floats) -> None:
        self.gram, self.cross = gram, cross

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
        width, dim = 1 + sum(content.widths), vectors.shape[1]
        gram, cross = np.zeros((PATTERNS, width, width)), np.zeros((PATTERNS, width, dim))
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            part = content.take(some)
            has = patterns_of(part.present)
            x = with_one(part.dense()).astype(np.float64)
            y, w = vectors[some].astype(np.float64), weights[some]
            for pattern in patterns.tolist():
                enough = (has & pattern) == pattern
                weighed = x[enough] * w[enough, None]
                gram[pattern] += weighed.T @ x[enough]
                cross[pattern] += weighed.T @ y[enough]
        return cls(gram, cross)

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(self.gram - other.gram, self.cross - other.cross)

    def solve(self, settings: ContentSettings, widths: Widths, patterns: IntArray) -> ContentMaps:
        """Solve the ridge regression of each wanted combination; the constant is not shrunk."""
        maps = np.zeros(self.cross.shape, dtype=np.float32)
        for pattern in patterns.tolist():
            used = columns_of(pattern, widths)
            gram, cross = self.gram[pattern][np.ix_(used, used)], self.cross[pattern][used]
            total = gram[0, 0]
            if not total:
                continue
            mean_x, mean_y = gram[0, 1:] / total, cross[0] / total
            centred = gram[1:, 1:] - total * np.outer(mean_x, mean_x)
            towards = cross[1:] - total * np.outer(mean_x, mean_y)
            strength = settings.ridge * np.trace(centred) / max(1, len(centred)) + 1e-9 * total
            slopes = np.linalg.solve(centred + strength * np.eye(len(centred)), towards)
            maps[pattern][used[1:]] = slopes
            maps[pattern][0] = mean_y - mean_x @ slopes
        return ContentMaps(maps[: int(patterns.max(initial=0)) + 1], widths)


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
    return Moments(sum(one.gram for one in moments), sum(one.cross for one in moments))  # type: ignore[arg-type]
