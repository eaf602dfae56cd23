"""Bare libraries to measure our search beside: FAISS, hnswlib and usearch."""

import importlib.util
import logging
from collections.abc import Sequence
from typing import Any, Protocol

import faiss
import numpy as np

from indexer.files import FloatArray, IntArray, faiss_file
from indexer.index import Index
from indexer.search import Bits, SearchParams, inner_of

log = logging.getLogger(__name__)

M, EF_CONSTRUCTION = 32, 40  # FAISS's own for HNSW32
_FAISS: Any = faiss  # its stubs lack what SWIG adds
_STEP = 65_536  # vectors at a time


class Bare(Protocol):
    """A library that finds rows; `search_params` is its nprobe or efSearch."""

    name: str

    def find(self, queries: FloatArray, k: int, search_params: int) -> IntArray:
        """Return rows (B, k) of queries (B, D)."""

    def use_threads(self, count: int) -> None:
        """Let searches use so many threads."""


class BareFaiss:
    """FAISS alone, over the file that our index searches.

    Where ours looks again at more candidates than asked for, this is FAISS's own refinement with as many.

    Args:
        index: ours, without changes.
        directory: of it.
    """

    def __init__(self, index: Index, directory: Any) -> None:
        self.name = "faiss"
        self._given: dict[tuple[int, int | None, float], Any] = {}
        self._refined: Any = None
        self._effort = search_params_of(index)
        if index.approximate is None:
            self._faiss: Any = _flat(index.main.vectors)
            self._kind: Any = self._faiss
            return
        shards = [faiss.read_index(str(directory / faiss_file(i))) for i in range(index.manifest["shards"])]
        self._faiss = self._kind = shards[0]
        if len(shards) > 1:
            self._shards, self._faiss = shards, _FAISS.IndexShards(index.dim, False, True)
            for shard in shards:
                self._faiss.add_shard(shard)
        if not index.approximate.full:
            self._flat = _flat(index.main.vectors)
            self._refined = _FAISS.IndexRefine(self._faiss, self._flat)

    def find(self, queries: FloatArray, k: int, search_params: int, allowed: Bits | None = None) -> IntArray:
        """Return rows (B, k), of those in a bitmap alone where there is one."""
        factor = self._effort.candidates(k) / k
        refines = self._refined is not None and factor > 1
        given = self._parameters(search_params, allowed, factor if refines else 1.0)
        rows: IntArray = (self._refined if refines else self._faiss).search(queries, k, params=given)[1]
        return rows

    def use_threads(self, count: int) -> None:
        """Let searches use so many threads."""
        faiss.omp_set_num_threads(count)

    def _parameters(self, search_params: int, allowed: Bits | None, factor: float) -> Any:
        """Return search parameters, made once for each effort, bitmap and refinement."""
        key = search_params, None if allowed is None else id(allowed), factor
        if key not in self._given:
            selector = None if allowed is None else _FAISS.IDSelectorBitmap(allowed)
            given = _of_kind(self._kind, search_params, selector)
            if factor > 1:
                given = _FAISS.IndexRefineSearchParameters(k_factor=factor, base_index_params=given)
            self._given[key] = given
        return self._given[key]


class BareHnswlib:
    """hnswlib over the vectors of our index."""

    def __init__(self, vectors: FloatArray) -> None:
        import hnswlib

        self.name = f"hnswlib M={M}"
        self._index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        self._index.init_index(max_elements=len(vectors), M=M, ef_construction=EF_CONSTRUCTION)
        for start in range(0, len(vectors), _STEP):
            self._index.add_items(vectors[start : start + _STEP])

    def find(self, queries: FloatArray, k: int, search_params: int) -> IntArray:
        """Return rows (B, k)."""
        self._index.set_ef(max(k, search_params))
        rows: IntArray = self._index.knn_query(queries, k)[0].astype(np.int64)
        return rows

    def use_threads(self, count: int) -> None:
        """Let searches use so many threads."""
        self._index.set_num_threads(count)


class BareUsearch:
    """usearch over the vectors of our index."""

    def __init__(self, vectors: FloatArray) -> None:
        from usearch.index import Index as Usearch

        self.name = f"usearch M={M}"
        self._threads = 0
        self._index: Any = Usearch(
            ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=M, expansion_add=EF_CONSTRUCTION
        )
        for start in range(0, len(vectors), _STEP):
            some = vectors[start : start + _STEP]
            self._index.add(np.arange(start, start + len(some)), some)

    def find(self, queries: FloatArray, k: int, search_params: int) -> IntArray:
        """Return rows (B, k)."""
        self._index.expansion_search = max(k, search_params)
        found = self._index.search(queries, k, threads=self._threads)
        return np.asarray(found.keys).astype(np.int64).reshape(len(queries), -1)

    def use_threads(self, count: int) -> None:
        """Let searches use so many threads."""
        self._threads = count


def graph_libraries(vectors: FloatArray) -> Sequence[Bare]:
    """Return the libraries that are installed, built over vectors (N, D)."""
    made: list[Bare] = []
    for package, kind in (("hnswlib", BareHnswlib), ("usearch", BareUsearch)):
        if importlib.util.find_spec(package) is None:
            log.info("bench index: %s is not installed (pip install 'triptych[bench]'): left out", package)
            continue
        log.info("bench index: building %s", package)
        made.append(kind(vectors))
    return made


def search_params_of(index: Index) -> SearchParams:
    """Return what a search of an index without a filter looks at."""
    return index.approximate.search_params if index.approximate else SearchParams()


def _flat(vectors: FloatArray) -> Any:
    flat = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, len(vectors), _STEP):
        flat.add(np.ascontiguousarray(vectors[start : start + _STEP]))
    return flat


def _of_kind(index: Any, search_params: int, selector: Any) -> Any:
    given = {} if selector is None else {"sel": selector}
    if isinstance(faiss.downcast_index(index), faiss.IndexPreTransform):
        inner = _of_kind(inner_of(index), search_params, selector)
        return _FAISS.SearchParametersPreTransform(index_params=inner)
    if isinstance(inner_of(index), faiss.IndexIVF):
        return _FAISS.SearchParametersIVF(nprobe=search_params, **given)
    if isinstance(inner_of(index), faiss.IndexHNSW):
        return _FAISS.SearchParametersHNSW(efSearch=search_params, **given)
    return _FAISS.SearchParameters(**given) if given else None
