"""Every baseline keeps one contract; ItemKNN, iALS, BPR and EASE with side information by hand."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import sparse

from evaluation.baselines import ials as factorisation
from evaluation.baselines import item_knn as neighbours
from evaluation.baselines import selection as choosing
from evaluation.baselines.bpr import Bpr, BprSettings, choose_bpr
from evaluation.baselines.ease import MAX_EASE_ITEMS, Ease, Popularity, TooManyItemsError, choose_ease
from evaluation.baselines.ials import AlsSettings, Ials, TooMuchWorkError, choose_als, solve
from evaluation.baselines.item_knn import ItemKnn, KnnSettings, TooManyPairsError, choose_knn
from evaluation.baselines.selection import NoTargetsError, Scorer, Valid, binary
from evaluation.baselines.side_ease import Side, SideEase, SideSettings, SideShapeError, choose_side_ease
from evaluation.metrics import mean_over_users, recall
from evaluation.ranking import top_k

Matrix = sparse.csr_array
TRAIN = sparse.csr_array(np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1]], dtype=np.float32))
QUICK_ALS = AlsSettings(4, 0.1, 0.01)
QUICK_BPR = (BprSettings(8, 0.1, 0.01),)
FITS: dict[str, Callable[[Matrix], Scorer]] = {
    "popularity": Popularity.fit,
    "EASE": lambda train: Ease.fit(train, 20.0),
    "ItemKNN": lambda train: ItemKnn.fit(train, KnnSettings(10, 10.0)),
    "iALS": lambda train: Ials.fit(train, AlsSettings(4, 0.1, 0.01)),
    "BPR": lambda train: Bpr.fit(train, BprSettings(8, 0.1, 0.01)),
    "EASE + T + S": lambda train: SideEase.fit(train, SideSettings(20.0, 5.0, 0.5, 0.5), nothing(train)),
}


def tastes() -> tuple[Matrix, Matrix]:
    """Train and held-out items of 200 users who like one half of 40 items; the last two are empty."""
    generator = np.random.default_rng(3)
    half = np.arange(40) // 20 == generator.integers(2, size=200)[:, None]
    liked = generator.random((200, 40)) < np.where(half, 0.4, 0.01)
    liked[-2:] = False
    held_out = liked & (generator.random((200, 40)) < 0.25)
    return tuple(sparse.csr_array(each.astype(np.float32)) for each in (liked & ~held_out, held_out))


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
    scores = model.scores(train)
    assert scores.shape == train.shape
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores, FITS[name](train).scores(train))
    # who else is in the batch, how often a pair counts and in which order it is stored change nothing
    np.testing.assert_allclose(model.scores(train[5:9] * 7), scores[5:9], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.scores(train[::-1])[::-1], scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(train.toarray(), before.toarray())
    np.testing.assert_array_equal(train.indices, before.indices)
    assert model.scores(train[-2:]).shape == (2, 40)
    popular = reached(Popularity.fit(train).scores(train), train, held_out)
    if name != "popularity":
        assert reached(scores, train, held_out) > 1.5 * popular


@pytest.mark.parametrize(
    "choose",
    [
        partial(choose_ease, lams=(5.0, 50.0)),
        partial(choose_knn, settings=(KnnSettings(3, 0.0), KnnSettings(None, 10.0))),
        partial(choose_als, start=QUICK_ALS, dims=(8,)),
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
    np.testing.assert_array_equal(again[1].scores(train), model.scores(train))
    with pytest.raises(NoTargetsError):
        choose(train, sparse.csr_array(train.shape), train)


@pytest.mark.parametrize("choose", [choose_knn, choose_bpr])
def test_no_settings_are_refused(choose: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="no setting of"):
        choose(TRAIN, TRAIN, TRAIN, settings=())


def test_the_users_to_choose_by_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "MAX_USERS", 50)
    train, held_out = tastes()
    valid = Valid.of(train, held_out, train)
    assert len(valid.users) == len(np.unique(valid.users)) == 50
    np.testing.assert_array_equal(valid.relevant.toarray(), held_out[valid.users].toarray())
    assert (valid.relevant.sum(axis=1) > 0).all()


def test_item_knn_by_hand() -> None:
    # together = [[3, 2, 1], [2, 2, 0], [1, 0, 1]]; shrink 1: s01 = 2 / (√6 + 1), s02 = 1 / (√3 + 1), s12 = 0
    s01, s02 = 2 / (6**0.5 + 1), 1 / (3**0.5 + 1)
    model = ItemKnn.fit(TRAIN, KnnSettings(None, 1.0))
    expected = np.array([[0, s01, s02], [s01, 0, 0], [s02, 0, 0]])
    np.testing.assert_allclose(model.likeness.toarray(), expected, rtol=1e-6)
    scores = model.scores(sparse.csr_array(np.array([[0, 9, 1], [0, 0, 0]])))
    np.testing.assert_allclose(scores, [[s01 + s02, 0, 0], [0, 0, 0]], rtol=1e-6)
    # one neighbour each: of item 0 only item 1 remains, so item 2 no longer adds to it
    nearest = ItemKnn.fit(TRAIN, KnnSettings(1, 1.0)).likeness.toarray()
    np.testing.assert_allclose(nearest, [[0, s01, s02], [s01, 0, 0], [0, 0, 0]], rtol=1e-6)


def test_item_knn_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="neighbours is 0"):
        ItemKnn.fit(TRAIN, KnnSettings(0, 1.0))
    with pytest.raises(ValueError, match="shrink is -1"):
        ItemKnn.fit(TRAIN, KnnSettings(5, -1.0))
    monkeypatch.setattr(neighbours, "MAX_PAIRS", 11)
    with pytest.raises(TooManyPairsError, match="counts 12 pairs") as refused:
        choose_knn(TRAIN, TRAIN, TRAIN)
    assert refused.value.pairs == 12


def test_one_half_step_of_als_solves_the_normal_equations() -> None:
    train, _ = tastes()
    settings = AlsSettings(6, 0.2, 0.05)
    items = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    solved = solve(binary(train), items, settings)
    for user, row in enumerate(train.toarray()):
        seen = items[row > 0]
        system = seen.T @ seen + 0.2 * items.T @ items + 0.05 * (len(seen) + 0.2 * 40) * np.eye(6)
        np.testing.assert_allclose(solved[user], np.linalg.solve(system, seen.sum(axis=0)), atol=1e-4)
    assert not solved[-2:].any()


def test_als_adds_up_long_histories_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = tastes()
    items = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    whole = solve(binary(train), items, AlsSettings(6, 0.2, 0.05))
    monkeypatch.setattr(factorisation, "_GEMM_ALONE", 5 * 36)
    monkeypatch.setattr(factorisation, "_FLOATS_AT_ONCE", 6 * 6 * 7)
    parts = solve(binary(train), items, AlsSettings(6, 0.2, 0.05))
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_als_never_raises_its_loss() -> None:
    train, _ = tastes()
    settings = AlsSettings(4, 0.2, 0.05)

    def loss(sweeps: int) -> float:
        model = Ials.fit(train, settings, sweeps)
        users, x = solve(binary(train), model.items, settings), train.toarray()
        scores = users @ model.items.T
        n_u, n_i = x.sum(axis=1), x.sum(axis=0)
        kept = ((n_u + 0.2 * 40) * (users**2).sum(axis=1)).sum()
        kept += ((n_i + 0.2 * 200) * (model.items**2).sum(axis=1)).sum()
        return float((x * (scores - 1) ** 2).sum() + 0.2 * (scores**2).sum() + 0.05 * kept)

    losses = [loss(sweeps) for sweeps in (1, 2, 4, 8)]
    assert losses == sorted(losses, reverse=True)


def test_als_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (AlsSettings(0, 0.1, 0.1), AlsSettings(4, 0.0, 0.1), AlsSettings(4, 0.1, float("nan"))):
        with pytest.raises(ValueError, match="dim is at least 1"):
            Ials.fit(TRAIN, wrong)
    allowed = 9 * factorisation.work_of(TRAIN, 4)
    monkeypatch.setattr(factorisation, "MAX_WORK", allowed)
    setting, _ = choose_als(TRAIN, TRAIN, sparse.csr_array(TRAIN.shape), start=QUICK_ALS, dims=(8,))
    assert setting.dim == 4  # 8 would be too much work, and is not tried
    with pytest.raises(TooMuchWorkError, match="3 users x 3 items takes") as refused:
        choose_als(TRAIN, TRAIN, TRAIN, start=replace(QUICK_ALS, dim=5))
    assert refused.value.work > allowed


def test_bpr_refuses_settings_out_of_range() -> None:
    for wrong in (BprSettings(0, 0.1, 0.0), BprSettings(4, 0.0, 0.0), BprSettings(4, 0.1, -1.0)):
        with pytest.raises(ValueError, match="dim is at least 1"):
            Bpr.fit(TRAIN, wrong)


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
    scores = model.scores(TRAIN, circle, apart.user_text)
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
    with_friends = reached(model.scores(train, side.circle(train)), train, held_out)
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
