"""Item vectors regressed on what is known of the items."""

import numpy as np
import pytest
from scipy import sparse

from encoder.content import ContentSettings, ItemContent, patterns_of
from encoder.content.content import MOST_COORDINATES, shortened
from encoder.content.maps import Moments, columns_of, most_patterns, sum_of, with_one
from encoder.views import unit_rows

N, DIM, WIDTHS = 400, 6, (5, 3, 4, 7)
PATTERNS = np.arange(1, 8)


def content(seed: int = 0) -> ItemContent:
    rng = np.random.default_rng(seed)
    text, words, attributes, vector = (rng.normal(size=(N, width)).astype(np.float32) for width in WIDTHS)
    text[::5], words[::5] = 0.0, 0.0
    attributes[::7] = 0.0
    vector[::3] = 0.0
    return ItemContent(
        unit_rows(text), sparse.csr_array(words), sparse.csr_array(attributes), unit_rows(vector)
    )


@pytest.fixture
def items() -> tuple[ItemContent, np.ndarray]:
    some = content()
    mix = np.random.default_rng(1).normal(size=(sum(WIDTHS), DIM))
    return some, (some.dense() @ mix + 3.0).astype(np.float32)


def moments(some: ItemContent, vectors: np.ndarray, rows: np.ndarray | None = None) -> Moments:
    weights = 1.0 + np.arange(N) % 4
    return Moments.of(some, vectors, weights, np.arange(N) if rows is None else rows, PATTERNS)


@pytest.mark.parametrize("pattern", PATTERNS.tolist())
def test_each_map_is_the_weighted_ridge_regression_over_items_with_these_parts(
    items: tuple[ItemContent, np.ndarray], pattern: int
) -> None:
    some, vectors = items
    settings = ContentSettings(ridge=0.3)
    found = moments(some, vectors).solve(settings).maps[pattern]
    used = columns_of(pattern, WIDTHS)
    rows = np.flatnonzero((patterns_of(some.present) & pattern) == pattern)
    x, y = with_one(some.dense()).astype(np.float64)[rows][:, used[1:]], vectors[rows].astype(np.float64)
    w = (1.0 + np.arange(N) % 4)[rows]
    root = np.sqrt(w)[:, None]
    x_mean, y_mean = np.average(x, axis=0, weights=w), np.average(y, axis=0, weights=w)
    a, b = root * (x - x_mean), root * (y - y_mean)
    strength = 0.3 * np.trace(a.T @ a) / a.shape[1] + 1e-9 * w.sum()
    # A second derivation: least squares with the penalty as further rows.
    stacked = np.concatenate([a, np.sqrt(strength) * np.eye(a.shape[1])])
    slopes = np.linalg.lstsq(stacked, np.concatenate([b, np.zeros((a.shape[1], DIM))]), rcond=None)[0]
    np.testing.assert_allclose(found[used[1:]], slopes, atol=1e-4)
    np.testing.assert_allclose(found[0], y_mean - x_mean @ slopes, atol=1e-4)
    unused = np.setdiff1d(np.arange(1 + sum(WIDTHS)), used)
    assert not found[unused].any()


def test_moments_of_folds_add_up_and_can_be_taken_off(items: tuple[ItemContent, np.ndarray]) -> None:
    some, vectors = items
    halves = [moments(some, vectors, rows) for rows in np.array_split(np.arange(N), 2)]
    whole = moments(some, vectors)
    for one, other in ((sum_of(halves), whole), (whole - halves[1], halves[0])):
        assert one.gram.keys() == other.gram.keys() == set(PATTERNS.tolist())
        for pattern in PATTERNS.tolist():
            np.testing.assert_allclose(one.gram[pattern], other.gram[pattern], atol=1e-6)
            np.testing.assert_allclose(one.cross[pattern], other.cross[pattern], atol=1e-4)


def test_an_item_is_encoded_by_the_map_of_the_parts_it_has_and_nothing_known_is_zero(
    items: tuple[ItemContent, np.ndarray],
) -> None:
    some, vectors = items
    maps = moments(some, vectors).solve(ContentSettings(ridge=1e-6))
    everything = patterns_of(some.present) == 7
    np.testing.assert_allclose(maps.vectors(some)[everything], vectors[everything], atol=1e-2)
    only_text = some.only(("text",))
    assert set(patterns_of(only_text.present)) == {0, 1}
    nothing = ~only_text.present.any(axis=1)
    assert not maps.vectors(only_text)[nothing].any()
    expected = with_one(only_text.dense()) @ maps.maps[1]
    np.testing.assert_allclose(maps.vectors(only_text)[~nothing], expected[~nothing], atol=1e-6)


def test_parts_are_hidden_of_the_named_items_alone() -> None:
    some, among = content(), np.arange(N) % 2 == 0
    shown = some.only(("attributes",), among)
    assert not shown.text[among].any()
    assert not shown.words[among].count_nonzero()
    np.testing.assert_array_equal(shown.vector[~among], some.vector[~among])
    np.testing.assert_array_equal(shown.attributes.toarray(), some.attributes.toarray())


def test_long_vectors_are_folded_and_keep_their_inner_products_but_for_noise() -> None:
    rng = np.random.default_rng(3)
    short = rng.normal(size=(5, MOST_COORDINATES)).astype(np.float32)
    assert shortened(short) is short
    near = rng.normal(size=(200, 4 * MOST_COORDINATES)).astype(np.float32)
    far = -near[::-1] + 0.1 * rng.normal(size=near.shape).astype(np.float32)
    one, other = shortened(near), shortened(far)
    assert one.shape == (200, MOST_COORDINATES)
    wanted = np.einsum("nd,nd->n", near, far[::-1])
    np.testing.assert_allclose(np.einsum("nd,nd->n", one, other[::-1]) / wanted, 1.0, atol=0.2)
    assert abs(np.einsum("nd,nd->n", one, other)[:90].mean()) < 0.05 * abs(wanted.mean())


def test_a_combination_that_no_item_has_is_encoded_by_the_part_that_most_items_have() -> None:
    some = content()
    lone = np.arange(N) % 4 != 1  # text alone, or a vector alone
    words, attributes = (sparse.csr_array((N, width), dtype=np.float32) for width in WIDTHS[1:3])
    apart = ItemContent(some.text * lone[:, None], words, attributes, some.vector * ~lone[:, None])
    mix = np.random.default_rng(1).normal(size=(sum(WIDTHS), DIM)).astype(np.float32)
    maps = moments(apart, apart.dense() @ mix).solve(ContentSettings()).maps
    assert maps[1].any()
    assert maps[4].any()
    texts, pictures = (int(one.any(axis=1).sum()) for one in (apart.text, apart.vector))
    assert texts > pictures
    np.testing.assert_array_equal(maps[5], maps[1])
    np.testing.assert_array_equal(maps[6], maps[4])
    assert not maps[2].any()


def test_there_is_a_map_for_every_combination_of_parts_that_have_coordinates() -> None:
    assert most_patterns((384, 0, 0, 0)) == 2
    assert most_patterns((384, 9, 7, 0)) == 4
    assert most_patterns((0, 0, 0, 5)) == 5
    assert most_patterns((384, 9, 7, 5)) == 8
