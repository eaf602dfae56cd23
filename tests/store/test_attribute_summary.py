"""Kinds and attributes are counted as filters see them, within their bounds."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from indexer.filters import terms_of
from store import attribute_summary
from store.attribute_summary import AttributeSummary, summarise_attributes
from store.attributes import parse_attributes
from store.store import Store

ITEMS = [
    (
        "a",
        "film",
        '{"year": 1959, "maker": {"country": "fr", "first name": "A"}, "tags": ["x", "y", "x"]}',
        True,
    ),
    ("b", "film", '{"year": 2001.5, "maker": {"country": "it"}, "when": "1999-05-01", "new": true}', True),
    ("c", "book", '{"year": "long ago", "tags": "y", "when": "2001-02-03T10:00Z", "new": false}', True),
    ("d", None, '{"odd[0]": [[1], 2], "none": null, "when": "1999-99-99"}', True),
    ("gone", "ghost", '{"ghost": 1}', False),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "views.duckdb") as store:
        with store.writing() as cursor:
            cursor.executemany(
                "INSERT INTO data.items (item_id, kind, attributes, available) VALUES ($1, $2, $3, $4)", ITEMS
            )
        yield store


def by_name(store: Store) -> dict[tuple[str, str], AttributeSummary]:
    return {(one.name, one.type): one for one in summarise_attributes(store).attributes}


def test_kinds_and_values_are_counted_by_item(store: Store) -> None:
    found = summarise_attributes(store)
    assert (found.items, found.looked_at, found.more_attributes) == (4, 4, False)
    assert found.kinds == (("film", 2), ("book", 1))
    attributes = by_name(store)
    assert attributes["tags", "text"].frequent == (("y", 2), ("x", 1))
    assert attributes["tags", "text"].items == 2
    assert attributes["maker.country", "text"].frequent == (("fr", 1), ("it", 1))
    assert attributes["new", "truth"].frequent == (("false", 1), ("true", 1))
    assert attributes["year", "text"].frequent == (("long ago", 1),)
    year = attributes["year", "number"]
    assert (year.least, year.greatest, year.whole, year.items) == (1959.0, 2001.5, False, 2)
    odd = attributes["odd[0]", "number"]
    assert (odd.least, odd.greatest, odd.whole, odd.items, odd.edges[-1]) == (1.0, 2.0, True, 1, 2.0)
    when = attributes["when", "time"]
    assert (when.first, when.last) == (datetime(1999, 5, 1), datetime(2001, 2, 3))
    assert attributes["when", "text"].frequent == (("1999-99-99", 1),)
    assert not any("ghost" in name for name, _ in attributes)


def test_names_are_those_that_filters_look_up(store: Store) -> None:
    looked_up = set[str]()
    for _, kind, attributes, available in ITEMS:
        if available:
            terms, numbers, _ = terms_of(kind, parse_attributes(str(attributes)))
            looked_up |= {name for name, _ in numbers}
            looked_up |= {one.split("\0")[0].removeprefix("attributes.") for one in terms} - {"kind"}
    assert {name for name, _ in by_name(store)} == looked_up


def test_of_too_many_items_a_sample_is_counted_and_bounds_hold(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.writing() as cursor:
        cursor.execute("""
            INSERT INTO data.items (item_id, kind, attributes, available)
            SELECT 'many' || n, 'k' || n, json_object('a' || n % 150, n, 'long', repeat('x', 300)), true
            FROM range(2_000) AS t(n)""")
    found = summarise_attributes(store, most_items=500)
    assert found.items == 2_004
    assert 350 < found.looked_at < 650
    assert len(found.kinds) == attribute_summary.MOST_KINDS
    assert len(found.attributes) == attribute_summary.MOST_ATTRIBUTES
    assert found.more_attributes
    assert found.attributes[0].name == "long"
    assert found.attributes[0].frequent == ()  # too long to be named
    assert summarise_attributes(store, most_items=500) == found


def test_a_store_without_items_has_no_attributes(tmp_path: Path) -> None:
    with Store.open(tmp_path / "views.duckdb") as store:
        found = summarise_attributes(store)
    assert (found.items, found.kinds, found.attributes) == (0, (), ())
