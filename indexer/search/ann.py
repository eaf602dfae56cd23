"""FAISS indexes that do not compare everything, searched with a tuned effort."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from indexer.files import FloatArray, IntArray, faiss_file
from indexer.search.exact import Searched, scores_of
from indexer.search.gpu import (
    MOST_RESULTS,
    MOST_WIDTH,
    Found,
    MicroBatcher,
    cagra_parameters,
    gpus,
    inner_of,
    is_cagra,
    is_on_gpu,
    to_gpu,
)

_FAISS: Any = faiss  # its stubs lack what SWIG adds
_LEAST_BEFORE = 30
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
EXACT = "Flat"
_LANES = 16  # FAISS compares codes of another width one coordinate at a time, ten times slower


@dataclass(frozen=True)
class SearchParams:
    """How much a search looks at.

    Attributes:
        probes: lists of an IVF (nprobe) or candidates of a graph (efSearch); other kinds have none.
        refine: candidates per result asked for, of which the best by exact score stay.
        least: candidates, however few results are asked for; what codes lose hurts a short list most.
    """

    probes: int = 1
    refine: int = 1
    least: int = 0

    def looked_at(self, count: int) -> int:
        """Return the candidates of a search for `count` results."""
        return max(count * self.refine, self.least)

    def times(self, factor: int) -> "SearchParams":
        """Return it with so many times the probes."""
        return self if factor == 1 else replace(self, probes=self.probes * factor)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SearchParams":
        """Return what `as_json` wrote, other keys beside it or not.

        Indexes of the first versions do not say `least`: they were tuned with as many as this.
        """
        probes, refine = values["probes"], values["refine"]
        return cls(probes, refine, values.get("least", _LEAST_BEFORE * refine if refine > 1 else 0))

    def as_json(self) -> dict[str, int]:
        """Return it as plain JSON values."""
        return asdict(self)


def parameters(index: Any, search_params: SearchParams, selector: Any) -> Any:
    """Return the search parameters for an index, on a card or not; None where it takes none.

    For a CAGRA graph on a card it is the width, since its parameters hang on the number of results, too.

    Raises:
        RuntimeError: the kind takes no selector; FAISS raises this as well.
    """
    kind = faiss.downcast_index(index)
    if is_cagra(kind):
        if selector is not None:
            raise RuntimeError("a CAGRA graph on a card takes no filter")
        return search_params.probes
    given = {} if selector is None else {"sel": selector}
    if isinstance(kind, faiss.IndexPreTransform):
        inner = parameters(kind.index, search_params, selector)
        return _FAISS.SearchParametersPreTransform(index_params=inner)
    if hasattr(kind, "nlist"):
        return _FAISS.SearchParametersIVF(nprobe=search_params.probes, **given)
    if isinstance(kind, faiss.IndexHNSW):
        return _FAISS.SearchParametersHNSW(efSearch=search_params.probes, **given)
    return _FAISS.SearchParameters(**given) if given else None


@dataclass(frozen=True)
class FilterPolicy:
    """When to compare every allowed item, and how hard to search otherwise.

    Attributes:
        scan_share: up to this share of the items allowed, all allowed ones are compared.
        efforts: for larger shares, (share, effort): the effort that reached the asked ANN recall at that
            share, in falling order of shares; empty where an exact search passes over everything instead.
    """

    scan_share: float = 1.0
    efforts: tuple[tuple[float, SearchParams], ...] = ()

    def search_params(self, allowed: int, items: int) -> SearchParams | None:
        """Return the effort of a search among so many allowed items; None where they are to be scanned."""
        share = allowed / max(1, items)
        if share <= self.scan_share:
            return None
        known = [search_params for at, search_params in self.efforts if at <= share]
        return known[0] if known else None

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        efforts = [{"share": share, **search_params.as_json()} for share, search_params in self.efforts]
        return {"scan_share": self.scan_share, "efforts": efforts}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "FilterPolicy":
        """Return what `as_json` wrote."""
        efforts = tuple((e["share"], SearchParams.from_json(e)) for e in values["efforts"])
        return cls(values["scan_share"], efforts)


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


def open_searched(directory: Path, manifest: dict[str, Any], vectors: FloatArray) -> AnnIndex | None:
    """Return what searches the main part of an index; None where the CPU compares every vector (N, D)."""
    float16 = bool(manifest.get("card_float16", False))
    if manifest["factory"] == EXACT:
        return exact_on_gpus(vectors, float16=float16) if gpus().count and len(vectors) else None
    files = [directory / faiss_file(shard) for shard in range(manifest["shards"])]
    return open_shards(files, SearchParams.from_json(manifest), float16=float16)


def open_shards(
    paths: Sequence[Path], search_params: SearchParams, *, cpu: bool = False, float16: bool = False
) -> AnnIndex:
    """Return the shards in some FAISS files, memory-mapped where FAISS can, or on the cards by turns.

    Args:
        paths: the rows of one follow those of the one before.
        search_params: of a search that names none.
        cpu: leave the cards alone.
        float16: hold full vectors on cards as halves.
    """
    flags = faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY
    read = [faiss.read_index(str(path), flags) for path in paths]
    placed = read if cpu else [to_gpu(shard, i, float16=float16) for i, shard in enumerate(read)]
    return AnnIndex(placed, search_params, float16=float16)


def exact_on_gpus(vectors: FloatArray, *, float16: bool = False) -> AnnIndex:
    """Return what compares all of vectors (N, D), as many on each card; N is at least 1.

    With `float16` the best by halves, twice as many as are asked for, are compared by exact scores.
    """
    shards = []
    size = 8 * -(-len(vectors) // (8 * max(1, gpus().count)))  # so that a bitmap splits between bytes
    for i, start in enumerate(range(0, len(vectors), size)):
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(np.ascontiguousarray(vectors[start : start + size]))
        shards.append(to_gpu(index, i, float16=float16))
    return AnnIndex(shards, SearchParams(refine=2 if float16 else 1), float16=float16)


def padded(dim: int) -> int:
    """Return the least width for D coordinates at which FAISS is quick with 8-bit codes."""
    return _LANES * -(-dim // _LANES)
