"""What the models of `implicit` share: loading it, the matrix that it takes, its threads and warnings."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numpy as np
from scipy import sparse
from threadpoolctl import ThreadpoolController

from evaluation.baselines.selection import binary
from evaluation.ranking import Csr

LIBRARY = "implicit"


class LibraryMissingError(ImportError):
    """The library of ItemKNN, iALS and BPR is not installed."""

    def __init__(self) -> None:
        super().__init__(
            f"the library {LIBRARY} is not installed: pip install 'triptych[bench]'", name=LIBRARY
        )


class TooMuchWorkError(ValueError):
    """Choosing the settings of a model would take too long or too much memory."""

    def __init__(self, name: str, shape: tuple[int, int], work: float, unit: str, limit: float) -> None:
        users, items = shape
        super().__init__(
            f"{name} of {users:,} users x {items:,} items takes {work:.1e} {unit}; the limit is {limit:.1e}"
        )
        self.work = work


def require_library() -> None:
    """Check that `implicit` is installed, without loading it.

    Raises:
        LibraryMissingError: it is not.
    """
    if find_spec(LIBRARY) is None:
        raise LibraryMissingError


def library_module(name: str) -> ModuleType:
    """Import a module of `implicit`, such as "cpu.als".

    Raises:
        LibraryMissingError: it is not installed.
    """
    require_library()
    return import_module(f"{LIBRARY}.{name}")


def library_matrix(matrix: Csr) -> "sparse.csr_matrix[np.float32]":
    """Return a copy (U, N) in the form that the library takes: every nonzero 1, columns ascending, int32."""
    x = binary(matrix)
    x.sort_indices()  # BPR looks up by bisection what a user has
    parts = (x.data, x.indices.astype(np.int32), x.indptr.astype(np.int32))
    return sparse.csr_matrix(parts, shape=x.shape)


@contextmanager
def library_at_work() -> Iterator[int]:
    """Yield how many threads the library may start: as many as BLAS has, which meanwhile has one.

    The library asks for that, since its threads each call BLAS: with more it takes ten times as long. Its
    warnings about that, and about matrices that it makes itself, are kept from the user.
    """
    blas = ThreadpoolController().select(user_api="blas")
    threads = max((int(each["num_threads"]) for each in blas.info()), default=1)
    with blas.limit(limits=1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Method expects CSR input")
        warnings.filterwarnings("ignore", message=".* is configured to use .* threads")
        yield threads
