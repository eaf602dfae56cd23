"""FAISS indexes that do not compare everything, searched with a tuned effort."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from indexer.arrays import FloatArray, IntArray
from indexer.building.factory import inner_of
from indexer.search.exact import Searched, scores_of
from indexer.search.gpu import (
    MOST_RESULTS,
    MOST_WIDTH,
    cagra_parameters,
    gpus,
    is_cagra,
    is_on_gpu,
)
from indexer.search.micro_batching import Found, MicroBatcher
from indexer.search.search_params import SearchParams, parameters

_FAISS: Any = faiss  # its stubs lack what SWIG adds
_KEPT = 64  # search parameters
Bits = npt.NDArray[np.uint8]


_FULL = (
    "IndexIVFFlat",
    "IndexHNSWFlat",
    "IndexHNSWCagra",
    "GpuIndexFlat",
    "GpuIndexFlatIP",
    "GpuIndexIVFFlat",
)


class AnnIndex:
    """Shards of one FAISS index over N rows.

    Args:
        shards: FAISS indexes; the rows of one follow those of the one before.
        effort: of a search that names none.
        float16: whether those on a card hold full vectors as halves.
    """

    def __init__(self, shards: Sequence[Any], search_params: SearchParams, *, float16: bool = False) -> None:
        self._shards = list(shards)
        self._starts = np.cumsum([0, *(shard.ntotal for shard in shards)]).tolist()
        self.search_params = search_params
        self._float16 = float16
        # FAISS's resources of a card are for one thread.
        self._together = [
            MicroBatcher(partial(_search_on_gpu, shard)) if is_on_gpu(shard) else None for shard in shards
        ]
        several = len(shards) > 1 and any(self._together)
        self._threads = ThreadPoolExecutor(gpus().count) if several else None
        self._kept: dict[tuple[int, SearchParams, int | None], tuple[Any, Bits | None, Bits | None]] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def dim(self) -> int:
        """Coordinates of a vector."""
        return int(self._shards[0].d)

    @property
    def most_probes(self) -> int:
        """The largest effort that means anything; 1 for a kind without probes."""
        inner = inner_of(self._shards[0])
        if hasattr(inner, "nlist"):  # an IVF, on a card or not
            return int(inner.nlist)
        if is_cagra(inner):
            return MOST_WIDTH
        return min(len(self), 8192) if isinstance(inner, faiss.IndexHNSW) else 1

    @cached_property
    def filters(self) -> bool:
        """Whether a search can be told which rows it may find."""
        try:
            bits = np.zeros((len(self) + 7) // 8, dtype=np.uint8)
            found = self.search(np.ones((1, self.dim), np.float32), 1, self.search_params, bits)
        except RuntimeError:
            return False
        return bool((found < 0).all())

    @cached_property
    def full(self) -> bool:
        """Whether FAISS holds the vectors as they are, so that its scores are exact."""
        kind = faiss.downcast_index(self._shards[0])
        return type(kind).__name__ in _FULL and not (self._float16 and is_on_gpu(kind))

    def search(
        self, queries: FloatArray, count: int, search_params: SearchParams, allowed: Bits | None = None
    ) -> IntArray:
        """Return candidate rows (B, shards · count) int64 for queries (B, D), −1 where there are no more.

        Args:
            queries: C-contiguous.
            count: at most, of each shard.
            search_params: the probes of it; `count` has its candidates in it already.
            allowed: little-endian bitmap of the rows that may be found.
        """

        def one(i: int) -> IntArray:
            return self._of_shard(i, queries, count, search_params, allowed)

        numbers = range(len(self._shards))
        parts = [*map(one, numbers)] if self._threads is None else [*self._threads.map(one, numbers)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def scored(
        self, vectors: FloatArray, queries: FloatArray, count: int, search_params: SearchParams,
        allowed: Bits | None = None, *, room: int = 0,
    ) -> Searched:  # fmt: skip
        """Return `effort.looked_at(count)` + room candidates or more with their exact scores, in any order.

        Where there are fewer, the rest is row −1 with score −inf.

        Args:
            vectors: (N, D), what FAISS was made from.
            queries: C-contiguous.
            count: at most, of each shard, before refinement.
            search_params: of the search.
            allowed: as in `search`.
            room: for candidates that the caller drops.
        """
        rows = self.search(queries, search_params.looked_at(count) + room, search_params, allowed)
        return rows, scores_of(vectors, queries, rows)

    def _of_shard(
        self, i: int, queries: FloatArray, count: int, search_params: SearchParams, allowed: Bits | None
    ) -> IntArray:
        shard, start, together = self._shards[i], self._starts[i], self._together[i]
        given, count = self._given(i, search_params, allowed), max(1, min(count, shard.ntotal))
        if together is None:
            rows: IntArray = shard.search(queries, count, params=given)[1]
        else:
            rows = together(queries, count, given)[1]
        return rows if not start else np.where(rows >= 0, rows + start, -1)

    def _given(self, i: int, search_params: SearchParams, allowed: Bits | None) -> Any:
        """Return the search parameters of a shard; making them can cost as much as a small search."""
        key = i, search_params, None if allowed is None else id(allowed)
        kept = self._kept.get(key)
        if kept is None:
            part = selector = None
            if allowed is not None:
                part = np.ascontiguousarray(allowed[self._starts[i] // 8 : (self._starts[i + 1] + 7) // 8])
                selector = _FAISS.IDSelectorBitmap(part)
            # With what `id` names, which must not be another's while it is a key.
            kept = parameters(self._shards[i], search_params, selector), allowed, part
            if len(self._kept) >= _KEPT:
                self._kept = {}
            self._kept[key] = kept
        return kept[0]


def _search_on_gpu(shard: Any, queries: FloatArray, count: int, given: Any) -> Found:
    """Return scores and rows of a search on a card; FAISS's names for them are the other way round."""
    if is_cagra(shard):
        count = min(count, MOST_WIDTH)
        given = cagra_parameters(given, count)
    scores, rows = shard.search(queries, min(count, MOST_RESULTS), params=given)
    return scores, rows
