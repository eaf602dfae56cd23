"""FAISS factory strings: the empty index of one, and the choice of one by number of items and memory."""

import math
import re
from dataclasses import dataclass
from typing import Any

import faiss
import psutil

from indexer.search import EXACT, code_width, has_cuvs

_CAGRA = re.compile(r"CAGRA([1-9]\d?)")
_LACKING = "a CAGRA graph is built on a graphics card, by a FAISS with cuVS (pip install faiss-gpu-cuvs)"
_FAISS: Any = faiss  # a CPU build lacks what is named below
EXACT_ITEMS = 50_000
EXACT_ITEMS_ON_A_CARD = 1_000_000
AUTO = "auto"
_LIST_BYTES = 12  # per item: its id, and its share of growth
_MEMORY_SHARE = 0.5  # of the free memory, without a budget


class FactoryError(ValueError):
    """FAISS does not understand a factory string."""

    def __init__(self, factory: str, reason: str) -> None:
        super().__init__(f"FAISS does not understand the factory {factory!r}: {reason}")
        self.factory = factory


def empty_faiss(dim: int, factory: str) -> Any:
    """Make an empty FAISS index with inner-product metric.  Raises: FactoryError."""
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
    """Return the neighbours per vector of a graph such as `CAGRA64`; None for another factory."""
    found = _CAGRA.fullmatch(factory)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class Choice:
    """A FAISS factory string, the reason for it, and the finer ones to try where it misses the ANN recall."""

    factory: str
    reason: str
    fallbacks: tuple[str, ...] = ()


def choose(items: int, dim: int, memory_bytes: int | None = None, *, card: bool = False) -> Choice:
    """Choose the kind of index for N items of D coordinates.

    Args:
        items: N.
        dim: D.
        memory_bytes: budget of the FAISS index; None is half of the free memory. The full vectors are
            memory-mapped beside it and do not count.
        card: whether a graphics card searches it.
    """
    few = EXACT_ITEMS_ON_A_CARD if card else EXACT_ITEMS
    if items <= few:
        where = "on a card" if card else "on a CPU"
        return Choice(
            EXACT, f"{items} items are at most {few}: comparing every one {where} is exact and quick"
        )
    free = int(psutil.virtual_memory().available * _MEMORY_SHARE)
    budget = free if memory_bytes is None else memory_bytes
    lists = lists_for(items)
    fine = items * (dim + _LIST_BYTES) + 4 * lists * dim
    if fine <= budget:
        reason = f"{lists} lists of 8-bit codes, {_megabytes(fine)}, fit in {_megabytes(budget)}"
        return Choice(_fine(lists, dim), reason, (f"IVF{lists},Flat", EXACT))
    coarse = items * (dim // 8 + _LIST_BYTES + 8) + 4 * lists * dim
    reason = (
        f"8-bit codes take {_megabytes(fine)} of {_megabytes(budget)}, so {lists} lists of 1-bit codes, "
        f"{_megabytes(coarse)}"
    )
    # Rotated: one bit for each coordinate suits coordinates of the same variance.
    return Choice(f"RR{dim},IVF{lists},RaBitQ", reason, (_fine(lists, dim), f"IVF{lists},Flat", EXACT))


def lists_for(items: int) -> int:
    """Return the number of lists of an IVF: the power of two next to 4 √N.

    Source:
        https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-index, 4 √N to 16 √N.
    """
    return 1 << round(math.log2(4 * math.sqrt(items)))


def _fine(lists: int, dim: int) -> str:
    """Return the factory of 8-bit codes, padded with zeros to a width that is compared quickly."""
    return f"IVF{lists},SQ8" if dim % 8 == 0 else f"Pad{code_width(dim)},IVF{lists},SQ8"


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
