"""FAISS on graphics cards, where the build and the machine have them; files are always in CPU form."""

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

import faiss

log = logging.getLogger(__name__)

MOST_RESULTS = 2_048  # of one search on a card: a limit of FAISS's kernels
_FAISS: Any = faiss  # a CPU build and its stubs lack what is named below


@dataclass(frozen=True)
class Cards:
    """The graphics cards that FAISS sees, and why there are none."""

    count: int
    reason: str


@cache
def cards() -> Cards:
    """Return what there is, saying so in the log once."""
    if not hasattr(faiss, "StandardGpuResources"):
        found = Cards(0, "this FAISS is a CPU build")
    else:
        count = int(_FAISS.get_num_gpus())
        found = Cards(count, f"FAISS sees {count} graphics cards")
    log.info("faiss: %s; searches and builds run on the %s", found.reason, "GPU" if found.count else "CPU")
    return found


def on_cards(index: Any, *, float16: bool = False) -> Any:
    """Return an index on the cards, its rows spread over them where there are several.

    Where there are no cards, or FAISS has no such kind for them, it is the index itself.

    Args:
        index: in CPU form; it stays as it is.
        float16: keep full vectors as halves; scores that matter are computed from the stored ones anyway.
    """
    if not cards().count:
        return index
    try:
        return _cloned(index, float16)
    except RuntimeError as error:
        log.info("faiss: this kind stays on the CPU: %s", str(error).rpartition(": ")[2])
        return index


def on_a_card(index: Any) -> bool:
    """Return whether an index is on a card."""
    return type(index).__name__.startswith("Gpu")


def in_cpu_form(index: Any) -> Any:
    """Return an index as it is written to files, wherever it is."""
    return _FAISS.index_gpu_to_cpu(index) if cards().count else index


def _cloned(index: Any, float16: bool) -> Any:
    if cards().count == 1:
        options = _FAISS.GpuClonerOptions()
        options.useFloat16 = float16
        return _FAISS.index_cpu_to_gpu(_resources(), 0, index, options)
    options = _FAISS.GpuMultipleClonerOptions()
    options.useFloat16, options.shard = float16, True
    return _FAISS.index_cpu_to_all_gpus(index, options)


@cache
def _resources() -> Any:
    return _FAISS.StandardGpuResources()
