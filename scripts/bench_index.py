"""Measure a search through our index beside bare FAISS on the same file."""

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from tqdm import tqdm

from indexer.index import FAISS_FILE, Excluded, FloatArray, Index, IntArray
from scripts.bench_vectors import clustered, write_index

log = logging.getLogger(__name__)

_CLUSTER = 100  # items to a cluster
_QUERIES = 256


@dataclass(frozen=True)
class IndexOptions:
    """What to measure: all factories at all batches and threads.

    Attributes:
        excluded: items per query that ours leaves out, as seen items are; bare FAISS leaves out none.
        nprobe, ef_search: set on IVF and on HNSW indexes; FAISS's own 1 and 16 find too little.
        seconds: of one measurement.
    """

    items: int = 100_000
    dim: int = 128
    factories: Sequence[str] = ("Flat",)
    k: int = 10
    excluded: int = 20
    batches: Sequence[int] = (1, 16, 64)
    threads: Sequence[int] = (1, 2)
    nprobe: int = 32
    ef_search: int = 128
    rounds: int = 3
    seconds: float = 1.0
    seed: int = 0


def measure(folder: Path, options: IndexOptions) -> dict[str, Any]:
    """Return results and ratios; index files go to a folder.

    Raises:
        FactoryError: FAISS does not understand a factory.
    """
    generator = np.random.default_rng(options.seed)
    centres = generator.standard_normal((max(1, options.items // _CLUSTER), options.dim), dtype=np.float32)
    vectors = clustered(generator, centres, options.items)
    queries = clustered(generator, centres, _QUERIES)
    results: list[dict[str, Any]] = []
    for factory in options.factories:
        log.info("bench index: building %s over %d × %d", factory, options.items, options.dim)
        index = write_index(folder, vectors, factory, options.nprobe, options.ef_search)
        bare = faiss.read_index(str(folder / index.index_id / FAISS_FILE))
        results += _results(index, bare, queries, factory, options)
    log.info("bench index: done")
    return {"results": results, "ratios": ratios(results)}


def search_ours(
    index: Index, queries: FloatArray, k: int, excluded: Excluded | None
) -> tuple[list[list[str]], FloatArray]:
    """Return item ids and scores (B, k), best first: what a query takes from the index."""
    rows, scores = index.search(queries, k, excluded)
    return [index.item_ids(found[found >= 0]) for found in rows], scores


def ratios(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return ours over bare per factory and number of threads; short names are the first of both.

    `batch64_throughput` and its like are ours / bare, `batch1_added_us` is what one query waits longer.
    `…_plain` leaves nothing out; bare never does.
    """
    found: dict[str, float] = {}
    rows = {(r["factory"], r["threads"], r["batch"], r["search"]): r for r in results}
    for (factory, threads, batch, search), row in rows.items():
        bare = rows[factory, threads, batch, "bare"]
        place, suffix = f"{factory}/t{threads}", "_plain" if search == "plain" else ""
        if search != "bare":
            found[f"{place}/batch{batch}_throughput{suffix}"] = row["throughput"] / bare["throughput"]
            found[f"{place}/batch{batch}_added_us{suffix}"] = 1e3 * (row["p50_ms"] - bare["p50_ms"])
        found[f"{factory}/ann_recall_{'bare' if search == 'bare' else 'ours'}{suffix}"] = row["ann_recall"]
    first = f"{results[0]['factory']}/t{results[0]['threads']}/"
    return {name.removeprefix(first): found[name] for name in found if name.startswith(first)} | found


def _results(
    index: Index, bare: Any, queries: FloatArray, factory: str, options: IndexOptions
) -> Iterator[dict[str, Any]]:
    generator = np.random.default_rng(options.seed)
    left_out = generator.integers(options.items, size=(len(queries), options.excluded))
    taken = {search: _ann_recall(index, bare, queries, left_out, search, options.k) for search in _SEARCHES}
    steps = [(t, b, s) for t in options.threads for b in options.batches for s in _SEARCHES]
    times: dict[tuple[int, int, str], list[list[float]]] = {step: [] for step in steps}
    for _ in range(options.rounds):
        for step in tqdm(steps, desc=factory, disable=None):
            threads, batch, search = step
            faiss.omp_set_num_threads(threads)
            calls = _calls(index, bare, queries, left_out, search, batch, options.k)
            times[step].append(_timed(calls, options.seconds))
    for (threads, batch, search), rounds in times.items():
        yield {
            "factory": factory,
            "threads": threads,
            "batch": batch,
            "search": search,
            "throughput": statistics.median(batch * len(taken_s) / sum(taken_s) for taken_s in rounds),
            "p50_ms": statistics.median(1e3 * float(np.percentile(taken_s, 50)) for taken_s in rounds),
            "p99_ms": statistics.median(1e3 * float(np.percentile(taken_s, 99)) for taken_s in rounds),
            "ann_recall": taken[search],
        }


_SEARCHES = ("bare", "plain", "excluding")


def _calls(
    index: Index, bare: Any, queries: FloatArray, left_out: IntArray, search: str, batch: int, k: int
) -> list[Callable[[], object]]:
    """Return one search per batch of the queries, ready to call."""
    calls: list[Callable[[], object]] = []
    for start in range(0, len(queries) - batch + 1, batch):
        part = queries[start : start + batch]
        if search == "bare":
            calls.append(partial(bare.search, part, k))
        else:
            excluded = _excluded(left_out[start : start + batch]) if search == "excluding" else None
            calls.append(partial(search_ours, index, part, k, excluded))
    return calls


def _timed(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Return the seconds of each call, made in turn for a while."""
    calls[0]()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        calls[len(times) % len(calls)]()
        times.append(time.perf_counter() - start)
    return times


def _ann_recall(
    index: Index, bare: Any, queries: FloatArray, left_out: IntArray, search: str, k: int
) -> float:
    """Return the overlap with the exact top k, over k."""
    excluded = _excluded(left_out) if search == "excluding" else None
    exact = index.brute_force(queries, k, excluded)[0]
    found = bare.search(queries, k)[1] if search == "bare" else index.search(queries, k, excluded)[0]
    overlaps = [len(np.intersect1d(f[f >= 0], e)) / k for f, e in zip(found, exact, strict=True)]
    return float(np.mean(overlaps))


def _excluded(rows: IntArray) -> Excluded:
    return Excluded(np.repeat(np.arange(len(rows)), rows.shape[1]), rows.ravel())
