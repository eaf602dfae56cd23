"""Views cut short and replaced."""

import numpy as np
from scipy import sparse

from encoder.thinning import disturbed, kept, replaced, strange_items, thinned


def rows(lengths: np.ndarray, columns: int = 200) -> sparse.csr_array:
    rng = np.random.default_rng(0)
    dense = np.zeros((len(lengths), columns), np.float32)
    for row, length in enumerate(lengths):
        dense[row, rng.choice(columns, length, replace=False)] = rng.random(length) + 0.5
    return sparse.csr_array(dense)


def test_a_row_that_is_cut_keeps_a_log_uniform_number_of_its_own_entries() -> None:
    whole = rows(np.full(4_000, 63))
    cut = thinned(whole, np.random.default_rng(1), cut=1.0)
    left = np.diff(cut.indptr)
    assert left.min() == 1
    assert left.max() == 63
    shares = [np.mean((left >= low) & (left < 2 * low)) for low in (1, 2, 4, 8, 16, 32)]
    np.testing.assert_allclose(shares, 1 / 6, atol=0.02)  # as many from 1 to 1 as from 32 to 63
    assert abs(cut - cut.multiply(whole > 0)).sum() == 0
    np.testing.assert_array_equal(cut.data, whole[cut.nonzero()])


def test_rows_that_are_not_cut_lose_the_share_of_dropout_and_empty_rows_stay_empty() -> None:
    whole = rows(np.array([0, *[40] * 500, 0]))
    left = thinned(whole, np.random.default_rng(1), cut=0.0, dropout=0.25)
    assert abs(left.nnz / whole.nnz - 0.75) < 0.02
    np.testing.assert_array_equal(
        thinned(whole, np.random.default_rng(1), cut=0.0).toarray(), whole.toarray()
    )
    assert np.diff(thinned(whole, np.random.default_rng(1), cut=1.0).indptr)[[0, -1]].tolist() == [0, 0]


def test_a_share_of_the_rows_is_cut() -> None:
    whole = rows(np.full(3_000, 50))
    left = np.diff(thinned(whole, np.random.default_rng(2), cut=0.4).indptr)
    assert abs(np.mean(left < 50) - 0.4 * (1 - np.log(51 / 50) / np.log(51))) < 0.03


def test_only_foreign_rows_get_strange_columns() -> None:
    whole = rows(np.array([3, 4, 0, 5]))
    foreign = np.array([False, True, True, False])
    strange = np.full(whole.nnz, 7)
    changed = replaced(whole, foreign, strange)
    np.testing.assert_array_equal(changed[[0]].toarray(), whole[[0]].toarray())
    np.testing.assert_array_equal(changed[[3]].toarray(), whole[[3]].toarray())
    assert changed.indices[3:7].tolist() == [7] * 4


def test_strange_items_are_half_popular_and_half_uniform() -> None:
    popular = np.zeros(1_000, dtype=np.int64)
    drawn = strange_items(popular, 1_000, np.random.default_rng(0), 10_000)
    assert abs(np.mean(drawn == 0) - 0.5) < 0.02
    assert len(np.unique(drawn)) > 900


def test_entries_are_kept_as_asked() -> None:
    whole = rows(np.array([2, 3]))
    np.testing.assert_array_equal(np.diff(kept(whole, np.array([1, 0, 0, 1, 1], bool)).indptr), [1, 2])


def test_who_has_one_view_has_it_as_it_is_and_others_have_some_cut_and_some_replaced() -> None:
    lengths = np.full(400, 30)
    second = np.where(np.arange(400) < 200, 5, 0)  # whom the others have nothing beside
    views = (rows(lengths), rows(second), rows(np.zeros(400, int)))
    shown, strange = disturbed(
        views, np.arange(200), (0.9, 0.9, 0.9), (0.5, 0.5, 0.5), np.random.default_rng(0)
    )
    assert not strange[200:].any()
    np.testing.assert_array_equal(shown[0][200:].toarray(), views[0][200:].toarray())
    assert np.mean(np.diff(shown[0].indptr)[:200] < 30) > 0.6
    own = ~strange[:, 0]
    assert 0.3 < np.mean(strange[:200, 0]) < 0.7
    assert not abs(shown[0] - shown[0].multiply(views[0] > 0))[own].nnz  # only what was theirs
    assert abs(shown[0] - shown[0].multiply(views[0] > 0))[~own].nnz
