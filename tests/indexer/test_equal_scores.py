"""Equal scores are in the order of ids, scores do not depend on what else is asked, lists begin alike."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.files import ItemChange, longest_of
from indexer.filters.filter import Filter
from indexer.index import Index
from indexer.search.exact import best_of, best_of_all, best_of_masked, best_of_some, scores_of, slack_of
from indexer.search.search import Exclusions
from scripts.bench.index.synthetic import write_index

DIM = 12
ITEMS = 300
HALF = Filter(equals=(("even", (True,)),))


def few_values(count: int, seed: int) -> np.ndarray:
    """Vectors many of which are the same, and whose scores are near each other."""
    rng = np.random.default_rng(seed)
    kinds = rng.standard_normal((9, DIM)).astype(np.float32)
    kinds[4:8] = kinds[4] * (1 + np.arange(4, dtype=np.float32)[:, None] * 2e-7)
    kinds[8] = 0
    return kinds[rng.integers(9, size=count)]


def change(item_id: str, vector: np.ndarray, popularity: float = 0.0) -> ItemChange:
    return ItemChange(item_id, vector, popularity, bytes(16), bytes(16), None, '{"even": true}')


def by_hand(index: Index, query: np.ndarray, out: set[str], *, half: bool) -> list[tuple[float, str]]:
    """Every item that may be found, by score and then id, one at a time."""
    now, ids = index.delta.state, index.ids.to_pylist()
    rows = np.flatnonzero(now.live(np.arange(len(ids))))
    kept = [
        row for row in rows.tolist() if ids[row] not in out and (not half or row >= ITEMS or row % 2 == 0)
    ]
    vectors = index.vectors_of(np.arange(len(ids)))
    alone = [float(scores_of(vectors[[row]], query[None], np.zeros((1, 1), np.int64))[0, 0]) for row in kept]
    return sorted((-score, ids[row]) for score, row in zip(alone, kept, strict=True))


@pytest.fixture(scope="module", params=["Flat", "IVF4,Flat", "IVF4,SQ8", "HNSW8"])
def directory(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    parent = tmp_path_factory.mktemp("ties")
    index = write_index(
        parent,
        few_values(ITEMS, 0),
        request.param,
        few_values(64, 1),
        attributes=lambda row: {"even": not row % 2},
    )  # fmt: skip
    return parent / index.index_id


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    batch=st.sampled_from([1, 3, 5, 9, 30]),
    late=st.integers(0, 60),
    gone=st.integers(0, 100),
    left_out=st.integers(0, 30),
    half=st.booleans(),
    exact=st.booleans(),
)
def test_every_list_is_the_head_of_the_whole_by_score_and_id(
    directory: Path, seed: int, batch: int, late: int, gone: int, left_out: int, half: bool, exact: bool
) -> None:
    rng = np.random.default_rng(seed)
    index = Index.load(directory, check=False)
    index.put([], [f"item-{n:09d}" for n in rng.permutation(ITEMS)[:gone]])
    vectors = few_values(ITEMS + late, 0)[ITEMS:] if late else few_values(0, 0)
    vectors[~vectors.any(axis=1), 0] = 1  # an item that is put without a vector is found by no search
    new = [f"item-{n:09d}" if n % 2 else f"item-{n:09d}x" for n in rng.permutation(ITEMS)[:late]]
    index.put([change(item_id, vector) for item_id, vector in zip(new, vectors, strict=True)])
    queries = np.concatenate([few_values(batch, 0), rng.standard_normal((batch, DIM)).astype(np.float32)])[
        rng.permutation(2 * batch)[:batch]
    ]
    out = [f"item-{n:09d}" for n in rng.integers(ITEMS, size=left_out)]
    numbers = rng.integers(batch, size=left_out)
    excluded = Exclusions(numbers, index.rows(out))
    find = index.brute_force if exact else index.search
    wanted = HALF if half else None
    lists = {k: find(queries, k, excluded, wanted) for k in (1, 7, 40, 500)}
    for q in range(batch):
        whole = by_hand(index, queries[q], {out[i] for i in np.flatnonzero(numbers == q)}, half=half)
        own = Exclusions(np.zeros((numbers == q).sum(), np.int64), excluded.rows[numbers == q])
        score_of = {item_id: -score for score, item_id in whole}
        for k, (rows, scores) in lists.items():
            there = rows[q] >= 0
            answer = [
                (-float(score), item_id)
                for item_id, score in zip(index.item_ids(rows[q][there]), scores[q][there], strict=True)
            ]
            assert answer == sorted(answer)
            assert all(score_of[item_id] == -score for score, item_id in answer)
            if exact or index.exact:
                assert answer == whole[:k]
                alone = find(queries[q : q + 1], k, own, wanted)
                assert alone[0][0].tolist() == rows[q].tolist()
                assert alone[1][0].tolist() == scores[q].tolist()


@pytest.mark.parametrize("batch", [1, 5, 9, 40])
@pytest.mark.parametrize("kinds", [1, 3])
def test_where_thousands_tie_the_first_ids_are_found(batch: int, kinds: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((kinds, DIM)).astype(np.float32)[np.arange(30_000) % kinds]
    queries = rng.standard_normal((batch, DIM)).astype(np.float32)
    queries[-1] = 0  # somebody of whom nothing is known: every score is 0
    mask = np.arange(len(vectors)) % 5 > 1
    allowed = np.flatnonzero(mask)
    scores = scores_of(vectors, queries, np.tile(np.arange(len(vectors)), (batch, 1)))
    for k in (10, 12_000):
        order = np.argsort(-scores, axis=1, kind="stable")
        right = order[:, :k].tolist()
        right_allowed = [row[mask[row]][:k].tolist() for row in order]
        assert best_of_all(vectors, queries, k)[0].tolist() == right
        assert best_of_masked(vectors, mask, queries, k)[0].tolist() == right_allowed
        assert best_of_some(vectors, allowed, queries, k)[0].tolist() == right_allowed


@given(seed=st.integers(0, 2**31), k=st.integers(1, 40))
def test_the_best_of_rows_with_equal_scores_are_the_smallest(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.permuted(np.tile(np.arange(50), (3, 1)), axis=1)
    scores = rng.integers(4, size=rows.shape).astype(np.float32)
    best = best_of(rows, scores, k)
    for q in range(3):
        right = sorted(zip(-scores[q], rows[q], strict=True))[:k]
        assert list(zip(-best[1][q], best[0][q], strict=True)) == right


@given(seed=st.integers(0, 2**31), size=st.floats(-6, 6))
def test_two_kernels_differ_by_less_than_the_slack(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = (10**size * rng.standard_normal((50, 300))).astype(np.float32)
    queries = rng.standard_normal((9, 300)).astype(np.float32)
    one = scores_of(vectors, queries, np.tile(np.arange(50), (9, 1)))
    slack = slack_of(queries, longest_of(vectors))
    assert (np.abs(one - queries @ vectors.T) < slack / 2).all()
    assert (slack < 1e-3 * np.linalg.norm(queries, axis=1, keepdims=True) * longest_of(vectors)).all()


def test_popular_items_that_are_equally_popular_are_in_the_order_of_ids(tmp_path: Path) -> None:
    index = write_index(tmp_path, few_values(6, 0) + 1, "Flat", few_values(64, 1))
    ones = np.ones(DIM, np.float32)
    index.put([change("item-000000002x", ones), change("a", ones), change("z", ones), change("b", ones, 5.0)])
    ids = [f"item-{n:09d}" for n in range(6)]
    right = ["b", "a", *ids[:3], "item-000000002x", *ids[3:], "z"]
    for k in (1, 2, 5, 6, 20):
        assert index.item_ids(index.popular(k, np.zeros(0, np.int64))) == right[:k]
