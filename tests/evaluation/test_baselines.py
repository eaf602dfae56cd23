"""Popularity and EASE: hand-computed numbers, the normal equations, and the choice of λ."""

import numpy as np
import pytest
from scipy import sparse

from evaluation.baselines.ease import (
    MAX_EASE_ITEMS,
    Ease,
    Popularity,
    TooManyItemsError,
    choose_ease,
)
from evaluation.baselines.selection import NoTargetsError
from evaluation.metrics import mean_over_users, recall
from evaluation.ranking import top_k

TRAIN = sparse.csr_array(np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1]], dtype=np.float32))


def groups(seed: int) -> tuple["sparse.csr_array[np.float32]", "sparse.csr_array[np.float32]"]:
    """Train and held-out items of 300 users who like one of six blocks of ten items."""
    generator = np.random.default_rng(seed)
    block = generator.integers(6, size=300)
    liked = generator.random((300, 60)) < np.where(np.arange(60) // 10 == block[:, None], 0.5, 0.02)
    held_out = liked & (generator.random((300, 60)) < 0.2)
    return sparse.csr_array((liked & ~held_out).astype(np.float32)), sparse.csr_array(
        held_out.astype(np.float32)
    )


def test_popularity_counts_users_not_weights() -> None:
    scores = Popularity.fit(TRAIN * 5).scores(TRAIN[:2])
    assert scores.dtype == np.float32
    assert scores.tolist() == [[3, 2, 1], [3, 2, 1]]


def test_ease_by_hand() -> None:
    # XᵀX + 1·I = [[4, 2, 1], [2, 3, 0], [1, 0, 2]]; its inverse times the determinant, 13:
    # [[6, -4, -3], [-4, 7, 2], [-3, 2, 8]]; column j by -P_jj, diagonal 0
    expected = np.array([[0, 4 / 7, 3 / 8], [4 / 6, 0, -2 / 8], [3 / 6, -2 / 7, 0]])
    model = Ease.fit(TRAIN, lam=1.0)
    np.testing.assert_allclose(model.weights, expected, rtol=1e-6)
    scores = model.scores(sparse.csr_array(np.array([[0, 9, 1], [0, 0, 0]])))
    np.testing.assert_allclose(scores, [expected[1] + expected[2], [0, 0, 0]], rtol=1e-6)


def test_ease_solves_its_normal_equations() -> None:
    # The best zero-diagonal B of ||X − XB||² + λ||B||²: off the diagonal the gradient Gram(B − I) + λB is 0
    train, _ = groups(0)
    gram = (train.T @ train).toarray()
    weights = Ease.fit(train, lam=30.0).weights
    gradient = gram @ weights - gram + 30 * weights
    np.fill_diagonal(gradient, 0)
    np.testing.assert_allclose(gradient, 0, atol=1e-3)
    assert (weights.diagonal() == 0).all()


def test_ease_takes_a_pair_stored_twice_or_weighted_as_one() -> None:
    twice = sparse.csr_array((np.ones(4), ([0, 0, 1, 2], [1, 1, 0, 2])), shape=(3, 3))
    once = sparse.csr_matrix((np.full(3, 8.0), ([0, 1, 2], [1, 0, 2])), shape=(3, 3))
    np.testing.assert_array_equal(Ease.fit(twice, 2.0).weights, Ease.fit(once, 2.0).weights)


def test_the_chosen_lambda_is_the_best_on_valid_and_beats_popularity() -> None:
    train, valid = groups(1)
    lams = (0.01, 10.0, 1e6)
    lam, model = choose_ease(train, valid, train, lams=lams, k=5)
    found = [
        mean_over_users(recall(top_k(Ease.fit(train, each).scores(train), train, 5), valid, 5))
        for each in lams
    ]
    assert lam == lams[int(np.argmax(found))]
    np.testing.assert_array_equal(model.weights, Ease.fit(train, lam).weights)
    popular = recall(top_k(Popularity.fit(train).scores(train), train, 5), valid, 5)
    assert max(found) > 2 * mean_over_users(popular)


def test_of_equal_lambdas_the_first_is_chosen() -> None:
    train, valid = groups(2)
    assert choose_ease(train, valid, train, lams=(40.0, 40.000001))[0] == 40.0


def test_too_many_items_are_refused_with_the_memory_it_would_take() -> None:
    wide = sparse.csr_array(([1.0], ([0], [MAX_EASE_ITEMS])), shape=(2, MAX_EASE_ITEMS + 1))
    with pytest.raises(TooManyItemsError, match=r"20001 x 20001 matrix, which takes 9\.6 GB"):
        Ease.fit(wide, lam=1.0)
    with pytest.raises(TooManyItemsError):
        choose_ease(wide, wide, wide)


def test_nothing_to_choose_by_is_refused() -> None:
    with pytest.raises(NoTargetsError):
        choose_ease(TRAIN, sparse.csr_array(TRAIN.shape), TRAIN)
    with pytest.raises(ValueError, match="no lam"):
        choose_ease(TRAIN, TRAIN, TRAIN, lams=())


def test_a_lambda_that_is_not_positive_is_refused() -> None:
    for lam in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="not positive"):
            Ease.fit(TRAIN, lam)
