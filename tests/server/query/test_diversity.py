"""Maximal marginal relevance by hand and its laws."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evaluation.metrics import RankingError, intra_list_diversity
from server.query.diversity import diversified, pool_size
from store.home import Home
from tests.live_server import copy_home

AXES = np.array([[2, 0], [1, 0], [0, 3]], dtype=np.float32)


@st.composite
def pools(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(0, 12))
    scores = draw(arrays(np.float32, n, elements=st.floats(-8, 8, width=16)))
    values = st.sampled_from([-1.0, 0.0, 0.5, 1.0])
    return np.sort(scores)[::-1].copy(), draw(arrays(np.float32, (n, 3), elements=values))


def test_by_hand() -> None:
    scores = np.array([1.0, 0.9, 0.0], dtype=np.float32)
    # After the first: λ·0.9 − (1 − λ)·1 for its twin, λ·0 − 0 for the other, so the turn is at λ = 1 / 1.9.
    assert diversified(scores, AXES, 3, 0.53).tolist() == [0, 1, 2]
    assert diversified(scores, AXES, 3, 0.52).tolist() == [0, 2, 1]
    assert diversified(scores, AXES, 2, 0.0).tolist() == [0, 2]


def test_scores_matter_by_their_place_between_worst_and_best() -> None:
    scores = np.array([1.0, 0.9, 0.0], dtype=np.float32)
    for weight in (0.52, 0.53):
        expected = diversified(scores, AXES, 3, weight).tolist()
        assert diversified(7 * scores - 3, AXES, 3, weight).tolist() == expected


@given(pools(), st.integers(1, 15))
def test_one_is_the_order_by_score(pool: tuple[np.ndarray, np.ndarray], k: int) -> None:
    assert diversified(*pool, k, 1.0).tolist() == list(range(min(k, len(pool[0]))))


@given(pools(), st.integers(1, 15), st.floats(0, 1))
def test_the_first_stays_and_none_comes_twice(
    pool: tuple[np.ndarray, np.ndarray], k: int, weight: float
) -> None:
    scores, vectors = pool[0].copy(), pool[1].copy()
    chosen = diversified(scores, vectors, k, weight).tolist()
    assert len(chosen) == len(set(chosen)) == min(k, len(scores))
    if chosen and weight > 0:
        assert scores[chosen[0]] == scores[0]
    if weight == 0:
        assert chosen[:1] == [0][: len(chosen)]
    assert diversified(scores, vectors, 1, weight).tolist() == chosen[:1]
    np.testing.assert_array_equal(scores, pool[0])
    np.testing.assert_array_equal(vectors, pool[1])


@given(st.integers(1, 1000))
def test_the_pool_is_bounded_and_holds_the_results(k: int) -> None:
    assert max(100, k) <= pool_size(k) <= 2_000
    assert pool_size(k) == 5 * k or k <= 20 or k >= 400


def test_intra_list_diversity_by_hand() -> None:
    vectors = np.array([[1, 0], [5, 0], [0, 2], [-1, 0], [0, 0]], dtype=np.float32)
    ranked = np.array([[0, 1, 2], [0, 3, -1], [0, 4, 2], [2, -1, -1], [0, 1, 3]])
    got = intra_list_diversity(ranked, vectors, 3)
    np.testing.assert_allclose(got, [2 / 3, 2.0, 1.0, np.nan, 4 / 3], atol=1e-12)
    np.testing.assert_allclose(intra_list_diversity(ranked, vectors, 2), [0, 2, 1, np.nan, 0], atol=1e-12)


@given(arrays(np.float32, (5, 3), elements=st.floats(-4, 4, width=16)))
def test_intra_list_diversity_is_the_mean_over_pairs(vectors: np.ndarray) -> None:
    norms = np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros((5, 3)), where=norms > 0)
    pairs = [1 - unit[a] @ unit[b] for a in range(4) for b in range(a)]
    got = intra_list_diversity(np.array([[0, 1, 2, 3]]), vectors, 4)
    assert got[0] == pytest.approx(np.mean(pairs), abs=1e-6)


def test_a_ranking_that_does_not_fit_is_refused() -> None:
    with pytest.raises(RankingError, match=r"row 7 is ranked, but the items are 0\.\.2"):
        intra_list_diversity(np.array([[0, 7]]), AXES, 2)


def test_evaluate_measures_what_it_costs_and_gains(
    small_home: Home, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    reports = {}
    for weight in (1, 0.5):
        path = tmp_path / f"{weight}.json"
        code, out, err = run("evaluate", "--home", home.path, "--diversity", weight, "--json", path)
        assert code == 0, err
        assert f"maximal marginal relevance, λ = {weight:g}" in out
        reports[weight] = json.loads(path.read_text("utf-8"))
    same = reports[1]["diversity"]
    assert same["plain"] == same["diversified"]
    assert same["gain"]["recall"] == {"mean": 0.0, "ci95": [0.0, 0.0]}
    for k, figures in reports[1]["k"].items():
        assert figures.items() <= same["plain"][k].items()
    other = reports[0.5]["diversity"]
    assert other["plain"] == same["plain"]
    for k in ("10", "20"):
        for name in ("intra_list_diversity", "intra_list_diversity_texts"):
            assert other["diversified"][k][name] > other["plain"][k][name]
    assert run("evaluate", "--home", home.path, "--diversity", 1.5)[0] == 2
