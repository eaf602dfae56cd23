"""The search against brute force by hand: batches of every size, filters, exclusions and changes at once."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.files import ItemChange
from indexer.filters.filter import Filter
from indexer.index import Index
from indexer.search.exact import (
    as_matrix,
    best_of,
    best_of_all,
    best_of_masked,
    best_of_parts,
    best_of_some,
    scores_of,
)
from indexer.search.search import Exclusions, _is_among
from scripts.bench.index.synthetic import write_index

DIM = 6
ITEMS = 400


def drawn(count: int, seed: int, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def change(item_id: str, vector: np.ndarray, even: bool) -> ItemChange:
    return ItemChange(item_id, vector, 0.0, bytes(16), bytes(16), None, json.dumps({"even": even}))


@pytest.fixture(scope="module", params=["Flat", "IVF8,Flat", "IVF8,SQ8", "RR6,IVF8,RaBitQ", "HNSW16"])
def directory(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    parent = tmp_path_factory.mktemp("search")
    index = write_index(
        parent, drawn(ITEMS, 0), request.param, drawn(64, 1), attributes=lambda row: {"even": row % 2 == 0}
    )
    return parent / index.index_id


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    batch=st.sampled_from([1, 2, 9, 30]),
    k=st.sampled_from([1, 5, 60, 250, 700]),
    gone=st.integers(0, 390),
    late=st.integers(0, 40),
    left_out=st.integers(0, 300),
    deny=st.integers(0, 100),
    even=st.booleans(),
)
def test_a_search_finds_k_of_what_is_left_and_the_best_of_it(
    directory: Path,
    seed: int,
    batch: int,
    k: int,
    gone: int,
    late: int,
    left_out: int,
    deny: int,
    even: bool,
) -> None:
    rng = np.random.default_rng(seed)
    index = Index.load(directory, check=False)
    vectors = {f"item-{n:09d}": (index.main.vectors[n], n % 2 == 0) for n in range(ITEMS)}
    removed = [f"item-{n:09d}" for n in rng.permutation(ITEMS)[:gone]]
    new = [f"item-{n:09d}" if n % 2 else f"new-{n}" for n in rng.permutation(ITEMS)[:late]]
    puts = [change(item_id, drawn(1, 5_000 + n)[0], n % 3 == 0) for n, item_id in enumerate(new)]
    index.put([], removed)
    index.put(puts)
    for item_id in removed:
        del vectors[item_id]
    vectors |= {put.item_id: (put.vector, json.loads(put.attributes)["even"]) for put in puts}
    ids = sorted(vectors)
    denied = tuple(rng.permutation([*ids, "unknown"])[:deny].tolist())
    asked = rng.permutation(np.repeat(ids, 2) if ids else [])[:left_out].tolist()  # some of them twice
    numbers = rng.integers(batch, size=len(asked))
    wanted = Filter(equals=(("even", (True,)),) if even else (), deny=denied)
    queries = drawn(batch, seed % 1000)
    rows, scores = index.search(queries, k, Exclusions(numbers, index.rows(asked)), wanted)
    assert rows.shape == scores.shape == (batch, k)
    for q in range(batch):
        out = {*denied, *(asked[i] for i in np.flatnonzero(numbers == q))}
        left = {i: v for i, (v, is_even) in vectors.items() if i not in out and (is_even or not even)}
        found = index.item_ids(rows[q][rows[q] >= 0])
        assert len(found) == len(set(found)) == min(k, len(left))  # never fewer than there are
        assert set(found) <= set(left)
        assert (rows[q][len(found) :] == -1).all()
        assert np.isneginf(scores[q][len(found) :]).all()
        exact = np.array([queries[q] @ left[i] for i in found])
        np.testing.assert_allclose(scores[q][: len(found)], exact, rtol=1e-4, atol=1e-5)
        assert (np.diff(scores[q][: len(found)]) <= 0).all()
        if index.exact:
            best = sorted(left, key=lambda i, q=q: -float(queries[q] @ left[i]))[:k]
            assert found == best


def test_what_is_asked_alone_and_in_a_batch_is_found_alike(directory: Path) -> None:
    index = Index.load(directory, check=False)
    index.put([change("item-000000003", drawn(1, 5)[0], True)], ["item-000000004"])
    queries, out = drawn(20, 7), np.random.default_rng(3).integers(ITEMS, size=(20, 5))
    together = index.search(queries, 10, Exclusions(np.repeat(np.arange(20), 5), out.ravel()))
    for q in range(20):
        alone = index.search(queries[q : q + 1], 10, Exclusions(np.zeros(5, np.int64), out[q]))
        assert alone[0][0].tolist() == together[0][q].tolist()
        np.testing.assert_allclose(alone[1][0], together[1][q], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 8, 40])
def test_exact_searches_equal_a_sort_of_all_scores(batch: int) -> None:
    vectors, queries = drawn(20_000, 0), drawn(batch, 1)  # more than one block of a matrix product
    mask = np.random.default_rng(2).random(20_000) < 0.3
    allowed = np.flatnonzero(mask)
    scores = queries @ vectors.T
    best = np.argsort(-scores, axis=1)[:, :50]
    best_allowed = allowed[np.argsort(-scores[:, allowed], axis=1)[:, :50]]
    assert best_of_all(vectors, queries, 50)[0].tolist() == best.tolist()
    for found in (best_of_masked(vectors, mask, queries, 50), best_of_some(vectors, allowed, queries, 50)):
        assert found[0].tolist() == best_allowed.tolist()
        np.testing.assert_allclose(
            found[1], np.take_along_axis(scores, best_allowed, 1), rtol=1e-4, atol=1e-5
        )
    few = best_of_masked(vectors, np.arange(20_000) < 3, queries, 5)
    assert np.sort(few[0][:, :3], axis=1).tolist() == [[0, 1, 2]] * batch
    assert (few[0][:, 3:] == -1).all()
    assert np.isneginf(few[1][:, 3:]).all()


def test_no_row_has_no_score() -> None:
    scores = scores_of(drawn(5, 0), drawn(2, 1), np.array([[0, -1], [-1, 4]]))
    assert np.isneginf(scores).tolist() == [[False, True], [True, False]]
    assert scores_of(drawn(5, 0), drawn(2, 1), np.zeros((2, 0), np.int64)).shape == (2, 0)


@given(seed=st.integers(0, 2**31), batch=st.integers(1, 5), count=st.integers(1, 60), k=st.integers(1, 60))
def test_the_best_of_rows_and_of_further_ones_are_the_head_of_a_sort(
    seed: int, batch: int, count: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = np.tile(np.arange(count), (batch, 1))
    scores = rng.permuted(rng.choice(10_000, count, replace=False) * np.ones((batch, 1)), axis=1)
    rows, found = best_of(rows, scores.astype(np.float32), k)
    assert found.tolist() == (-np.sort(-scores, axis=1))[:, :k].tolist()
    assert np.take_along_axis(scores, rows, 1).tolist() == found.tolist()
    query = np.sort(rng.integers(batch, size=7))
    more = rng.random(7).astype(np.float32) * 10_000
    further = as_matrix(query, batch, np.arange(count, count + 7), more)
    both = best_of_parts([(rows, found), further], found.shape[1])
    for q in range(batch):
        expected = np.sort(np.concatenate([found[q], more[query == q]]))[::-1][: found.shape[1]]
        assert both[1][q].tolist() == expected.tolist()


@given(seed=st.integers(0, 2**31), size=st.sampled_from([10, 2_048, 5_000]), known=st.integers(0, 3_000))
def test_among_is_membership(seed: int, size: int, known: int) -> None:
    rng = np.random.default_rng(seed)
    among = np.sort(rng.integers(200_000, size=known))
    values = rng.integers(-1, 200_000, size=(2, size // 2))
    assert _is_among(values, among).tolist() == np.isin(values, among).tolist()


def test_ids_of_few_and_of_many_rows(tmp_path: Path) -> None:
    index = write_index(tmp_path, drawn(ITEMS, 0), "Flat", drawn(64, 1))
    index.put([change("late", drawn(1, 9)[0], True)])
    rows = np.append(np.random.default_rng(0).permutation(ITEMS), ITEMS)
    expected = [*(f"item-{row:09d}" for row in rows[:-1]), "late"]
    assert index.item_ids(rows) == expected
    assert index.item_ids(rows[-5:]) == expected[-5:]
    assert index.item_ids(rows[:0]) == []
