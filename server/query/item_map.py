"""The items of an index as points in two dimensions: principal components of their vectors."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encoder.views import FloatArray
from indexer.delta import IndexState
from indexer.files import IntArray
from indexer.filters import Filter
from indexer.index import Index

MOST_POINTS = 100_000
_ROWS_AT_ONCE = 16_384
NO_GROUP = 255


@dataclass(frozen=True)
class ItemMap:
    """Places of items on the two axes along which their vectors differ most.

    Shapes:
        axes: (2, D) float32, orthonormal rows; mean: (2,), the place of the mean vector.
        rows: (n,) int64, increasing; places: (n, 2) float32.

    Attributes:
        explained: share of the variance along each axis.
        items: that have a vector; n is less where they are too many: a sample, which the axes are of, too.
        state: of the index, in which the rows are meant.
    """

    axes: FloatArray
    mean: FloatArray
    explained: tuple[float, float]
    rows: IntArray
    places: FloatArray
    items: int
    state: IndexState


def map_items(index: Index, most: int = MOST_POINTS) -> ItemMap:
    """Place the items of an index by the principal components of their vectors.

    The mean is taken away first. Each axis points to where its longest coordinate is positive, so that a map
    that is made again is not mirrored. Of more than `most` items a sample is placed, the same each time.

    Source:
        Pearson 1901, On lines and planes of closest fit to systems of points in space.
    """
    state, dim = index.delta.state, index.dim
    main = np.flatnonzero(state.live(np.arange(len(index.main))))
    appended = state.vector_rows + len(index.main)
    rows = np.concatenate([main, appended[state.live(appended)]]).astype(np.int64)
    items = len(rows)
    if items > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    total, products = np.zeros(dim), np.zeros((dim, dim))
    for vectors in _vectors(index, rows, state):  # (m, D)
        total += vectors.sum(axis=0, dtype=np.float64)
        products += vectors.T @ vectors
    count = max(len(rows), 1)
    mean = total / count
    values, components = np.linalg.eigh(products / count - np.outer(mean, mean))  # increasing
    values = np.maximum(values, 0.0)
    axes = np.zeros((2, dim), dtype=np.float32)
    for place, axis in enumerate(components.T[::-1][:2]):
        axes[place] = axis * np.sign(axis[np.abs(axis).argmax()])
    places = np.empty((len(rows), 2), dtype=np.float32)
    start = 0
    for vectors in _vectors(index, rows, state):
        places[start : start + len(vectors)] = vectors @ axes.T
        start += len(vectors)
    middle = (axes @ mean).astype(np.float32)
    variance = values.sum() or 1.0
    first, second = (float(one) / variance for one in [*values[::-1], 0.0][:2])
    return ItemMap(axes, middle, (first, second), rows, places - middle, items, state)


def groups_of(index: Index, found: ItemMap, filters: Sequence[Filter]) -> npt.NDArray[np.uint8]:
    """Return the number of the first filter that lets each item of a map pass (n,); NO_GROUP for none.

    Raises:
        ReindexNeededError: a filter needs what the files of an older index do not hold.
    """
    groups = np.full(len(found.rows), NO_GROUP, dtype=np.uint8)
    for number in range(len(filters) - 1, -1, -1):
        passing = index.passing(filters[number], found.state)
        groups[np.isin(found.rows, passing, assume_unique=True)] = number
    return groups


class ItemMaps:
    """The map of the index that was asked for last, which is made again when its items change."""

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._kept: tuple[str, int, ItemMap] | None = None

    def of(self, index: Index) -> ItemMap:
        """Return the map of an index; one call makes it, and others wait for it."""
        with self._making:
            version = index.delta.state.version
            if self._kept is None or self._kept[:2] != (index.index_id, version):
                made = map_items(index)
                self._kept = index.index_id, made.state.version, made
            return self._kept[2]


def _vectors(index: Index, rows: IntArray, state: IndexState) -> Iterator[FloatArray]:
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield index.vectors_of(rows[start : start + _ROWS_AT_ONCE], state)
