"""Exact search by FAISS on a card as a share of the card's bandwidth; it needs FAISS and numpy alone."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

EXACT_ITEMS = 10_000_000
DIM, K = 128, 50
BATCHES = (1, 4, 16, 64, 256)
_CHECKED = 16  # queries whose exact results are known
_CHUNK = 250_000
_SECONDS = 0.5  # of searches of one batch
_COPIED = 1 << 30  # bytes
_FAISS: Any = faiss  # a CPU build lacks what is named below

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def measure_exact(items: int = EXACT_ITEMS, empty: Callable[[int], Any] | None = None) -> dict[str, Any]:
    """Return for each batch size how fast all of N vectors are compared as halves, k = 50.

    `share_of_bandwidth`: bytes of the vectors, N × D × 2, read once for each search, over what a copy within
    the card moves a second (read and written); over 1 would mean that a search does not read them all.

    Args:
        items: N.
        empty: makes the empty index of D coordinates; by default on the first card.
    """
    generator = np.random.default_rng(0)
    queries = unit(generator.standard_normal((max(BATCHES), DIM), dtype=np.float32))
    index = (empty or halves_on_the_card)(DIM)
    best = Best(_CHECKED, K)
    for start in range(0, items, _CHUNK):
        chunk = unit(generator.standard_normal((min(_CHUNK, items - start), DIM), dtype=np.float32))
        index.add(chunk)
        best.look_at(queries[:_CHECKED] @ chunk.T, start)
    found = index.search(queries[:_CHECKED], K)[1]
    bandwidth = copy_bandwidth()
    rows = []
    for batch in BATCHES:
        seconds = timed(partial(index.search, queries[:batch], K))
        per_second = items * DIM * 2 / seconds
        rows.append(
            {
                "batch": batch,
                "ms": 1e3 * seconds,
                "queries_per_second": batch / seconds,
                "gb_per_second": per_second / 1e9,
                "share_of_bandwidth": per_second / bandwidth if bandwidth else None,
            }
        )
    return {
        "items": items,
        "dim": DIM,
        "k": K,
        "copy_gb_per_second": bandwidth / 1e9 if bandwidth else None,
        "recall": overlap(found, best.rows),
        "results": rows,
    }


def halves_on_the_card(dim: int) -> Any:
    """Return an empty index on the first card that keeps vectors as halves and compares all of them."""
    config = _FAISS.GpuIndexFlatConfig()
    config.device, config.useFloat16 = 0, True
    config.use_cuvs = hasattr(_FAISS, "GpuIndexCagra")  # as indexer.search.to_gpu has it
    return _FAISS.GpuIndexFlatIP(_FAISS.StandardGpuResources(), dim, config)


class Best:
    """The best rows of some queries, from scores that come chunk by chunk; `rows` (Q, k) int64."""

    def __init__(self, queries: int, k: int) -> None:
        self._scores = np.full((queries, k), -np.inf, dtype=np.float32)
        self.rows: IntArray = np.full((queries, k), -1, dtype=np.int64)

    def look_at(self, scores: FloatArray, start: int) -> None:
        """Take the scores (Q, n) of rows from `start` on into account."""
        k = self.rows.shape[1]
        at = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
        all_scores = np.concatenate([self._scores, np.take_along_axis(scores, at, axis=1)], axis=1)
        all_rows = np.concatenate([self.rows, start + at], axis=1)
        order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
        self._scores = np.take_along_axis(all_scores, order, axis=1)
        self.rows = np.take_along_axis(all_rows, order, axis=1)


def overlap(found: IntArray, wanted: IntArray) -> float:
    """Return the share of wanted rows (Q, k) that were found; padding -1 counts for neither."""
    shares = [
        len(np.intersect1d(f[f >= 0], w[w >= 0])) / max(1, (w >= 0).sum())
        for f, w in zip(found, wanted, strict=True)
    ]
    return float(np.mean(shares))


def timed(call: Callable[[], object]) -> float:
    """Return the median seconds of a call, after three that are not counted."""
    for _ in range(3):
        call()
    taken: list[float] = []
    end = time.perf_counter() + _SECONDS
    while not taken or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def copy_bandwidth() -> float | None:
    """Return bytes a second that a copy within the card reads and writes; None without torch for a card."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    source = torch.empty(_COPIED, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    return 2 * _COPIED / timed(copy)


def unit(vectors: FloatArray) -> FloatArray:
    """Return vectors (N, D) scaled to length 1."""
    scaled: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled
