"""ItemKNN, iALS and BPR of the library: by hand, by their equations, and without it."""

import sys
import warnings
from collections.abc import Callable
from itertools import combinations

import implicit.utils
import numpy as np
import pytest
from scipy import sparse
from threadpoolctl import threadpool_info, threadpool_limits

from evaluation.baselines import bpr, ials, item_knn
from evaluation.baselines.bpr import Bpr, BprSettings, choose_bpr
from evaluation.baselines.ials import AlsSettings, Ials, choose_als
from evaluation.baselines.item_knn import WEIGHTINGS, ItemKnn, KnnSettings, choose_knn
from evaluation.baselines.library import LibraryMissingError, TooMuchWorkError, library_at_work
from evaluation.baselines.selection import Scorer
from tests.evaluation.tastes import TRAIN, Matrix, tastes

LIBRARY_FITS: dict[str, Callable[[Matrix], Scorer]] = {
    "ItemKNN": lambda train: ItemKnn.fit(train, KnnSettings("TF-IDF", 3)),
    "iALS": lambda train: Ials.fit(train, AlsSettings(4, 10.0, 5.0)),
    "BPR": lambda train: Bpr.fit(train, BprSettings(8, 0.1, 0.01, 0.5)),
}


def test_item_knn_by_hand() -> None:
    # together = [[3, 2, 1], [2, 2, 0], [1, 0, 1]]: the cosine is s01 = 2 / √6, s02 = 1 / √3, s12 = 0
    s01, s02 = 2 / 6**0.5, 1 / 3**0.5
    model = ItemKnn.fit(TRAIN, KnnSettings("cosine", 3))
    expected = np.array([[1, s01, s02], [s01, 1, 0], [s02, 0, 1]])
    np.testing.assert_allclose(model.likeness.toarray(), expected, rtol=1e-6)
    scores = model.scores(sparse.csr_array(np.array([[0, 9, 1], [0, 0, 0]])))
    np.testing.assert_allclose(scores, [[s01 + s02, 1, 1], [0, 0, 0]], rtol=1e-6)
    # two neighbours each, the item itself among them: of the items like item 0 the nearer one remains
    nearest = ItemKnn.fit(TRAIN, KnnSettings("cosine", 2)).likeness.toarray()
    np.testing.assert_allclose(nearest, [[1, s01, 0], [s01, 1, 0], [s02, 0, 1]], rtol=1e-6)


