"""FAISS indexes by their factory strings."""

from typing import Any

import faiss


class FactoryError(ValueError):
    """A FAISS factory string is not understood."""

    def __init__(self, factory: str, reason: str) -> None:
        super().__init__(f"FAISS does not understand the factory {factory!r}: {reason}")
        self.factory = factory


def empty_faiss(dim: int, factory: str) -> Any:
    """Return an empty FAISS index with inner-product metric.  Raises: FactoryError."""
    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise FactoryError(factory, str(error).rpartition(": ")[2]) from error


def inner_of(index: Any) -> Any:
    """Return the index behind the transforms in front of one."""
    kind = faiss.downcast_index(index)
    return inner_of(kind.index) if isinstance(kind, faiss.IndexPreTransform) else kind
