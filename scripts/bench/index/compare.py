"""Our search beside bare FAISS, hnswlib and usearch: recall, latency, throughput, filters."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from indexer.building import choose, empty_faiss, lists_for
from indexer.files import FloatArray
from indexer.index import Index
from indexer.search import EXACT, Searched
from scripts.bench.index.bare import Bare, graph_libraries
from scripts.bench.index.engines import filtering_engines
from scripts.bench.index.filtered import EQUAL, OURS, engine_figures, filter_figures, near_of
from scripts.bench.index.searches import BARE, BESIDE, EVERYTHING, SearchComparison
from scripts.bench.index.sweeps import curve_of_library, curve_of_ours, least_effort
from scripts.bench.index.synthetic import (
    NEAR,
    RANDOM,
    Built,
    Synthetic,
    build_index_apart,
    centre_of,
    random_of,
)
from scripts.bench.index.timing import ann_recall, beside, figures, threads, time_by_turns

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexOptions:
    """What to measure_index: all factories at all batches and threads.

    Attributes:
        factories: empty for one of each kind.
        k: results per query.
        excluded: items per query that ours leaves out, as seen items are; bare libraries leave out none.
        changes: items put since the index was built, half of them in the place of others; ours alone.
        shares: of the filter_figures of filters; empty for none.
        ann_recall: at k = 100, which every index is tuned to on other queries than are measured.
        queries: that are measured.
        seconds: per search and setting.
        libraries: also measure hnswlib and usearch, and engines that filter where there are shares.
    """

    items: int = 100_000
    dim: int = 128
    factories: Sequence[str] = ()
    k: int = 10
    excluded: int = 20
    changes: int = 1_000
    batches: Sequence[int] = (1, 16, 64)
    threads: Sequence[int] = (1, 2)
    shares: Sequence[float] = ()
    ann_recall: float = 0.99
    queries: int = 256
    seconds: float = 1.0
    seed: int = 0
    libraries: bool = True


def measure_index(folder: Path, options: IndexOptions) -> dict[str, Any]:
    """Return results, curves, filters, builds and ratios; index files go to a folder.

    Raises:
        FactoryError: FAISS does not understand a factory.
    """
    factories = list(options.factories or default_factories(options.items, options.dim))
    for factory in factories:
        empty_faiss(options.dim, factory)  # so that a bad factory fails before the work
    world = Synthetic(options.items, options.dim, options.seed)
    queries = world.users(options.queries, draw=1)  # the indexes are tuned with draw 0
    report: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("results", "curves", "filters", "engines", "builds")
    }
    some: Index | None = None
    folders: dict[str, Path] = {}
    headline = choose(options.items, options.dim).factory
    first = headline if headline in factories else factories[0]
    for factory in factories:
        log.info("bench index: building %s over %d × %d", factory, options.items, options.dim)
        built = build_index_apart(folder / str(len(report["builds"])), world, factory, options.ann_recall)
        index = some = Index.load(built.directory, check=False)
        report["builds"].append(_of_build(factory, built, index))
        if index.manifest["factory"] != factory:
            log.info("bench index: %s misses the ANN recall and is left out", factory)
            continue
        folders[factory] = built.directory
        contest = SearchComparison(
            built.directory, world, queries, options.k, options.excluded, options.changes
        )
        report["results"] += _results(contest, factory, options)
        report["curves"] += [*curve_of_ours(contest, factory, options.seconds)]
        if options.shares:
            centre = centre_of(world)
            report["filters"] += filter_figures(
                index, factory, queries, centre, options.shares, options.k, options.seconds
            )
    if some is not None and options.libraries:
        exact = some.brute_force(queries, options.k)
        for library in graph_libraries(some.main.vectors):
            report["curves"] += curve_of_library(library, queries, exact, options.k, options.seconds)
            report["results"] += _of_library(library, queries, exact, options)
    if first in folders and options.shares and options.libraries:
        # Loaded anew, as a server would: the filters tried before have filled the room for copied codes.
        index = Index.load(folders[first], check=False)
        numbers = {RANDOM: random_of(world), NEAR: near_of(index, centre_of(world)).astype(np.float64)}
        engines = filtering_engines(folder / "engines", index.main.vectors, numbers)
        report["engines"] += engine_figures(
            index, engines, numbers, queries, options.k, options.ann_recall, options.seconds
        )
    log.info("bench index: done")
    return {**report, "ratios": index_ratios(report["results"], first) | engine_ratios(report["engines"])}


def default_factories(items: int, dim: int) -> list[str]:
    """Return one factory of each kind that fits a number of items."""
    lists = lists_for(items)
    return [EXACT, "HNSW32", f"IVF{lists},Flat", f"IVF{lists},SQ8", f"RR{dim},IVF{lists},RaBitQ"]


def index_ratios(results: Sequence[dict[str, Any]], headline: str) -> dict[str, float]:
    """Return ours over bare per factory and number of threads.

    `batch64_throughput` and its like are ours / bare, `batch1_added_us` is what one query waits longer, both
    of the search with everything; with `_usual` and `_plain` behind, of those. The throughput of one thread
    is per second of its processor. Names that begin with neither factory nor threads are those of one factory
    with one thread.
    """
    found: dict[str, float] = {}
    for row in results:
        place = f"{row['factory']}/t{row['threads']}/batch{row['batch']}"
        if row["search"] in BESIDE:
            suffix = "" if row["search"] == EVERYTHING else f"_{row['search']}"
            over = row["cpu_over_bare" if row["threads"] == 1 else "over_bare"]
            found[f"{place}_throughput{suffix}"] = over
            found[f"{place}_added_us{suffix}"] = row["added_us"]
        found[f"{row['factory']}/ann_recall_{row['search']}"] = row["ann_recall"]
    first = f"{headline}/t1/"
    return {name.removeprefix(first): found[name] for name in found if name.startswith(first)} | found


def engine_ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the time of our search over that of each engine, by share and by the items that pass.

    Names that end with `_at_our_recall` are of an engine whose effort reaches the recall of ours.
    """
    return {
        f"filters/{row['share']:g}/{row['items']}/over_{row['engine'].split()[0]}"
        f"{'_at_our_recall' if row['at'] == EQUAL else ''}": row["ours_over"]
        for row in rows
        if row["engine"] != OURS
    }