def test_item_knn_weighs_users_as_it_is_told() -> None:
    train = sparse.csr_array(np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0]], dtype=np.float32))
    # a user with d of the 4 items weighs ln 4 − ln (1 + d): the second ln 2, the others ln (4 / 3)
    one, two = np.log(2), np.log(4 / 3)
    expected = two**2 / (np.hypot(one, two) * np.hypot(two, two))
    likeness = ItemKnn.fit(train, KnnSettings("TF-IDF", 4)).likeness.toarray()
    np.testing.assert_allclose(likeness[0], [1, expected, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(likeness[3], 0)  # nobody has it
    models = [ItemKnn.fit(tastes()[0], KnnSettings(name, 40)).likeness.toarray() for name in WEIGHTINGS]
    for first, second in combinations(models, 2):
        assert np.abs(first - second).max() > 0.01


def test_item_knn_of_users_without_weight_is_zero_not_nan() -> None:
    # Each has one of two items and weighs ln 2 − ln 2 = 0, so that TF-IDF divides by a norm of 0
    train = sparse.csr_array(np.eye(2, dtype=np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ItemKnn.fit(train, KnnSettings("TF-IDF", 2))
    assert not model.scores(train).any()


def test_item_knn_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="neighbours is 0"):
        ItemKnn.fit(TRAIN, KnnSettings("cosine", 0))
    with pytest.raises(ValueError, match="weighting is 'cosin', not one of cosine, TF-IDF, BM25"):
        ItemKnn.fit(TRAIN, KnnSettings("cosin", 5))
    monkeypatch.setattr(item_knn, "MAX_KEPT", 6)
    setting, _ = choose_knn(TRAIN, TRAIN, sparse.csr_array(TRAIN.shape), neighbours=(2, 9))
    assert setting.neighbours == 2  # 3 would keep 9, and is not tried
    with pytest.raises(TooMuchWorkError, match=r"takes 9.0e\+00 neighbours of all items") as refused:
        choose_knn(TRAIN, TRAIN, TRAIN, neighbours=(9,))
    assert refused.value.work == 9
    monkeypatch.setattr(item_knn, "MAX_PAIRS", 11)
    with pytest.raises(TooMuchWorkError, match=r"takes 1.2e\+01 pairs of items"):
        choose_knn(TRAIN, TRAIN, TRAIN)


def test_a_user_of_als_solves_the_normal_equations() -> None:
    train, _ = tastes()
    model = Ials.fit(train, AlsSettings(6, 5.0, 2.0))
    items = model.model.item_factors.astype(np.float64)
    scores = model.scores(train)
    for user, row in enumerate(train.toarray()):
        seen = items[row > 0]
        system = items.T @ items + (5 - 1) * seen.T @ seen + 2 * np.eye(6)
        np.testing.assert_allclose(
            scores[user], items @ np.linalg.solve(system, 5 * seen.sum(axis=0)), atol=1e-4
        )
    assert not scores[-2:].any()


def test_als_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (AlsSettings(0, 3.0, 1.0), AlsSettings(4, 0.5, 1.0), AlsSettings(4, 3.0, float("nan"))):
        with pytest.raises(ValueError, match="dim and alpha are at least 1"):
            Ials.fit(TRAIN, wrong)
    allowed = 11 * ials.work_of(TRAIN, 4)  # four alphas and eight regs, of which one was fitted already
    monkeypatch.setattr(ials, "MAX_WORK", allowed)
    setting, _ = choose_als(TRAIN, TRAIN, sparse.csr_array(TRAIN.shape), dim=4, dims=(8,))
    assert setting.dim == 4  # 8 would be too much work, and is not tried
    with pytest.raises(TooMuchWorkError, match="iALS of 3 users x 3 items takes") as refused:
        choose_als(TRAIN, TRAIN, TRAIN, dim=5)
    assert refused.value.work > allowed


def test_bpr_adds_its_weight_of_log_popularity() -> None:
    train, _ = tastes()
    plain = Bpr.fit(train, BprSettings(8, 0.1, 0.01, 0.0)).scores(train, np.arange(200))
    weighed = Bpr.fit(train, BprSettings(8, 0.1, 0.01, 0.5)).scores(train, np.arange(200))
    prior = 0.5 * np.log1p(train.sum(axis=0))
    np.testing.assert_allclose(weighed - plain, np.tile(prior, (200, 1)), atol=1e-5)
    np.testing.assert_allclose(plain[-2], plain[-1])  # who has nothing gets the biases
    assert plain[-1].any()


def test_bpr_is_fitted_once_for_all_weights_of_popularity(monkeypatch: pytest.MonkeyPatch) -> None:
    train, held_out = tastes()
    fitted: list[BprSettings] = []
    fit = Bpr.fit.__func__

    def counted(cls: type[Bpr], rows: Matrix, settings: BprSettings) -> Bpr:
        fitted.append(settings)
        return fit(cls, rows, settings)

    monkeypatch.setattr(Bpr, "fit", classmethod(counted))
    settings = [BprSettings(4, rate, 0.01, weight) for rate in (0.05, 0.1) for weight in (0.0, 0.5, 1.0)]
    choose_bpr(train, held_out, train, settings=settings)
    assert [each.rate for each in fitted] == [0.05, 0.1]


def test_bpr_makes_fewer_epochs_of_more_data(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = tastes()
    settings = BprSettings(4, 0.05, 0.01, 0.0)
    whole = Bpr.fit(train, settings).users
    monkeypatch.setattr(bpr, "MAX_TRIPLES", 3 * train.nnz)
    short = Bpr.fit(train, settings).users
    monkeypatch.setattr(bpr, "EPOCHS", 3)
    monkeypatch.setattr(bpr, "MAX_TRIPLES", 10**9)
    np.testing.assert_array_equal(short, Bpr.fit(train, settings).users)
    assert np.abs(short - whole).max() > 0.01


def test_bpr_refuses_settings_out_of_range() -> None:
    for wrong in (
        BprSettings(0, 0.1, 0.0, 0.0),
        BprSettings(4, 0.0, 0.0, 0.0),
        BprSettings(4, 0.1, -1.0, 0.0),
        BprSettings(4, 0.1, 0.0, float("nan")),
    ):
        with pytest.raises(ValueError, match="dim is at least 1"):
            Bpr.fit(TRAIN, wrong)


@pytest.mark.parametrize("name", LIBRARY_FITS)
def test_without_the_library_its_models_say_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "implicit", None)  # as if it were not there
    fit, choose = LIBRARY_FITS[name], {"ItemKNN": choose_knn, "iALS": choose_als, "BPR": choose_bpr}[name]
    for ask in (fit, lambda train: choose(train, train, train)):
        with pytest.raises(LibraryMissingError, match=r"pip install 'triptych\[bench\]'"):
            ask(TRAIN)


def test_the_library_finds_blas_alone_and_nobody_is_warned() -> None:
    train, _ = tastes()
    with threadpool_limits(2, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("error")
        implicit.utils._checked_blas_config = False  # it warns once in a process
        with library_at_work() as threads:
            assert threads == 2
            inside = {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}
            assert inside == {1}
        for fit in LIBRARY_FITS.values():
            fit(train).scores(train, np.arange(200))
        outside = {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}
    assert outside == {2}
