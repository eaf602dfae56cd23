import numpy as np
import pytest
from scipy import sparse

from encoder.tower.spectral import spectrum


@pytest.fixture(scope="module")
def events() -> sparse.csr_array:
    generator = np.random.default_rng(3)
    dense = generator.random((40, 25)) * (generator.random((40, 25)) < 0.3)
    dense[:, 7] = 0.0  # an item that nobody touched
    dense[5] = 0.0  # a user without events
    return sparse.csr_array(dense.astype(np.float32))


def normalised(events: sparse.csr_array, exponent: float) -> np.ndarray:
    dense = events.toarray().astype(float)
    users, items = dense.sum(axis=1), dense.sum(axis=0)
    return np.divide(
        dense, users[:, None] ** exponent * items**0.5, out=np.zeros_like(dense), where=dense > 0
    )


@pytest.mark.parametrize("exponent", [0.5, 0.3])
def test_spectrum_is_the_truncated_svd_of_the_normalised_matrix(
    events: sparse.csr_array, exponent: float
) -> None:
    found = spectrum(events, 6, exponent)
    _, singular, right = np.linalg.svd(normalised(events, exponent))
    np.testing.assert_allclose(found.singular, singular[:6], rtol=1e-4)
    for i in range(6):  # up to sign
        assert abs(found.right[:, i] @ right[i]) == pytest.approx(1.0, abs=1e-3)


def test_full_rank_gives_back_the_matrix(events: sparse.csr_array) -> None:
    found = spectrum(events, 100, 0.5)  # cut to the 24 items that have events
    assert found.right.shape == (25, 24)
    scaled = normalised(events, 0.5)
    np.testing.assert_allclose(scaled @ found.right @ found.right.T, scaled, atol=1e-4)


def test_an_item_without_events_has_zero_rows(events: sparse.csr_array) -> None:
    found = spectrum(events, 6, 0.5)
    assert not found.table(6, 0.1)[7].any()
    assert not found.items(6)[7].any()


def test_damping_shrinks_weak_directions_by_hand(events: sparse.csr_array) -> None:
    found = spectrum(events, 6, 0.5)
    ratio = np.linalg.norm(found.table(6, 0.3), axis=0) / np.linalg.norm(found.table(6, 0.0), axis=0)
    power = found.singular**2
    np.testing.assert_allclose(ratio, power / (power + 0.3 * power[0]), rtol=1e-5)


def test_the_same_seed_gives_the_same_table(events: sparse.csr_array) -> None:
    np.testing.assert_array_equal(spectrum(events, 6, 0.5).right, spectrum(events, 6, 0.5).right)


def test_a_started_decomposition_is_that_of_the_new_matrix(events: sparse.csr_array) -> None:
    before = events.copy().tolil()
    before[:4] = 0.0  # four people who came since
    start = spectrum(sparse.csr_array(before), 20, 0.5).right
    for rank in (6, 24):  # fewer vectors than were kept, and more
        found, whole = spectrum(events, rank, 0.5, start=start), spectrum(events, rank, 0.5)
        np.testing.assert_allclose(found.singular, whole.singular, rtol=1e-3)
        np.testing.assert_allclose(found.right.T @ found.right, np.eye(found.right.shape[1]), atol=1e-4)
    np.testing.assert_array_equal(
        spectrum(events, 6, 0.5, start=np.zeros_like(start)).singular.shape, (6,)
    )  # of a model that knew other items
