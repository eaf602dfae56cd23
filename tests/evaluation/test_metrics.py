"""Metrics, ranking and intervals: hand-computed numbers, laws, and agreement with ir_measures."""

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ir_measures import RR, R, nDCG
from numpy.typing import NDArray
from scipy import sparse

from evaluation.bootstrap import UnpairedError, ci95, paired_ci95
from evaluation.metrics import RankingError, coverage, mean_over_users, mrr, ndcg, recall
from evaluation.ranking import ScoresError, top_k

RANKED = np.array([[3, 1, 4, 0], [2, 0, -1, -1], [0, 1, 2, 3], [4, 3, 2, 1]])
RELEVANT = sparse.csr_array(
    np.array([[1, 1, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], dtype=float)
)


def csr(rows: list[list[int]]) -> "sparse.csr_array[np.float32]":
    return sparse.csr_array(np.array(rows, dtype=np.float32))


def nothing(scores: NDArray[np.float32]) -> "sparse.csr_array[np.float32]":
    return sparse.csr_array(np.zeros_like(scores))


@st.composite
def runs(draw: st.DrawFn) -> tuple[NDArray[np.float32], "sparse.csr_array[np.bool_]"]:
    """Scores with many ties (five values) and relevant items, some users without any."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 12)))
    values = arrays(np.float32, shape, elements=st.sampled_from([-1.5, -0.0, 0.0, 0.25, 7.0]))
    return draw(values), sparse.csr_array(draw(arrays(np.bool_, shape)))


def test_recall_by_hand() -> None:
    np.testing.assert_array_equal(recall(RANKED, RELEVANT, 1), [0, 1, 0, np.nan])
    np.testing.assert_array_equal(recall(RANKED, RELEVANT, 4), [2 / 3, 1, 0, np.nan])


def test_recall_divides_by_all_relevant_items_not_by_k() -> None:
    assert recall(np.array([[0]]), csr([[1, 1, 1, 1]]), 1).tolist() == [0.25]


def test_ndcg_by_hand() -> None:
    ideal = 1 + 1 / np.log2(3) + 0.5
    first = (1 / np.log2(3) + 1 / np.log2(5)) / ideal  # hits at ranks 2 and 4 of three relevant items
    np.testing.assert_allclose(ndcg(RANKED, RELEVANT, 4), [first, 1, 0, np.nan], atol=1e-15)


def test_ndcg_cuts_the_ideal_at_k() -> None:
    assert ndcg(np.array([[0, 1]]), csr([[1, 1, 1, 1]]), 2).tolist() == [1.0]


def test_mrr_by_hand() -> None:
    np.testing.assert_array_equal(mrr(RANKED, RELEVANT, 4), [1 / 2, 1, 0, np.nan])
    np.testing.assert_array_equal(mrr(RANKED, RELEVANT, 1), [0, 1, 0, np.nan])


def test_coverage_by_hand() -> None:
    assert coverage(RANKED, 10, 1) == 0.4
    assert coverage(np.array([[-1, -1]]), 5, 2) == 0


def test_the_mean_counts_only_users_with_relevant_items() -> None:
    assert mean_over_users(recall(RANKED, RELEVANT, 4)) == pytest.approx(5 / 9)
    assert np.isnan(mean_over_users(np.array([np.nan])))


def test_a_stored_zero_or_a_pair_stored_twice_changes_nothing() -> None:
    data = (np.array([1.0, 0.0, 1.0]), np.array([2, 4, 2]), np.array([0, 3]))
    assert recall(np.array([[2, 4]]), sparse.csr_array(data, shape=(1, 5)), 2).tolist() == [1.0]


@pytest.mark.parametrize(
    ("ranked", "k", "told"),
    [
        ([[0, 1]], 3, "k is 3"),
        ([[0, 1]], 0, "k is 0"),
        ([[0, 5]], 2, "row 5"),
        ([[0, -2]], 2, "row -2"),
        ([[3, 1, 3]], 3, "user 0 has item 3 twice"),
        ([[0], [1]], 1, "2 users are ranked"),
    ],
)
def test_a_ranking_that_does_not_fit_is_refused(ranked: list[list[int]], k: int, told: str) -> None:
    for metric in (recall, ndcg, mrr):
        with pytest.raises(RankingError, match=told):
            metric(np.array(ranked), csr([[1, 0, 1, 0, 0]]), k)


@settings(max_examples=60, deadline=None)
@given(runs(), st.integers(1, 11))
def test_recall_grows_with_k_and_the_rest_keep_their_bounds(
    run: tuple[NDArray[np.float32], "sparse.csr_array[np.bool_]"], k: int
) -> None:
    scores, relevant = run
    ranked = top_k(scores, nothing(scores), 12)
    has = relevant.sum(axis=1) > 0
    less, more, all_of_them = (recall(ranked, relevant, cut)[has] for cut in (k, k + 1, 12))
    assert (less <= more).all()
    assert (all_of_them == 1).all()
    assert (mrr(ranked, relevant, k)[has] <= mrr(ranked, relevant, k + 1)[has]).all()
    gain = ndcg(ranked, relevant, k)[has]
    assert ((gain <= 1 + 1e-12) & ((gain > 0) == (less > 0))).all()


@pytest.mark.parametrize("k", [1, 5, 20])
def test_agrees_with_ir_measures(k: int) -> None:
    generator = np.random.default_rng(5)
    scores = generator.permuted(np.tile(np.arange(60, dtype=np.float32), (80, 1)), axis=1)  # no ties
    relevant = sparse.csr_array(generator.random((80, 60)) < generator.choice([0.02, 0.1, 0.6], (80, 1)))
    ranked = top_k(scores, nothing(scores), 20)
    qrels = [ir_measures.Qrel(str(u), str(i), 1) for u, i in zip(*relevant.nonzero(), strict=True)]
    run = [
        ir_measures.ScoredDoc(str(u), str(i), float(scores[u, i]))
        for u in range(80)
        for i in ranked[u].tolist()
    ]
    ours = {
        "R": recall(ranked, relevant, k),
        "nDCG": ndcg(ranked, relevant, k),
        "RR": mrr(ranked, relevant, k),
    }
    theirs = list(ir_measures.iter_calc([R @ k, nDCG @ k, RR @ k], qrels, run))
    assert len(theirs) == 3 * int((relevant.sum(axis=1) > 0).sum()) > 200
    for found in theirs:
        assert ours[str(found.measure.NAME)][int(found.query_id)] == pytest.approx(found.value, abs=1e-9)


def test_top_k_by_hand() -> None:
    scores = np.array([[0.1, 0.9, 0.9, -2.0, 0.5]], dtype=np.float32)
    assert top_k(scores, csr([[0, 0, 0, 0, 1]]), 6).tolist() == [[1, 2, 0, 3, -1, -1]]


def test_minus_infinity_is_never_ranked_and_minus_zero_equals_zero() -> None:
    scores = np.array([[-np.inf, 0.0, -0.0, -1e-45, 1e-45, -3e38, np.inf]], dtype=np.float32)
    assert top_k(scores, csr([[0] * 7]), 7).tolist() == [[6, 4, 1, 2, 3, 5, -1]]


def test_nothing_left_to_rank_is_all_padding() -> None:
    assert top_k(np.ones((1, 2), dtype=np.float32), csr([[1, 1]]), 2).tolist() == [[-1, -1]]
    assert top_k(np.ones((2, 0), dtype=np.float32), sparse.csr_array((2, 0)), 2).tolist() == [[-1, -1]] * 2


@settings(max_examples=80, deadline=None)
@given(runs(), st.integers(1, 14))
def test_top_k_equals_a_stable_sort_and_leaves_its_argument_alone(
    run: tuple[NDArray[np.float32], "sparse.csr_array[np.bool_]"], k: int
) -> None:
    scores, excluded = run
    before = scores.copy()
    ranked = top_k(scores, excluded, k)
    np.testing.assert_array_equal(scores, before)
    for user, barred in enumerate(excluded.toarray()):
        left = [i for i in np.argsort(-scores[user], kind="stable").tolist() if not barred[i]][:k]
        assert ranked[user].tolist() == left + [-1] * (k - len(left))


def test_scores_that_cannot_be_ranked_are_refused() -> None:
    excluded = csr([[0, 0], [0, 0]])
    with pytest.raises(ScoresError, match="row 1 hold NaN"):
        top_k(np.array([[0, 1], [0, np.nan]], dtype=np.float32), excluded, 1)
    with pytest.raises(ScoresError, match="float64"):
        top_k(np.zeros((2, 2)), excluded, 1)  # type: ignore[arg-type]
    with pytest.raises(ScoresError, match="excluded is"):
        top_k(np.zeros((2, 3), dtype=np.float32), excluded, 1)
    with pytest.raises(ValueError, match="k is 0"):
        top_k(np.zeros((2, 2), dtype=np.float32), excluded, 0)


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(1).exponential(size=4000)
    low, high = ci95(values, seed=2)
    half = 1.96 * values.std() / np.sqrt(4000)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert (low, high) == ci95(np.concatenate([values, [np.nan] * 9]), seed=2)
    assert (low, high) != ci95(values, seed=3)


def test_the_interval_of_nothing_and_of_constants() -> None:
    assert np.isnan(ci95(np.array([np.nan]), seed=0)).all()
    assert ci95(np.full(7, 0.25), seed=0) == (0.25, 0.25)


def test_a_paired_interval_sees_a_difference_that_single_ones_hide() -> None:
    a = np.random.default_rng(4).random(500)
    b = a - 0.01
    assert ci95(a, seed=0)[0] < ci95(b, seed=0)[1]
    assert paired_ci95(a, b, seed=0) == pytest.approx((0.01, 0.01))
    assert paired_ci95(b, a, seed=0)[1] < 0


def test_values_of_different_users_are_not_compared() -> None:
    with pytest.raises(UnpairedError, match="2 users against 3"):
        paired_ci95(np.zeros(2), np.zeros(3), seed=0)
    with pytest.raises(UnpairedError, match="user 1"):
        paired_ci95(np.zeros(2), np.array([0, np.nan]), seed=0)