def _of_build(factory: str, built: Built, index: Index) -> dict[str, Any]:
    return {
        "factory": factory,
        "became": index.manifest["factory"],
        "seconds": built.seconds,
        "peak_mib": built.peak_mib,
        "faiss_mib": built.faiss_mib,
        **{name: index.manifest[name] for name in ("probes", "refine", "least", "ann_recall@100")},
    }


def _results(contest: SearchComparison, factory: str, options: IndexOptions) -> Iterator[dict[str, Any]]:
    recalls = contest.recalls()
    for count, batch in product(options.threads, options.batches):
        searches = contest.searches(batch)
        for ours, bare in BESIDE.items():
            if ours not in searches:
                continue
            pair = {name: searches[name] for name in (bare, ours)}
            with threads(count):
                times = time_by_turns(pair, options.queries // batch, options.seconds)
            for search, taken in times.items():
                yield {
                    "factory": factory,
                    "threads": count,
                    "batch": batch,
                    "search": search,
                    **figures(taken, batch),
                    **beside(taken, times[bare]),
                    "ann_recall": recalls[search],
                }


def _of_library(
    library: Bare, queries: FloatArray, exact: Searched, options: IndexOptions
) -> Iterator[dict[str, Any]]:
    """Yield the figures of another library at the least search parameters that reach the wanted recall."""
    search_params = least_effort(library, queries, exact, options.k, options.ann_recall)
    recall = ann_recall(library.find(queries, options.k, search_params), exact)
    for count in options.threads:
        library.use_threads(count)
        for batch in options.batches:

            def search(number: int, size: int = batch) -> object:
                return library.find(queries[number * size : (number + 1) * size], options.k, search_params)

            taken = time_by_turns({BARE: search}, options.queries // batch, options.seconds)[BARE]
            yield {
                "factory": library.name,
                "threads": count,
                "batch": batch,
                "search": BARE,
                **figures(taken, batch),
                **beside(taken, taken),
                "ann_recall": recall,
            }
