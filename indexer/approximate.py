"""FAISS indexes that do not compare everything, searched with a tuned effort."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from indexer.arrays import FloatArray, IntArray
from indexer.exact import Searched, scores_of

_FAISS: Any = faiss  # its stubs lack what SWIG adds
_KEPT = 64  # search parameters
_REFINED = 30  # results, at least, that a refinement is reckoned for
Bits = npt.NDArray[np.uint8]


class FactoryError(ValueError):
    """A FAISS factory string is not understood."""

    def __init__(self, factory: str, reason: str) -> None:
        super().__init__(f"FAISS does not understand the factory {factory!r}: {reason}")
        self.factory = factory


@dataclass(frozen=True)
class Effort:
    """How much a search looks at.

    Attributes:
        probes: lists of an IVF (nprobe) or candidates of an HNSW graph (efSearch); other kinds have none.
        refine: candidates per result asked for, of which the best by exact score stay.
    """

    probes: int = 1
    refine: int = 1

    def times(self, factor: int) -> "Effort":
        """Return it with so many times the probes."""
        return self if factor == 1 else Effort(self.probes * factor, self.refine)

    def as_json(self) -> dict[str, int]:
        """Return it as plain JSON values."""
        return asdict(self)


def empty_faiss(dim: int, factory: str) -> Any:
    """Return an empty FAISS index with inner-product metric.  Raises: FactoryError."""
    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise FactoryError(factory, str(error).rpartition(": ")[2]) from error


class Approximate:
    """Shards of one FAISS index over N rows.

    Args:
        shards: FAISS indexes; the rows of one follow those of the one before.
        effort: of a search that names none.
    """

    def __init__(self, shards: Sequence[Any], effort: Effort) -> None:
        self._shards = list(shards)
        self._starts = np.cumsum([0, *(shard.ntotal for shard in shards)]).tolist()
        self.effort = effort
        self._kept: dict[tuple[int, Effort, int | None], tuple[Any, Bits | None, Bits | None]] = {}

    @classmethod
    def open(cls, paths: Sequence[Path], effort: Effort) -> "Approximate":
        """Return the shards in some files, memory-mapped where FAISS can."""
        flags = faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY
        return cls([faiss.read_index(str(path), flags) for path in paths], effort)

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
        if isinstance(inner, faiss.IndexIVF):
            return int(inner.nlist)
        return min(len(self), 8192) if isinstance(inner, faiss.IndexHNSW) else 1

    @cached_property
    def filters(self) -> bool:
        """Whether a search can be told which rows it may find."""
        try:
            bits = np.zeros((len(self) + 7) // 8, dtype=np.uint8)
            found = self.search(np.ones((1, self.dim), np.float32), 1, self.effort, bits)
        except RuntimeError:
            return False
        return bool((found < 0).all())

    @cached_property
    def full(self) -> bool:
        """Whether FAISS holds the vectors as they are, so that its scores are exact."""
        return isinstance(faiss.downcast_index(self._shards[0]), (faiss.IndexIVFFlat, faiss.IndexHNSWFlat))

    def search(
        self, queries: FloatArray, count: int, effort: Effort, allowed: Bits | None = None
    ) -> IntArray:
        """Return candidate rows (B, shards · count) int64 for queries (B, D), −1 where there are no more.

        Args:
            queries: C-contiguous.
            count: at most, of each shard.
            effort: the probes of it; `count` has its refinement in it already.
            allowed: little-endian bitmap of the rows that may be found.
        """
        return self._raw(queries, count, effort, allowed)[0]

    def scored(
        self, vectors: FloatArray, queries: FloatArray, count: int, effort: Effort,
        allowed: Bits | None = None, *, room: int = 0,
    ) -> Searched:  # fmt: skip
        """Return count · `effort.refine` + room candidates or more, with exact scores, in any order.

        Where there are fewer, the rest is row −1 with score −inf.

        Args:
            vectors: (N, D), what FAISS was made from.
            queries: C-contiguous.
            count: at most, of each shard, before refinement.
            effort: of the search.
            allowed: as in `search`.
            room: for candidates that the caller drops.
        """
        looked_at = count * effort.refine
        if effort.refine > 1:
            looked_at = max(looked_at, _REFINED * effort.refine)  # what codes lose hurts a short list most
        rows, scores = self._raw(queries, looked_at + room, effort, allowed)
        if not self.full:
            return rows, scores_of(vectors, queries, rows)
        none = rows < 0
        if none.any():
            scores[none] = -np.inf  # FAISS leaves its smallest finite number there
        return rows, scores

    def _raw(self, queries: FloatArray, count: int, effort: Effort, allowed: Bits | None) -> Searched:
        parts = [self._of_shard(i, queries, count, effort, allowed) for i in range(len(self._shards))]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([p[0] for p in parts], axis=1), np.concatenate([p[1] for p in parts], axis=1)

    def _of_shard(
        self, i: int, queries: FloatArray, count: int, effort: Effort, allowed: Bits | None
    ) -> Searched:
        shard, start = self._shards[i], self._starts[i]
        given = self._given(i, effort, allowed)
        scores, rows = shard.search(queries, max(1, min(count, shard.ntotal)), params=given)
        return (rows if not start else np.where(rows >= 0, rows + start, -1)), scores

    def _given(self, i: int, effort: Effort, allowed: Bits | None) -> Any:
        """Return the search parameters of a shard; making them can cost as much as a small search."""
        key = i, effort, None if allowed is None else id(allowed)
        kept = self._kept.get(key)
        if kept is None:
            part = selector = None
            if allowed is not None:
                part = np.ascontiguousarray(allowed[self._starts[i] // 8 : (self._starts[i + 1] + 7) // 8])
                selector = _FAISS.IDSelectorBitmap(part)
            # With what `id` names, which must not be another's while it is a key.
            kept = _parameters(self._shards[i], effort, selector), allowed, part
            if len(self._kept) >= _KEPT:
                self._kept = {}
            self._kept[key] = kept
        return kept[0]


def _parameters(index: Any, effort: Effort, selector: Any) -> Any:
    kind = faiss.downcast_index(index)
    given = {} if selector is None else {"sel": selector}
    if isinstance(kind, faiss.IndexPreTransform):
        inner = _parameters(kind.index, effort, selector)
        return _FAISS.SearchParametersPreTransform(index_params=inner)
    if isinstance(kind, faiss.IndexIVF):
        return _FAISS.SearchParametersIVF(nprobe=effort.probes, **given)
    if isinstance(kind, faiss.IndexHNSW):
        return _FAISS.SearchParametersHNSW(efSearch=effort.probes, **given)
    return _FAISS.SearchParameters(**given) if given else None


def inner_of(index: Any) -> Any:
    """Return the index behind the transforms in front of one."""
    kind = faiss.downcast_index(index)
    return inner_of(kind.index) if isinstance(kind, faiss.IndexPreTransform) else kind
