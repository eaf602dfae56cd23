"""FAISS on a graphics card finds what the CPU finds, in files that serve on both."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from indexer.building.factory import FactoryError, empty_faiss
from indexer.files import faiss_file
from indexer.search.ann import AnnIndex, SearchParams, exact_on_gpus, open_shards
from indexer.search.gpu import MOST_QUERIES, Found, MicroBatcher, gpus, has_cuvs, is_on_gpu, to_cpu, to_gpu
from tests.random_index import FILTERS, make_index, queries_of

gpu = pytest.mark.gpu


def test_without_a_card_everything_stays_as_it_is() -> None:
    if gpus().count:
        pytest.skip("there is a card")
    index = faiss.IndexFlatIP(4)
    assert to_gpu(index) is index
    assert to_cpu(index) is index
    assert not is_on_gpu(index)
    assert "CPU build" in gpus().reason or "0 graphics cards" in gpus().reason


@gpu
@pytest.mark.skipif(not gpus().count, reason="no graphics card")
@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "IVF16,SQ8", "Pad16,IVF16,SQ8"])
def test_a_card_finds_what_brute_force_finds(tmp_path: Path, factory: str) -> None:
    index = make_index(tmp_path, 4_000, factory)
    assert index.approximate is not None
    assert is_on_gpu(index.approximate._shards[0])
    found, exact = index.search(queries_of(32), 20), index.brute_force(queries_of(32), 20)
    shared = [len(np.intersect1d(f, e)) for f, e in zip(found[0], exact[0], strict=True)]
    assert np.mean(shared) >= 0.98 * 20
    for wanted in FILTERS:
        kept = index.search(queries_of(3), 10, None, wanted)[0]
        assert (kept >= 0).sum() == (index.brute_force(queries_of(3), 10, None, wanted)[0] >= 0).sum()


@gpu
@pytest.mark.skipif(not gpus().count, reason="no graphics card")
def test_halves_on_a_card_are_looked_at_again(tmp_path: Path) -> None:
    index = make_index(tmp_path, 4_000)
    halves = exact_on_gpus(index.main.vectors, float16=True)
    _, scores = halves.scored(index.main.vectors, queries_of(32), 20, halves.search_params)
    best = np.sort(scores, axis=1)[:, ::-1][:, :20]
    np.testing.assert_allclose(best, index.brute_force(queries_of(32), 20)[1], rtol=1e-5, atol=1e-5)


@gpu
@pytest.mark.skipif(not (gpus().count and has_cuvs()), reason="no graphics card, or a FAISS without cuVS")
def test_a_cagra_graph_serves_on_the_card_and_on_the_cpu(tmp_path: Path) -> None:
    index = make_index(tmp_path, 4_000, "CAGRA32")
    exact = index.brute_force(queries_of(32), 20)[0]
    assert index.approximate is not None
    assert index.approximate._shards[0].referenced_objects[0].ntotal == 4_000  # it reads its vectors
    on_cpu = open_shards([tmp_path / index.index_id / faiss_file(0)], SearchParams(128), cpu=True)
    for rows in (index.search(queries_of(32), 20)[0], on_cpu.search(queries_of(32), 20, SearchParams(128))):
        assert np.mean([len(np.intersect1d(f, e)) for f, e in zip(rows, exact, strict=True)]) >= 0.95 * 20


def test_a_graph_as_a_card_makes_it_is_searched_on_the_cpu(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((2_000, 8)).astype(np.float32)
    graph = faiss.IndexHNSWCagra(8, 16, faiss.METRIC_INNER_PRODUCT)  # type: ignore[attr-defined]
    graph.add(vectors)
    graph.base_level_only = True
    faiss.write_index(graph, str(tmp_path / "graph"))
    opened = open_shards([tmp_path / "graph"], SearchParams(64))
    assert opened.full
    assert opened.filters
    rows, scores = opened.scored(vectors, queries_of(32), 10, opened.search_params)
    exact = np.argsort(-(queries_of(32) @ vectors.T), axis=1)[:, :10]
    assert np.mean([len(np.intersect1d(f, e)) for f, e in zip(rows, exact, strict=True)]) >= 9.5
    np.testing.assert_allclose(scores[0], vectors[rows[0]] @ queries_of(32)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(bool(gpus().count) and has_cuvs(), reason="this machine can build it")
def test_a_cagra_graph_needs_a_card() -> None:
    with pytest.raises(FactoryError, match=r"'CAGRA64'.*faiss-gpu-cuvs"):
        empty_faiss(8, "CAGRA64")


def test_many_shards_are_one_index() -> None:
    vectors = np.random.default_rng(0).standard_normal((203, 8)).astype(np.float32)
    shards = []
    for start in range(0, 203, 72):  # as for three cards
        shards.append(faiss.IndexFlatIP(8))
        shards[-1].add(vectors[start : start + 72])
    found = AnnIndex(shards, SearchParams()).scored(vectors, queries_of(5), 10, SearchParams())
    best = np.sort(found[1], axis=1)[:, ::-1][:, :10]
    np.testing.assert_allclose(
        best, -np.sort(-(queries_of(5) @ vectors.T), axis=1)[:, :10], rtol=1e-5, atol=1e-5
    )


class Counting:
    """A search that can be held up, and says how many queries each of its runs had."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.open = threading.Event()
        self.began = threading.Event()

    def __call__(self, queries: np.ndarray, count: int, given: Any) -> Found:
        self.runs.append(len(queries))
        self.began.set()
        assert self.open.wait(60)
        if given == "bad":
            raise RuntimeError("the card is full")
        return np.repeat(queries, count, axis=1), np.full((len(queries), count), count)


def all_at_once(together: MicroBatcher, search: Counting, calls: list[tuple[int, int, Any]]) -> list[Any]:
    """Return what calls get that come while another one runs."""

    def call(number: int, size: int, count: int, given: Any) -> Callable[[], Found]:
        return lambda: together(np.full((size, 1), number, np.float32), count, given)

    with ThreadPoolExecutor(len(calls) + 1) as pool:
        first = pool.submit(call(0, 1, 1, None))
        assert search.began.wait(60)
        rest = [pool.submit(call(n, *asked)) for n, asked in enumerate(calls, 1)]
        while len(together._waiting) < len(calls):
            threading.Event().wait(0.001)
        search.open.set()
        first.result()
        return [one.exception() or one.result() for one in rest]


def test_calls_that_wait_share_a_run() -> None:
    search = Counting()
    found = all_at_once(MicroBatcher(search), search, [(2, 5, None), (3, 7, None), (1, 2, "other")])
    assert sorted(search.runs) == [1, 1, 5]
    for number, ((scores, rows), (size, count)) in enumerate(
        zip(found, [(2, 5), (3, 7), (1, 2)], strict=True), 1
    ):
        assert (scores == number).all()
        assert scores.shape == rows.shape == (size, count)


def test_a_run_has_its_bounds_and_its_failure_reaches_all_in_it() -> None:
    search = Counting()
    large = all_at_once(MicroBatcher(search), search, [(MOST_QUERIES, 1, None), (1, 1, None)])
    assert sorted(search.runs) == [1, 1, MOST_QUERIES]
    assert [len(scores) for scores, _ in large] == [MOST_QUERIES, 1]
    search = Counting()
    failed = all_at_once(MicroBatcher(search), search, [(1, 1, "bad"), (1, 1, "bad"), (1, 1, None)])
    assert [str(one) for one in failed[:2]] == ["the card is full"] * 2
    assert failed[2][0].shape == (1, 1)
