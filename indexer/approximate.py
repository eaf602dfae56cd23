"""FAISS indexes that do not compare everything, searched with a tuned effort."""

import threading
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
from indexer.gpu import MOST_RESULTS, on_a_card, on_cards
from indexer.kinds import inner_of

_FAISS: Any = faiss  # its stubs lack what SWIG adds
_KEPT = 64  # search parameters
_REFINED = 30  # results, at least, that a refinement is reckoned for
Bits = npt.NDArray[np.uint8]


_FULL = ("IndexIVFFlat", "IndexHNSWFlat", "GpuIndexFlatIP", "GpuIndexIVFFlat")


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
        self._one_at_a_time = threading.Lock()
        self._kept: dict[tuple[int, Effort, int | None], tuple[Any, Bits | None, Bits | None]] = {}

    @classmethod
    def open(cls, paths: Sequence[Path], effort: Effort) -> "Approximate":
        """Return the shards in some files, memory-mapped where FAISS can."""
        flags = faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY
        return cls([on_cards(faiss.read_index(str(path), flags)) for path in paths], effort)

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
        return type(faiss.downcast_index(self._shards[0])).__name__ in _FULL

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
        given, count = self._given(i, effort, allowed), max(1, min(count, shard.ntotal))
        if on_a_card(shard):
            with self._one_at_a_time:  # FAISS's resources of a card are for one thread
                scores, rows = shard.search(queries, min(count, MOST_RESULTS), params=given)
        else:
            scores, rows = shard.search(queries, count, params=given)
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


def exact_on_cards(vectors: FloatArray) -> Approximate:
    """Return what compares all of vectors (N, D) on the cards; N is at least 1."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return Approximate([on_cards(index)], Effort())


def _parameters(index: Any, effort: Effort, selector: Any) -> Any:
    kind = faiss.downcast_index(index)
    given = {} if selector is None else {"sel": selector}
    if isinstance(kind, faiss.IndexPreTransform):
        inner = _parameters(kind.index, effort, selector)
        return _FAISS.SearchParametersPreTransform(index_params=inner)
    if hasattr(kind, "nlist"):
        return _FAISS.SearchParametersIVF(nprobe=effort.probes, **given)
    if isinstance(kind, faiss.IndexHNSW):
        return _FAISS.SearchParametersHNSW(efSearch=effort.probes, **given)
    return _FAISS.SearchParameters(**given) if given else None
