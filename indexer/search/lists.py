"""The search of an IVF with a filter: the nearest lists that hold enough of the rows that it allows.

A fixed number of lists suits no filter: one that allows some of everything finds rows in all of the nearest
lists, one that allows what is far from a query finds none there. So the lists of each query are as many as
hold a portion of the allowed rows together, and lists without any cost nothing. The codes of allowed rows
are copied, list by list, when a filter is used often: a search of them tests no row.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from indexer.files import FloatArray, IntArray

_FAISS: Any = faiss  # its stubs lack what SWIG adds
_COPIED_AFTER = 8  # queries with a filter: those of one that is hardly used pay for no copies
_EVEN = 1.1  # times the rows of a filter that random ones would have beside them in a list
_ROW_BYTES = 12  # of an allowed row beside its code: its number, here and in the copy
COPIED_BYTES = 256 << 20  # of the copies for all filters of an index
_FILTERS = 256  # that are remembered
_UNUSED = 1_024  # searches with other filters, after which copies make room for those of another

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Portions:
    """Shares of the rows that a filter allows which the lists probed for a query hold together, at least.

    Attributes:
        even: where the rows are spread over the lists as random ones would be.
        uneven: otherwise.
    """

    even: float
    uneven: float

    def times(self, factor: int) -> "Portions":
        """Return shares `factor` times as large, at most 1."""
        return Portions(min(1.0, self.even * factor), min(1.0, self.uneven * factor))


def _empty_flat(index: Any) -> Any:
    return _FAISS.IndexIVFFlat(index.quantizer, index.d, index.nlist, index.metric_type)


def _empty_quantised(index: Any) -> Any:
    given = index.quantizer, index.d, index.nlist, index.sq.qtype, index.metric_type, index.by_residual
    empty = _FAISS.IndexIVFScalarQuantizer(*given)
    empty.sq = index.sq
    return empty


def _empty_rabitq(index: Any) -> Any:
    empty = _FAISS.IndexIVFRaBitQ(index.quantizer, index.d, index.nlist, index.metric_type)
    empty.rabitq, empty.qb, empty.by_residual = index.rabitq, index.qb, index.by_residual
    return empty


_EMPTY: dict[type, Callable[[Any], Any]] = {
    faiss.IndexIVFFlat: _empty_flat,
    faiss.IndexIVFScalarQuantizer: _empty_quantised,
    _FAISS.IndexIVFRaBitQ: _empty_rabitq,
}


class Lists:
    """The lists of an IVF on the CPU, by inner product.

    Args:
        index: a FAISS index of a kind that `of` accepts; it is searched, never changed.
    """

    def __init__(self, index: Any) -> None:
        self._whole = index
        outer: Any = faiss.downcast_index(index)
        self._chain: list[Any] = []
        if isinstance(outer, faiss.IndexPreTransform):
            chain: Any = outer.chain
            self._chain = [chain.at(i) for i in range(chain.size())]
            outer = faiss.downcast_index(outer.index)
        self.ivf: Any = outer
        self.centroids: FloatArray = outer.quantizer.reconstruct_n(0, outer.nlist)  # (nlist, D)
        self._centroids = _pointer(self.centroids)
        self.sizes = np.array([outer.invlists.list_size(i) for i in range(outer.nlist)], dtype=np.int64)

    @classmethod
    def of(cls, index: Any) -> "Lists | None":
        """Return the lists of an index; None for one without lists, on a card, or with packed codes."""
        outer = faiss.downcast_index(index)
        inner = faiss.downcast_index(outer.index) if isinstance(outer, faiss.IndexPreTransform) else outer
        if type(inner) not in _EMPTY or inner.metric_type != faiss.METRIC_INNER_PRODUCT:
            return None
        return cls(index)

    @cached_property
    def places(self) -> tuple[IntArray, IntArray]:
        """The list of each row, and its place there: (n,) int32 both."""
        lists, places = np.zeros((2, self.ivf.ntotal), dtype=np.int32)
        for number in np.flatnonzero(self.sizes).tolist():
            ids = _view(self.ivf.invlists.get_ids(number), int(self.sizes[number]))
            lists[ids], places[ids] = number, np.arange(len(ids))
        return lists, places

    def transformed(self, queries: FloatArray) -> FloatArray:
        """Return queries (B, D) as the lists are searched with."""
        for step in self._chain:
            queries = step.apply(queries)
        return np.ascontiguousarray(queries)

    def scores(self, query: FloatArray) -> FloatArray:
        """Return the inner products (nlist,) of a transformed query (D,), contiguous, with the centroids."""
        scores = np.empty(len(self.centroids), dtype=np.float32)
        pointers = _pointer(scores), _pointer(query), self._centroids
        _FAISS.fvec_inner_products_ny(*pointers, len(query), len(scores))
        return scores

    def codes(self, number: int) -> npt.NDArray[np.uint8]:
        """Return the codes (m, bytes) of a list; no copy."""
        size, width = int(self.sizes[number]), self.ivf.code_size
        codes: npt.NDArray[np.uint8] = _view(self.ivf.invlists.get_codes(number), size * width)
        return codes.reshape(size, width)

    def empty(self) -> Any:
        """Return an index of the same kind whose lists are empty."""
        made = _EMPTY[type(self.ivf)](self.ivf)
        made.own_fields = False  # the quantizer is that of `ivf`, which outlives it
        made.is_trained, made.ntotal, made.parallel_mode = True, self.ivf.ntotal, self.ivf.parallel_mode
        return made


class FilteredLists:
    """What a filter allows in the lists of an index; threads may share it.

    Args:
        lists: of the index.
        allowed: little-endian bitmap of the n rows that the filter allows.

    Attributes:
        bytes: that copies of all allowed codes take.
    """

    def __init__(self, lists: Lists, allowed: Bits) -> None:
        self._lists, self._bits = lists, allowed
        self._selector = _FAISS.IDSelectorBitmap(allowed)
        counts = np.bincount(lists.places[0][self._allowed()], minlength=lists.ivf.nlist)
        self._numbers = np.flatnonzero(counts)  # of the m lists with allowed rows
        self._counts = counts[self._numbers]
        self._rows = int(counts.sum())
        self._copies: Copies | None = None
        self.bytes = self._rows * (lists.ivf.code_size + _ROW_BYTES)

    @cached_property
    def even(self) -> bool:
        """Whether the rows are spread over the lists about as random ones would be.

        That is told by how many allowed rows an allowed row has beside it in its list.
        """
        sizes = self._lists.sizes[self._numbers]
        others = self._counts * (self._counts - 1) / np.maximum(1, sizes - 1)  # beside each, as a share
        share = (self._rows - 1) / max(1, self._lists.ivf.ntotal - 1)
        return bool(others.sum() <= _EVEN * share * self._rows)

    def search(self, queries: FloatArray, count: int, portion: float, *, copy: bool) -> IntArray:
        """Return candidate rows (B, count) int64, −1 where there are no more.

        Args:
            queries: (B, D), C-contiguous.
            count: candidates.
            portion: of the allowed rows, that the lists probed hold together, at least.
            copy: compare copies of the codes, made where they are missing; the rows found are the same.
        """
        if not self._rows:
            return np.full((len(queries), count), -1, dtype=np.int64)
        queries = self._lists.transformed(queries)
        numbers, scores = self._nearest(queries, max(count, portion * self._rows))
        if not copy:
            params = _FAISS.SearchParametersIVF(nprobe=numbers.shape[1], sel=self._selector)
            return _search_preassigned(self._lists.ivf, queries, count, numbers, scores, params)
        copies = self._copies
        if copies is None:
            copies = self._copies = Copies(self._lists, self._allowed())
        copies.add(numbers)
        params = _FAISS.SearchParametersIVF(nprobe=numbers.shape[1])
        return _search_preassigned(copies.index, queries, count, numbers, scores, params)

    def drop_copies(self) -> None:
        """Forget the copies; searches that are going on keep theirs until they end."""
        self._copies = None

    def _allowed(self) -> IntArray:
        return np.flatnonzero(np.unpackbits(self._bits, count=self._lists.ivf.ntotal, bitorder="little"))

    def _nearest(self, queries: FloatArray, wanted: float) -> tuple[IntArray, FloatArray]:
        """Return for queries (B, D) the numbers (B, p) of the nearest lists, and their centroids' scores.

        Each query gets the fewest that hold so many allowed rows; −1 fills up behind them.
        """
        if len(queries) == 1:
            numbers, scores = self._nearest_to_one(queries[0], wanted)
            return numbers[None], scores[None]
        found = [self._nearest_to_one(query, wanted) for query in queries]
        most = max(len(numbers) for numbers, _ in found)
        all_numbers = np.full((len(queries), most), -1, dtype=np.int64)
        all_scores = np.zeros((len(queries), most), dtype=np.float32)
        for i, (numbers, scores) in enumerate(found):
            all_numbers[i, : len(numbers)], all_scores[i, : len(scores)] = numbers, scores
        return all_numbers, all_scores

    def _nearest_to_one(self, query: FloatArray, wanted: float) -> tuple[IntArray, FloatArray]:
        """Return what `_nearest` does for one query (D,), (p,) both; they are the same in every batch."""
        scores = self._lists.scores(query)
        if len(self._numbers) < len(scores):
            scores = scores[self._numbers]  # (m,)
        order = np.argsort(-scores)
        held = np.cumsum(self._counts[order])
        order = order[: int(np.searchsorted(held, wanted)) + 1]
        return self._numbers[order], scores[order]


class Copies:
    """Codes of the rows (n,) that a filter allows, copied from the lists of an index as searches want them.

    Attributes:
        index: of FAISS; only lists that `add` was called for may be searched.
    """

    def __init__(self, lists: Lists, rows: IntArray) -> None:
        list_of = lists.places[0][rows]
        counts = np.bincount(list_of, minlength=lists.ivf.nlist)
        order = np.argsort(list_of.astype(np.min_scalar_type(lists.ivf.nlist)), kind="stable")  # by radix
        self._lists, self._rows = lists, rows[order].astype(np.int32)
        self._starts = np.append(0, np.cumsum(counts))
        self._copied = np.zeros(lists.ivf.nlist, dtype=bool)
        self._lock = threading.Lock()
        self.index = lists.empty()

    def add(self, numbers: IntArray) -> None:
        """Copy the allowed codes of some lists, of any shape, −1 for none, unless they are here."""
        wanted = numbers[numbers >= 0]
        if self._copied[wanted].all():
            return
        with self._lock:
            # Nobody searches the copy of a list before it is marked, and FAISS keeps each list by itself.
            for number in np.unique(wanted[~self._copied[wanted]]).tolist():
                rows = self._rows[self._starts[number] : self._starts[number + 1]].astype(np.int64)
                codes = self._lists.codes(number)[self._lists.places[1][rows]]
                self.index.invlists.add_entries(number, len(rows), _pointer(rows), _pointer(codes))
                self._copied[number] = True


@dataclass
class _Known:
    """A filter that was searched with: its bitmap, its part in each shard, and its use."""

    allowed: Bits  # kept, because its id is the key
    parts: Sequence[FilteredLists]
    queries: int = 0
    last: int = 0  # number of the last search with it, of all searches with filters
    copied: bool = False

    @property
    def bytes(self) -> int:
        """Bytes of its copies, at most."""
        return sum(part.bytes for part in self.parts)


class FilteredSearch:
    """Searches the shards of an index with filters, and keeps what it made of the last filters.

    Copies of codes take `most_bytes` at most. A filter that is not used any more makes room for another;
    while all are, the others are searched without copies.

    Args:
        shards: the lists of each.
        starts: (S + 1,) first row of each shard, and the number of all rows; multiples of 8 but for the last.
        most_bytes: of all copies together.
    """

    def __init__(
        self, shards: Sequence[Lists], starts: Sequence[int], most_bytes: int = COPIED_BYTES
    ) -> None:
        self._shards, self._starts, self._most = shards, starts, most_bytes
        self._known: OrderedDict[int, _Known] = OrderedDict()
        self._uses, self._lock = 0, threading.Lock()

    def search(self, queries: FloatArray, count: int, portions: Portions, allowed: Bits) -> list[IntArray]:
        """Return of each shard candidate rows (B, count), counted within it, −1 where there are no more.

        Args:
            queries: (B, D), C-contiguous.
            count: candidates.
            portions: of the allowed rows.
            allowed: little-endian bitmap; the same array again is the same filter.
        """
        known = self._used(allowed, len(queries))
        copy = known.copied
        found = [
            part.search(queries, count, portions.even if part.even else portions.uneven, copy=copy)
            for part in known.parts
        ]
        if copy and not known.copied:  # others took the room meanwhile
            for part in known.parts:
                part.drop_copies()
        return found

    def forget(self, allowed: Bits) -> None:
        """Drop what was made of a filter that is not searched with again."""
        with self._lock:
            self._known.pop(id(allowed), None)

    @property
    def copied_bytes(self) -> int:
        """Bytes of all copies, at most."""
        with self._lock:
            return sum(known.bytes for known in self._known.values() if known.copied)

    def _used(self, allowed: Bits, queries: int) -> _Known:
        with self._lock:
            known = self._known.get(id(allowed))
        if known is None:
            ends = zip(self._shards, self._starts[:-1], self._starts[1:], strict=True)
            parts = [
                FilteredLists(lists, np.ascontiguousarray(allowed[start // 8 : (end + 7) // 8]))
                for lists, start, end in ends
            ]
            known = _Known(allowed, parts)
        with self._lock:
            known = self._known.setdefault(id(allowed), known)
            self._known.move_to_end(id(allowed))
            self._uses += 1
            if len(self._known) > _FILTERS:
                self._known.popitem(last=False)
            if not known.copied and known.queries >= _COPIED_AFTER:
                known.copied = self._has_room(known.bytes)
            known.queries, known.last = known.queries + queries, self._uses
        return known

    def _has_room(self, wanted: int) -> bool:
        """Tell whether copies of so many bytes fit, dropping those that were not used for long if need be."""
        copied = [known for known in self._known.values() if known.copied]  # the longest unused first
        room = self._most - sum(known.bytes for known in copied)
        old = [known for known in copied if self._uses - known.last > _UNUSED]
        if room + sum(known.bytes for known in old) < wanted:
            return False
        for known in old:
            if room >= wanted:
                break
            room += known.bytes
            known.copied, known.queries = False, 0
            for part in known.parts:
                part.drop_copies()
        return True


def _search_preassigned(
    index: Any, queries: FloatArray, count: int, numbers: IntArray, scores: FloatArray, params: Any
) -> IntArray:
    """Search the lists (B, p) of each query; FAISS's own wrapper in Python takes no parameters."""
    found = np.empty((len(queries), count), dtype=np.float32)
    rows = np.empty((len(queries), count), dtype=np.int64)
    given = _pointer(queries), count, _pointer(numbers), _pointer(scores), _pointer(found), _pointer(rows)
    index.search_preassigned_c(len(queries), *given, False, params)
    return rows


def _view(pointer: Any, size: int) -> Any:
    return _FAISS.rev_swig_ptr(pointer, size)


def _pointer(values: npt.NDArray[Any]) -> Any:
    return faiss.swig_ptr(values)
