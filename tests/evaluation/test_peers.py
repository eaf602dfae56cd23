"""Every baseline keeps one contract; EASE, without and with side information, by a second derivation."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import sparse

from evaluation.baselines import selection as choosing
from evaluation.baselines.bpr import Bpr, BprSettings, choose_bpr
from evaluation.baselines.ease import MAX_EASE_ITEMS, Ease, Popularity, TooManyItemsError, choose_ease
from evaluation.baselines.ials import AlsSettings, Ials, choose_als
from evaluation.baselines.item_knn import ItemKnn, KnnSettings, choose_knn
from evaluation.baselines.selection import NoTargetsError, Scorer, Valid
from evaluation.baselines.side_ease import Side, SideEase, SideSettings, SideShapeError, choose_side_ease
from evaluation.metrics import mean_over_users, recall
from evaluation.ranking import top_k
from tests.evaluation.tastes import TRAIN, Matrix, tastes

QUICK_BPR = (BprSettings(8, 0.1, 0.01, 0.0), BprSettings(8, 0.1, 0.01, 0.5))
FITS: dict[str, Callable[[Matrix], Scorer]] = {
    "popularity": Popularity.fit,
    "EASE": lambda train: Ease.fit(train, 20.0),
    "ItemKNN": lambda train: ItemKnn.fit(train, KnnSettings("TF-IDF", 30)),
    "iALS": lambda train: Ials.fit(train, AlsSettings(4, 10.0, 5.0)),
    "BPR": lambda train: Bpr.fit(train, BprSettings(8, 0.1, 0.01, 0.5)),
    "EASE + T + S": lambda train: SideEase.fit(train, SideSettings(20.0, 5.0, 0.5, 0.5), nothing(train)),
}


def nothing(train: Matrix) -> Side:
    users, items = train.shape
    empty = sparse.csr_array((users, users), dtype=np.float64)
    return Side(np.zeros((items, 4), np.float32), np.zeros((users, 4), np.float32), empty)


def reached(scores: np.ndarray, train: Matrix, held_out: Matrix) -> float:
    return mean_over_users(recall(top_k(np.ascontiguousarray(scores), train, 5), held_out, 5))


@pytest.mark.parametrize("name", FITS)
def test_every_baseline_keeps_the_contract(name: str) -> None:
    train, held_out = tastes()
    before = train.copy()
    model = FITS[name](train)
    everyone = np.arange(200)
    scores = model.scores(train, everyone)
    assert scores.shape == train.shape
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores, FITS[name](train).scores(train, everyone))
    # who else is in the batch, how often a pair counts and in which order it is stored change nothing
    np.testing.assert_allclose(model.scores(train[5:9] * 7, everyone[5:9]), scores[5:9], rtol=1e-4, atol=1e-5)
    backwards = model.scores(train[::-1], everyone[::-1])[::-1]
    np.testing.assert_allclose(backwards, scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(train.toarray(), before.toarray())
    np.testing.assert_array_equal(train.indices, before.indices)
    assert model.scores(train[-2:], everyone[-2:]).shape == (2, 40)
    popular = reached(Popularity.fit(train).scores(train), train, held_out)
    if name != "popularity":
        assert reached(scores, train, held_out) > 1.5 * popular


@pytest.mark.parametrize(
    "choose",
    [
        partial(choose_ease, lams=(5.0, 50.0)),
        partial(choose_knn, neighbours=(3, 40)),
        partial(choose_als, dim=4, dims=(8,)),
        partial(choose_bpr, settings=QUICK_BPR),
        partial(choose_side_ease, side=nothing(tastes()[0])),
    ],
    ids=["EASE", "ItemKNN", "iALS", "BPR", "EASE + T + S"],
)
def test_every_choice_gives_the_model_of_its_setting(choose: Callable[..., tuple[object, Scorer]]) -> None:
    train, held_out = tastes()
    setting, model = choose(train, held_out, train)
    again = choose(train, held_out, train)
    assert again[0] == setting
    everyone = np.arange(200)
    np.testing.assert_array_equal(again[1].scores(train, everyone), model.scores(train, everyone))
    with pytest.raises(NoTargetsError):
        choose(train, sparse.csr_array(train.shape), train)


def test_no_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="no setting of ItemKNN"):
        choose_knn(TRAIN, TRAIN, TRAIN, neighbours=())
    with pytest.raises(ValueError, match="no setting of BPR"):
        choose_bpr(TRAIN, TRAIN, TRAIN, settings=())


def test_the_users_to_choose_by_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "MAX_USERS", 50)
    train, held_out = tastes()
    valid = Valid.of(train, held_out, train)
    assert len(valid.users) == len(np.unique(valid.users)) == 50
    np.testing.assert_array_equal(valid.relevant.toarray(), held_out[valid.users].toarray())
    assert (valid.relevant.sum(axis=1) > 0).all()


def ridge_with_a_zero_diagonal(rows: np.ndarray, lam: float) -> np.ndarray:
    """Column j by regression of item j on all other items alone, in float64: no inverse of the whole."""
    n_items = rows.shape[1]
    weights = np.zeros((n_items, n_items))
    for item in range(n_items):
        others = np.delete(np.arange(n_items), item)
        inputs = np.vstack([rows[:, others], lam**0.5 * np.eye(n_items - 1)])  # ridge as further rows
        target = np.concatenate([rows[:, item], np.zeros(n_items - 1)])
        weights[others, item] = np.linalg.lstsq(inputs, target, rcond=None)[0]
    return weights


def test_ease_is_a_ridge_regression_of_each_item_on_the_others() -> None:
    train, _ = tastes()
    expected = ridge_with_a_zero_diagonal(train.toarray().astype(np.float64), 20.0)
    np.testing.assert_allclose(Ease.fit(train, 20.0).weights, expected, atol=1e-6)


def test_ease_with_item_texts_is_that_regression_on_the_stacked_rows() -> None:
    train, _ = tastes()
    text = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)
    side = replace(nothing(train), item_text=text)
    model = SideEase.fit(train, SideSettings(20.0, 7.0), side)
    centred = text.astype(np.float64) - text.astype(np.float64).mean(axis=0)
    stacked = np.vstack([train.toarray().astype(np.float64), 7.0**0.5 * centred.T])  # (200 + 4, 40)
    np.testing.assert_allclose(model.ease.weights, ridge_with_a_zero_diagonal(stacked, 20.0), atol=1e-6)
    assert np.abs(model.ease.weights - Ease.fit(train, 20.0).weights).max() > 0.01


def test_ease_without_side_information_is_ease() -> None:
    train, _ = tastes()
    model = SideEase.fit(train, SideSettings(20.0, 7.0, 1.0, 1.0), nothing(train))
    np.testing.assert_array_equal(model.ease.weights, Ease.fit(train, 20.0).weights)
    np.testing.assert_array_equal(model.scores(train), Ease.fit(train, 20.0).scores(train))


def test_ease_with_side_information_is_ease_of_the_stacked_matrix_and_a_sum() -> None:
    text = np.array([[1, 0], [1, 0], [0, 0]], dtype=np.float32)
    ties = sparse.csr_array(np.array([[0, 1, 3], [0, 0, 0], [2, 0, 0]], dtype=np.float64))
    side = Side(text, np.array([[0, 1], [0, 0], [1, 0]], dtype=np.float32), ties)
    np.testing.assert_array_equal(side.centred(), np.zeros((3, 2)))  # both texts are their mean
    np.testing.assert_allclose(side.circle(TRAIN).toarray(), [[1, 0.25, 0.75], [0, 0, 0], [1, 1, 0]])
    apart = Side(np.array([[1, 0], [0, 1], [0, 0]], dtype=np.float32), side.user_text, ties)
    centred = np.array([[0.5, -0.5], [-0.5, 0.5], [0, 0]])
    model = SideEase.fit(TRAIN, SideSettings(1.0, 4.0, 0.5, 0.25), apart)
    stacked = np.vstack([TRAIN.toarray(), 2 * centred.T])  # (3 + 2, 3)
    inverse = np.linalg.inv(stacked.T @ stacked + np.eye(3))
    expected = np.eye(3) - inverse / inverse.diagonal()
    np.testing.assert_allclose(model.ease.weights, expected, atol=1e-6)
    circle = apart.circle(TRAIN)
    scores = model.scores(TRAIN, circle=circle, text=apart.user_text)
    f = circle.toarray()
    summed = TRAIN.toarray() @ expected + 0.5 * (f + f @ expected) + 0.25 * apart.user_text @ centred.T
    np.testing.assert_allclose(scores, summed, atol=1e-6)


def test_friends_are_weighted_where_they_tell_what_a_user_takes() -> None:
    train, held_out = tastes()
    generator = np.random.default_rng(0)
    alike = (held_out @ train.T).toarray() > 0  # friends have what the user is to find
    ties = sparse.csr_array((alike & (generator.random((200, 200)) < 0.3)).astype(np.float64))
    side = Side(np.zeros((40, 4), np.float32), np.zeros((200, 4), np.float32), ties)
    setting, model = choose_side_ease(train, held_out, train, side)
    assert setting.friends > 0
    assert setting.user_text == setting.item_text == 0
    with_friends = reached(model.scores(train, circle=side.circle(train)), train, held_out)
    assert with_friends > reached(model.scores(train), train, held_out)


def test_side_information_that_does_not_fit_is_refused() -> None:
    text, ties = np.zeros((3, 2), np.float32), sparse.csr_array((3, 3))
    with pytest.raises(SideShapeError, match=r"texts are \(3, 2\) of items, \(3, 4\) of users"):
        Side(text, np.zeros((3, 4), np.float32), ties)
    with pytest.raises(SideShapeError, match="ties are"):
        Side(text, text, sparse.csr_array((2, 3)))
    with pytest.raises(SideShapeError, match=r"of \(3, 3\) users and items for a history \(2, 3\)"):
        SideEase.fit(TRAIN[:2], SideSettings(1.0, 1.0), Side(text, text, ties))
    with pytest.raises(ValueError, match="not at least 0"):
        SideEase.fit(TRAIN, SideSettings(1.0, -1.0), Side(text, text, ties))
    wide = sparse.csr_array(([1.0], ([0], [MAX_EASE_ITEMS])), shape=(2, MAX_EASE_ITEMS + 1))
    with pytest.raises(TooManyItemsError):
        SideEase.fit(wide, SideSettings(1.0, 0.0), nothing(wide))
