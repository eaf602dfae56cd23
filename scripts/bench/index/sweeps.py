"""Recall and throughput over the effort of a search: of ours, of bare FAISS, of other libraries."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from indexer.files import FloatArray, IntArray
from indexer.index import Index
from indexer.search import Searched
from scripts.bench.index.bare import Bare
from scripts.bench.index.searches import SearchComparison, search_ours
from scripts.bench.index.timing import Search, Times, ann_recall, figures, threads, time_by_turns

EFFORTS = (10, 20, 40, 80, 160, 320, 640, 1280, 2560)  # of graphs
_TIMES = (0.125, 0.25, 0.5, 1.0, 2.0)  # the effort that an index was tuned to
_BATCH = 64


def curve_of_ours(contest: SearchComparison, factory: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield the points of our search with ids, and of bare FAISS, at one thread."""
    approximate, queries, k = contest.index.approximate, contest.queries, contest.k
    if approximate is None:
        return
    exact, tuned = contest.index.brute_force(queries, k), approximate.search_params
    size = min(_BATCH, len(queries))
    for probes in sorted({max(1, round(times * tuned.nprobe)) for times in _TIMES}):
        approximate.search_params = replace(tuned, nprobe=probes)
        searches: dict[str, Search] = {
            "faiss": partial(_found, contest.bare, queries, size, k, probes),
            "triptych": partial(_ours, contest.index, queries, size, k),
        }
        with threads(1):
            taken = time_by_turns(searches, len(queries) // size, seconds / 2)
        found = {
            "faiss": contest.bare.find(queries, k, probes),
            "triptych": contest.index.search(queries, k)[0],
        }
        for library, times in taken.items():
            yield _point(library, factory, probes, ann_recall(found[library], exact), size, times)
    approximate.search_params = tuned


def curve_of_library(
    library: Bare, queries: FloatArray, exact: Searched, k: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Yield the points of another library at one thread."""
    library.use_threads(1)
    size = min(_BATCH, len(queries))
    for search_params in (e for e in EFFORTS if e >= k):
        search = partial(_found, library, queries, size, k, search_params)
        times = time_by_turns({library.name: search}, len(queries) // size, seconds / 2)[library.name]
        recall = ann_recall(library.find(queries, k, search_params), exact)
        yield _point(library.name.split()[0], library.name, search_params, recall, size, times)


def least_effort(library: Bare, queries: FloatArray, exact: Searched, k: int, recall: float) -> int:
    """Return the least of EFFORTS that reaches an ANN recall, or the last."""
    for search_params in EFFORTS:
        if search_params >= k and ann_recall(library.find(queries, k, search_params), exact) >= recall:
            return search_params
    return EFFORTS[-1]


def plot_curves(path: Path, points: list[dict[str, Any]]) -> None:
    """Write a PNG of throughput over what is missed, a line per library and factory."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    factories = list(dict.fromkeys(point["factory"] for point in points))
    for key in dict.fromkeys((point["library"], point["factory"]) for point in points):
        mine = [point for point in points if (point["library"], point["factory"]) == key]
        axes.plot(
            [point["ann_recall"] for point in mine],
            [point["throughput"] for point in mine],
            marker="o" if key[0] == "triptych" else "x",
            linestyle="-" if key[0] == "triptych" else "--",
            color=f"C{factories.index(key[1])}",
            label=" ".join(dict.fromkeys(key)),
        )
    axes.set(xlabel="ANN recall", ylabel="queries per second, one thread, batch 64", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _point(
    library: str, factory: str, search_params: int, recall: float, batch: int, times: Times
) -> dict[str, Any]:
    return {
        "library": library,
        "factory": factory,
        "effort": search_params,
        "ann_recall": recall,
        "throughput": figures(times, batch)["throughput"],
    }


def _found(
    library: Bare, queries: FloatArray, size: int, k: int, search_params: int, number: int
) -> IntArray:
    return library.find(queries[number * size : (number + 1) * size], k, search_params)


def _ours(index: Index, queries: FloatArray, size: int, k: int, number: int) -> object:
    return search_ours(index, queries[number * size : (number + 1) * size], k)
