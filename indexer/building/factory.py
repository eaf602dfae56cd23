"""FAISS indexes by their factory strings."""

import re
from typing import Any

import faiss

_CAGRA = re.compile(r"CAGRA([1-9]\d?)")
_LACKING = "a CAGRA graph is built on a graphics card, by a FAISS with cuVS (pip install faiss-gpu-cuvs)"
_FAISS: Any = faiss  # a CPU build lacks what is named below


class FactoryError(ValueError):
    """A FAISS factory string is not understood."""

    def __init__(self, factory: str, reason: str) -> None:
        super().__init__(f"FAISS does not understand the factory {factory!r}: {reason}")
        self.factory = factory


def empty_faiss(dim: int, factory: str) -> Any:
    """Return an empty FAISS index with inner-product metric.  Raises: FactoryError."""
    degree = cagra_degree(factory)
    if degree is not None:
        if not has_cuvs() or not _FAISS.get_num_gpus():
            raise FactoryError(factory, _LACKING)
        return _FAISS.IndexHNSWCagra(dim, degree // 2, faiss.METRIC_INNER_PRODUCT)
    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise FactoryError(factory, str(error).rpartition(": ")[2]) from error


def cagra_degree(factory: str) -> int | None:
    """Return the neighbours per vector that `CAGRA64` and its like ask for; None for another factory."""
    found = _CAGRA.fullmatch(factory)
    return int(found[1]) if found else None


def has_cuvs() -> bool:
    """Return whether this build of FAISS can build CAGRA graphs, given a card."""
    return hasattr(faiss, "GpuIndexCagra")


def inner_of(index: Any) -> Any:
    """Return the index behind the transforms in front of one."""
    kind = faiss.downcast_index(index)
    return inner_of(kind.index) if isinstance(kind, faiss.IndexPreTransform) else kind
