"""The rows that a filter allows, and what finds candidates among them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from indexer.files import FloatArray, IntArray
from indexer.filters import Filter
from indexer.search.exact import Searched
from indexer.search.lists import Bits

if TYPE_CHECKING:
    from indexer.search.ann import SearchParams

_NO_ROWS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Allowed:
    """The rows that a filter allows.

    Shapes:
        main: (n,) int64, sorted, of the main part; None for all.
        appended: (m,) int64, sorted, of the appended rows, counted from 0; None for all.
        denied: (d,) int64, of both; allowed otherwise, but denied by id.
        bits: `main` as a little-endian bitmap where the filter cache holds one; None has it made when needed.

    Attributes:
        wanted: the filter itself; None where it is not known.
    """

    main: IntArray | None = None
    appended: IntArray | None = None
    denied: IntArray = field(default_factory=lambda: _NO_ROWS)
    bits: Bits | None = None
    wanted: Filter | None = None

    def bits_among(self, total: int) -> Bits | None:
        """Return `main` as a bitmap of so many rows; None for all of them."""
        if self.main is None or self.bits is not None:
            return self.bits
        return bits_of(self.main, total)


ALL_ALLOWED = Allowed()


class CandidateSearch(Protocol):
    """Finds candidates in the main part of an index; their scores are computed from the stored vectors.

    What it misses lowers the ANN recall and nothing else: a search that gets too few goes on wider, and
    compares every vector at last.
    """

    @property
    def search_params(self) -> "SearchParams":
        """What it was tuned to."""

    @property
    def dim(self) -> int:
        """Coordinates of a vector."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def takes(self, search_params: "SearchParams") -> bool:
        """Tell whether a search with a filter can be given these parameters."""

    def candidates(
        self,
        vectors: FloatArray,
        queries: FloatArray,
        count: int,
        search_params: "SearchParams",
        allowed: Allowed,
        *,
        spare: int = 0,
    ) -> Searched:
        """Return rows (B, n) and their exact scores, unsorted, for `search_params.candidates(count)` + spare.

        Where there are fewer, row −1 with score −inf follows.

        Args:
            vectors: (N, D) of the main part.
            queries: (B, D) float32, C-contiguous.
            count: results wanted.
            search_params: how much to look at.
            allowed: the rows to be found.
            spare: further candidates, in place of those that the caller drops.
        """


def bits_of(rows: IntArray, total: int) -> Bits:
    """Return rows of `total` as a little-endian bitmap."""
    mask = np.zeros(total, dtype=bool)
    mask[rows] = True
    return np.packbits(mask, bitorder="little")
