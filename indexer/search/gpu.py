"""FAISS on graphics cards, where its build and the machine have them; files are always in CPU form.

Calls that wait for a card share its next run: a card takes hardly longer for many queries than for one.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import faiss
import numpy as np

from indexer.files import FloatArray, IntArray

log = logging.getLogger(__name__)
MOST_RESULTS = 2_048  # of one search on a card: a limit of FAISS's kernels
MOST_WIDTH = 512  # of a search in a CAGRA graph: a limit of cuVS's kernels
_WIDTH_STEP = 32  # cuVS rounds up to it
_FAISS: Any = faiss  # a CPU build and its stubs lack what is named below
MOST_QUERIES = 1_024  # of one run, unless one call has more


@dataclass(frozen=True)
class Gpus:
    """How many graphics cards FAISS sees, and the reason."""

    count: int
    reason: str


@cache
def gpus() -> Gpus:
    """Find the graphics cards, and log them the first time."""
    if not hasattr(faiss, "StandardGpuResources"):
        found = Gpus(0, "this FAISS is a CPU build")
    else:
        count = int(_FAISS.get_num_gpus())
        cuvs = "with" if has_cuvs() else "without"
        found = Gpus(count, f"FAISS sees {count} graphics cards, {cuvs} cuVS")
    log.info("faiss: %s; searches and builds run on the %s", found.reason, "GPU" if found.count else "CPU")
    return found


def to_gpu(index: Any, number: int = 0, *, float16: bool = False) -> Any:
    """Copy an index to a card; the index itself is returned without cards, and for a kind that they lack.

    Args:
        index: in CPU form; it stays as it is.
        number: of the card, modulo how many there are.
        float16: keep full vectors as halves; returned scores are computed from the stored ones anyway.
    """
    count = gpus().count
    if not count:
        return index
    options = _FAISS.GpuClonerOptions()
    options.useFloat16 = float16
    # Measured: cuVS compares 10 million halves in 1.2 ms, FAISS's own kernels in 30; in lists it is slower.
    options.use_cuvs = has_cuvs() and isinstance(inner_of(index), faiss.IndexFlat)
    try:
        copy = _FAISS.index_cpu_to_gpu(_resources(number % count), number % count, index, options)
    except RuntimeError as error:
        log.info("faiss: this kind stays on the CPU: %s", str(error).rpartition(": ")[2])
        return index
    copy.referenced_objects = [index]  # a CAGRA graph goes on reading the vectors of what it was copied from
    return copy


def is_on_gpu(index: Any) -> bool:
    """Tell whether an index is on a card, perhaps behind transforms."""
    return type(inner_of(index)).__name__.startswith("Gpu")


def to_cpu(index: Any) -> Any:
    """Return an index in CPU form, as it is written to files."""
    return _FAISS.index_gpu_to_cpu(index) if is_on_gpu(index) else index


def cagra_graph(vectors: FloatArray, degree: int) -> Any:
    """Build the CAGRA graph of vectors (N, D) on the first card; return it in CPU form.

    On a CPU it is searched as the lowest level of an HNSW graph, from the best of some random vectors.

    Source:
        Ootomo et al. 2024, CAGRA: Highly Parallel Graph Construction and Approximate Nearest Neighbor Search.
    """
    config = _FAISS.GpuIndexCagraConfig()
    config.graph_degree, config.intermediate_graph_degree = degree, 2 * degree
    built = _FAISS.GpuIndexCagra(_resources(0), vectors.shape[1], faiss.METRIC_INNER_PRODUCT, config)
    built.train(np.ascontiguousarray(vectors))
    return _FAISS.index_gpu_to_cpu(built)


def is_cagra(index: Any) -> bool:
    """Tell whether an index is a CAGRA graph on a card."""
    return type(index).__name__ == "GpuIndexCagra"


def cagra_parameters(width: int, count: int) -> Any:
    """Make the parameters of a search on a card for `count` results, with `width` candidates or more."""
    wanted = _WIDTH_STEP * -(-max(width, count) // _WIDTH_STEP)
    return _FAISS.SearchParametersCagra(itopk_size=min(wanted, MOST_WIDTH))


@cache
def _resources(number: int) -> Any:  # noqa: ARG001  # FAISS keeps those of a card apart
    return _FAISS.StandardGpuResources()


def has_cuvs() -> bool:
    """Tell whether this build of FAISS can build CAGRA graphs, given a card."""
    return hasattr(faiss, "GpuIndexCagra")


def inner_of(index: Any) -> Any:
    """Return the index behind any transforms."""
    kind = faiss.downcast_index(index)
    return inner_of(kind.index) if isinstance(kind, faiss.IndexPreTransform) else kind


Found = tuple[FloatArray, IntArray]


@dataclass(eq=False)
class _Call:
    queries: FloatArray
    count: int
    params: Any
    found: Found | Exception = field(init=False)


class MicroBatcher:
    """Runs one search at a time; calls with the same parameters that come meanwhile share the next run.

    A call that comes while none runs does not wait. Threads may share a batcher; FAISS's resources of a card
    are for one thread.

    Args:
        search: queries (B, D), number of results and parameters → scores and rows (B, n), best first.
    """

    def __init__(self, search: Callable[[FloatArray, int, Any], Found]) -> None:
        self._search = search
        self._waiting: list[_Call] = []
        self._guard = threading.Lock()
        self._turn = threading.Lock()

    def __call__(self, queries: FloatArray, count: int, params: Any = None) -> Found:
        """Search; calls whose parameters are the same object may share a run.

        Raises:
            Exception: whatever the run raised, in each of its calls.
        """
        mine = _Call(queries, count, params)
        with self._guard:
            self._waiting.append(mine)
        with self._turn:
            if mine in self._waiting:
                self._run(self._group(mine))
        if isinstance(mine.found, Exception):
            raise mine.found
        return mine.found

    def _group(self, mine: _Call) -> list[_Call]:
        """Take a call, and those that share its run, off the waiting list."""
        group, rows = [mine], len(mine.queries)
        with self._guard:
            for other in self._waiting:
                alike = other is not mine and other.params is mine.params
                if alike and rows + len(other.queries) <= MOST_QUERIES:
                    group.append(other)
                    rows += len(other.queries)
            self._waiting = [call for call in self._waiting if call not in group]
        return group

    def _run(self, group: list[_Call]) -> None:
        try:
            queries = np.concatenate([call.queries for call in group]) if len(group) > 1 else group[0].queries
            scores, rows = self._search(queries, max(call.count for call in group), group[0].params)
        except Exception as error:
            for call in group:
                call.found = error
            return
        start = 0
        for call in group:
            end = start + len(call.queries)
            call.found = scores[start:end, : call.count], rows[start:end, : call.count]
            start = end
