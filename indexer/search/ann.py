"""FAISS indexes over the main part: their search parameters, opening them, and searching them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from indexer.files import FloatArray, IntArray, faiss_file
from indexer.search.allowed import Allowed
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
from indexer.search.lists import Bits, FilteredSearch, Lists, Portions

_FAISS: Any = faiss  # its stubs lack what SWIG adds
_FIRST_LEAST = 30
_CACHED_PARAMETERS = 64
_UNCOMPRESSED = (
    "IndexIVFFlat",
    "IndexHNSWFlat",
    "IndexHNSWCagra",
    "GpuIndexFlat",
    "GpuIndexFlatIP",
    "GpuIndexIVFFlat",
)
EXACT = "Flat"  # the factory of an index that compares every vector
_LANES = 16  # FAISS compares codes of another width one coordinate at a time, ten times slower


@dataclass(frozen=True)
class SearchParams:
    """How many lists and candidates a search looks at.

    Attributes:
        nprobe: lists of an IVF that are probed. An index has lists or a graph: for a graph it is `ef_search`.
        refine: candidates per result; the best of them by exact score are the results.
        least: candidates, however few results are wanted: compressed codes lose most for a short list.
        portions: of a search with a filter in lists, which probes as many as hold them instead of `nprobe`.
    """

    nprobe: int = 1
    refine: int = 1
    least: int = 0
    portions: Portions | None = None

    @property
    def ef_search(self) -> int:
        """FAISS's efSearch: the candidates that the search of a graph keeps."""
        return self.nprobe

    def candidates(self, count: int) -> int:
        """Return the number of candidates of a search for `count` results."""
        return max(count * self.refine, self.least)

    def times(self, factor: int) -> "SearchParams":
        """Return parameters with `factor` times the nprobe or efSearch, or the portions."""
        if factor == 1:
            return self
        portions = None if self.portions is None else self.portions.times(factor)
        return replace(self, nprobe=self.nprobe * factor, portions=portions)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SearchParams":
        """Read what `as_json` wrote, which may lie among other keys.

        Manifests of the first versions have no `least`: their indexes were tuned with _FIRST_LEAST · refine.
        """
        refine = values["refine"]
        least = values.get("least", _FIRST_LEAST * refine if refine > 1 else 0)
        portions = values.get("portions")
        return cls(values["probes"], refine, least, None if portions is None else Portions(**portions))

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; manifests call nprobe and efSearch `probes`."""
        values = {"probes": self.nprobe, "refine": self.refine, "least": self.least}
        return values if self.portions is None else {**values, "portions": asdict(self.portions)}


def faiss_parameters(index: Any, search_params: SearchParams, selector: Any) -> Any:
    """Make FAISS's parameters of a search, on the CPU or a card; None for a kind that takes none.

    For a CAGRA graph on a card it is the width alone: `cagra_parameters` also needs the number of results.

    Raises:
        RuntimeError: the kind takes no selector; FAISS raises this as well.
    """
    kind = faiss.downcast_index(index)
    if is_cagra(kind):
        if selector is not None:
            raise RuntimeError("a CAGRA graph on a card takes no filter")
        return search_params.ef_search
    given = {} if selector is None else {"sel": selector}
    if isinstance(kind, faiss.IndexPreTransform):
        inner = faiss_parameters(kind.index, search_params, selector)
        return _FAISS.SearchParametersPreTransform(index_params=inner)
    if hasattr(kind, "nlist"):
        return _FAISS.SearchParametersIVF(nprobe=search_params.nprobe, **given)
    if isinstance(kind, faiss.IndexHNSW):
        return _FAISS.SearchParametersHNSW(efSearch=search_params.ef_search, **given)
    return _FAISS.SearchParameters(**given) if given else None


@dataclass(frozen=True)
class FilterPolicy:
    """When a filtered search compares every allowed item, and its search parameters otherwise.

    Attributes:
        scan_share: up to this share of the items, all allowed ones are compared.
        by_share: (share, parameters) for larger shares, falling: the parameters that reached the ANN recall
            at that share; empty where an exact search passes over all items instead.
    """

    scan_share: float = 1.0
    by_share: tuple[tuple[float, SearchParams], ...] = ()

    def search_params(self, allowed: int, items: int) -> SearchParams | None:
        """Choose the parameters for so many allowed of all items; None where they are to be scanned."""
        share = allowed / max(1, items)
        if share <= self.scan_share:
            return None
        return next((params for at, params in self.by_share if at <= share), None)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        efforts = [{"share": share, **params.as_json()} for share, params in self.by_share]
        return {"scan_share": self.scan_share, "efforts": efforts}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "FilterPolicy":
        """Read what `as_json` wrote."""
        by_share = tuple((one["share"], SearchParams.from_json(one)) for one in values["efforts"])
        return cls(values["scan_share"], by_share)


class AnnIndex:
    """Shards of one FAISS index over N rows.

    Args:
        shards: FAISS indexes; the rows of one follow those of the one before.
        search_params: what the index was tuned to.
        float16: whether those on a card hold full vectors as halves.
    """

    def __init__(self, shards: Sequence[Any], search_params: SearchParams, *, float16: bool = False) -> None:
        self._shards = list(shards)
        self._starts = np.cumsum([0, *(shard.ntotal for shard in shards)]).tolist()
        self.search_params = search_params
        self._float16 = float16
        # FAISS's resources of a card are for one thread.
        self._batchers = [
            MicroBatcher(partial(_search_on_gpu, shard)) if is_on_gpu(shard) else None for shard in shards
        ]
        several = len(shards) > 1 and any(self._batchers)
        self._threads = ThreadPoolExecutor(gpus().count) if several else None
        self._parameters: dict[
            tuple[int, SearchParams, int | None], tuple[Any, Bits | None, Bits | None]
        ] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def dim(self) -> int:
        """Coordinates of a vector."""
        return int(self._shards[0].d)

    @property
    def max_nprobe(self) -> int:
        """The largest nprobe or efSearch that makes a difference; 1 for a kind with neither."""
        inner = inner_of(self._shards[0])
        if hasattr(inner, "nlist"):  # an IVF, on a card or not
            return int(inner.nlist)
        if is_cagra(inner):
            return MOST_WIDTH
        return min(len(self), 8192) if isinstance(inner, faiss.IndexHNSW) else 1

    @cached_property
    def filtered_lists(self) -> FilteredSearch | None:
        """The filtered search of its lists; None for a kind without, on a card, or with packed codes."""
        lists = [Lists.of(shard) for shard in self._shards]
        known = [each for each in lists if each is not None]
        return FilteredSearch(known, self._starts) if len(known) == len(lists) else None

    def takes(self, search_params: SearchParams) -> bool:
        """Tell whether a search with a filter can be given these parameters."""
        return self.filters if search_params.portions is None else self.filtered_lists is not None

    @cached_property
    def filters(self) -> bool:
        """Whether the kind takes a filter."""
        try:
            bits = np.zeros((len(self) + 7) // 8, dtype=np.uint8)
            found = self.search(np.ones((1, self.dim), np.float32), 1, self.search_params, bits)
        except RuntimeError:
            return False
        return bool((found < 0).all())

    @cached_property
    def full(self) -> bool:
        """Whether FAISS holds uncompressed vectors, so that its scores are exact."""
        kind = faiss.downcast_index(self._shards[0])
        return type(kind).__name__ in _UNCOMPRESSED and not (self._float16 and is_on_gpu(kind))

    def search(
        self, queries: FloatArray, count: int, search_params: SearchParams, allowed: Bits | None = None
    ) -> IntArray:
        """Return candidate rows (B, shards · count) int64 for queries (B, D), −1 where there are no more.

        Args:
            queries: C-contiguous.
            count: candidates of each shard, at most; `refine` and `least` are not applied to it.
            search_params: nprobe, efSearch or portions.
            allowed: little-endian bitmap of the rows that may be found.

        Raises:
            RuntimeError: portions are given with a filter, and `takes` says no.
        """

        def one(i: int) -> IntArray:
            return self._of_shard(i, queries, count, search_params, allowed)

        numbers, portions = range(len(self._shards)), search_params.portions
        if portions is not None and allowed is not None:
            if self.filtered_lists is None:
                raise RuntimeError("this kind of index has no lists to choose among")
            found = self.filtered_lists.search(queries, max(1, min(count, len(self))), portions, allowed)
            parts = [self._of_all(i, rows) for i, rows in enumerate(found)]
        elif self._threads is None:
            parts = [*map(one, numbers)]
        else:
            parts = [*self._threads.map(one, numbers)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def scored(
        self, vectors: FloatArray, queries: FloatArray, count: int, search_params: SearchParams,
        allowed: Bits | None = None, *, spare: int = 0,
    ) -> Searched:  # fmt: skip
        """Search; return `search_params.candidates(count)` + spare rows or more, exactly scored, unsorted.

        Where there are fewer, row −1 with score −inf follows.

        Args:
            vectors: (N, D), what FAISS was made from.
            queries: C-contiguous.
            count: results wanted of each shard.
            search_params: nprobe or efSearch, refine and least.
            allowed: as in `search`.
            spare: further candidates, in place of those that the caller drops.
        """
        rows = self.search(queries, search_params.candidates(count) + spare, search_params, allowed)
        return rows, scores_of(vectors, queries, rows)

    def candidates(
        self, vectors: FloatArray, queries: FloatArray, count: int, search_params: SearchParams,
        allowed: Allowed, *, spare: int = 0,
    ) -> Searched:  # fmt: skip
        """Search the rows that a filter allows; otherwise as `scored`."""
        bits = allowed.bits_among(len(self))
        return self.scored(vectors, queries, count, search_params, bits, spare=spare)

    def _of_shard(
        self, i: int, queries: FloatArray, count: int, search_params: SearchParams, allowed: Bits | None
    ) -> IntArray:
        shard, batcher = self._shards[i], self._batchers[i]
        given, count = self._parameters_of(i, search_params, allowed), max(1, min(count, shard.ntotal))
        if batcher is None:
            rows: IntArray = shard.search(queries, count, params=given)[1]
        else:
            rows = batcher(queries, count, given)[1]
        return self._of_all(i, rows)

    def _of_all(self, i: int, rows: IntArray) -> IntArray:
        """Return rows of a shard as rows of the index."""
        start = self._starts[i]
        return rows if not start else np.where(rows >= 0, rows + start, -1)

    def _parameters_of(self, i: int, search_params: SearchParams, allowed: Bits | None) -> Any:
        """Return FAISS's parameters for a shard, cached: to make them can cost as much as a small search."""
        key = i, search_params, None if allowed is None else id(allowed)
        made = self._parameters.get(key)
        if made is None:
            part = selector = None
            if allowed is not None:
                part = np.ascontiguousarray(allowed[self._starts[i] // 8 : (self._starts[i + 1] + 7) // 8])
                selector = _FAISS.IDSelectorBitmap(part)
            # The bitmap itself is kept, too: its `id` must name no other one while it is a key.
            made = faiss_parameters(self._shards[i], search_params, selector), allowed, part
            if len(self._parameters) >= _CACHED_PARAMETERS:
                self._parameters = {}
            self._parameters[key] = made
        return made[0]


def _search_on_gpu(shard: Any, queries: FloatArray, count: int, given: Any) -> Found:
    """Search on a card, within the limits of its kernels; return scores and rows."""
    if is_cagra(shard):
        count = min(count, MOST_WIDTH)
        given = cagra_parameters(given, count)
    scores, rows = shard.search(queries, min(count, MOST_RESULTS), params=given)
    return scores, rows


def open_ann(directory: Path, manifest: dict[str, Any], vectors: FloatArray) -> AnnIndex | None:
    """Open FAISS over the main part of an index; None where the CPU compares every vector (N, D)."""
    float16 = bool(manifest.get("card_float16", False))
    if manifest["factory"] == EXACT:
        return exact_on_gpus(vectors, float16=float16) if gpus().count and len(vectors) else None
    files = [directory / faiss_file(shard) for shard in range(manifest["shards"])]
    return open_shards(files, SearchParams.from_json(manifest), float16=float16)


def open_shards(
    paths: Sequence[Path], search_params: SearchParams, *, cpu: bool = False, float16: bool = False
) -> AnnIndex:
    """Open the shards in some FAISS files, memory-mapped where FAISS can, or on the cards by turns.

    Args:
        paths: the rows of one follow those of the one before.
        search_params: what the index was tuned to.
        cpu: use no card.
        float16: hold full vectors on cards as halves.
    """
    flags = faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY
    read = [faiss.read_index(str(path), flags) for path in paths]
    placed = read if cpu else [to_gpu(shard, i, float16=float16) for i, shard in enumerate(read)]
    return AnnIndex(placed, search_params, float16=float16)


def exact_on_gpus(vectors: FloatArray, *, float16: bool = False) -> AnnIndex:
    """Put all of vectors (N, D), N at least 1, on the cards, an equal share on each, to be compared there.

    With `float16`, twice as many candidates as results are found by halves and compared by exact scores.
    """
    shards = []
    size = 8 * -(-len(vectors) // (8 * max(1, gpus().count)))  # so that a bitmap splits between bytes
    for i, start in enumerate(range(0, len(vectors), size)):
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(np.ascontiguousarray(vectors[start : start + size]))
        shards.append(to_gpu(index, i, float16=float16))
    return AnnIndex(shards, SearchParams(refine=2 if float16 else 1), float16=float16)


def code_width(dim: int) -> int:
    """Return the least width of at least `dim` coordinates at which FAISS compares 8-bit codes quickly."""
    return _LANES * -(-dim // _LANES)
