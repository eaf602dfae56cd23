"""The map of an index: principal components, also of a sample and after changes."""

from pathlib import Path

import numpy as np
import pytest

from indexer.filters import Filter
from indexer.index import Index
from server.query import ItemMaps, groups_of
from server.query import item_map as module
from server.query.item_map import NO_GROUP, ItemMap, map_items
from tests.random_index import COLOURS, DIM, make_index


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return make_index(tmp_path, 300)


def test_places_are_principal_components_of_what_is_there(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 64)
    index.put((), [f"item-{n:09d}" for n in range(10)])
    found = map_items(index)
    assert found.rows.tolist() == list(range(10, 300))
    vectors = index.vectors_of(found.rows).astype(np.float64)
    centred = vectors - vectors.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    for place in range(2):
        assert abs(float(found.axes[place] @ axes[place])) == pytest.approx(1, abs=1e-4)
        assert found.axes[place][np.abs(found.axes[place]).argmax()] > 0
    np.testing.assert_allclose(found.places, centred @ found.axes.T, atol=1e-4)
    np.testing.assert_allclose(found.explained, (sizes**2 / (sizes**2).sum())[:2], rtol=1e-3)
    np.testing.assert_allclose(
        found.axes @ vectors.mean(axis=0), found.mean, atol=1e-5
    )  # where the mean vector lies


def test_of_too_many_items_the_same_sample_is_placed_each_time(index: Index) -> None:
    first, second = map_items(index, most=100), map_items(index, most=100)
    assert (first.items, len(first.rows)) == (300, 100)
    assert first.rows.tolist() == sorted(set(first.rows.tolist()))
    assert first.rows.tolist() == second.rows.tolist()
    np.testing.assert_array_equal(first.places, second.places)


def test_an_index_that_is_empty_has_an_empty_map(tmp_path: Path) -> None:
    index = make_index(tmp_path, 3)
    index.put((), [f"item-{n:09d}" for n in range(3)])
    found = map_items(index)
    assert (found.items, found.places.shape, found.axes.shape) == (0, (0, 2), (2, DIM))
    assert np.isfinite(found.explained).all()


def test_points_have_the_group_of_the_first_filter_that_they_pass(index: Index) -> None:
    found = map_items(index)
    red, some = Filter(equals=(("colour", ("red",)),)), Filter(ranges=(("price", 0.0, 20.0),))
    groups = groups_of(index, found, [red, some])
    for row, group in zip(found.rows.tolist(), groups.tolist(), strict=True):
        assert group == (0 if COLOURS[row % 3] == "red" else 1 if row / 2 <= 20 else NO_GROUP)


def test_a_map_is_made_once_until_items_change(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[ItemMap]()

    def counted(of: Index) -> ItemMap:
        made.append(map_items(of))
        return made[-1]

    monkeypatch.setattr(module, "map_items", counted)
    maps = ItemMaps()
    assert maps.of(index) is maps.of(index)
    assert len(made) == 1
    index.put((), ["item-000000001"])
    assert len(maps.of(index).rows) == 299
    assert len(made) == 2
