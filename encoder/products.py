"""Products of sparse and dense matrices in blocks of rows over threads; scipy alone uses one core."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import sparse
from threadpoolctl import ThreadpoolController

_WORK_ALONE = 8_000_000  # multiplications, a few milliseconds: below, threads cost more than they save
_BLOCKS = 8  # of each thread

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


def product(rows: "sparse.csr_array[Any]", dense: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Multiply a sparse matrix (P, N) by a dense one (N, D): (P, D), the same bits for any number of threads.

    Source:
        Every row of the result is summed by one thread in the order of its entries; scipy's loops release
        the GIL.
    """
    if rows.nnz * dense.shape[1] < _WORK_ALONE:
        return np.asarray(rows @ dense)
    blocks = _BLOCKS * threads()
    work = np.linspace(0, rows.nnz, blocks + 1)[1:-1]
    edges = np.unique([0, *np.searchsorted(rows.indptr, work), rows.shape[0]])
    result = np.empty((rows.shape[0], dense.shape[1]), np.result_type(rows.dtype, dense.dtype))

    def fill(block: tuple[int, int]) -> None:
        start, end = block
        result[start:end] = rows[start:end] @ dense

    for _ in in_threads(fill, list(pairwise(edges))):
        pass
    return result


def in_threads(work: Callable[[_Part], _Result], parts: Iterable[_Part]) -> Iterable[_Result]:
    """Yield the results of some parts of a work in their order, done by as many threads as BLAS has.

    The work must release the GIL to gain anything: products, sums and sorts of numpy and scipy do.
    """
    if threads() == 1:
        yield from map(work, parts)
        return
    with ThreadPoolExecutor(threads(), thread_name_prefix="product") as pool:
        yield from pool.map(work, parts)


def threads() -> int:
    """Return how many threads BLAS has: all cores, unless OMP_NUM_THREADS or a limit says otherwise."""
    return max((int(library["num_threads"]) for library in _blas().info()), default=1)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")
