"""Items are found by id, title and kind, page by page, and within their bytes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from store import catalog
from store.catalog import ItemSearch, find_items
from store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "views.duckdb") as store:
        with store.writing() as cursor:
            cursor.execute("""
                INSERT INTO data.items (item_id, title, text, kind, attributes, available) VALUES
                  ('书', '三体', 'long', 'book', '{"lang": "zh"}', true),
                  ('a%', 'Blue in Green', NULL, 'track', '{}', true),
                  ('b', 'so BLUE', 'text of b', 'track', '{"year": 1959}', true),
                  ('c', NULL, NULL, NULL, '{}', false)""")
        yield store


def ids(store: Store, **wanted: object) -> tuple[list[str], bool]:
    items, more = find_items(store, ItemSearch(**wanted))  # type: ignore[arg-type]
    return [item.item_id for item in items], more


def test_without_conditions_all_items_come_in_the_order_of_their_ids(store: Store) -> None:
    assert ids(store) == (["a%", "b", "c", "书"], False)


def test_conditions_hold_together_and_case_does_not_matter(store: Store) -> None:
    assert ids(store, contains="blue") == (["a%", "b"], False)
    assert ids(store, contains="BLUE", item_ids=("b", "c", "nobody")) == (["b"], False)
    assert ids(store, contains="三") == (["书"], False)
    assert ids(store, contains="%") == (["a%"], False)  # no pattern
    assert ids(store, kinds=("book",)) == (["书"], False)
    assert ids(store, kinds=("book", "track"), contains="b") == (["a%", "b"], False)


def test_pages_are_the_pieces_of_the_list(store: Store) -> None:
    assert ids(store, limit=2) == (["a%", "b"], True)
    assert ids(store, limit=2, after="b") == (["c", "书"], False)
    assert ids(store, after="书") == ([], False)


def test_an_item_is_as_it_was_stored_and_brief_without_its_text(store: Store) -> None:
    (item,), _ = find_items(store, ItemSearch(item_ids=("b",)))
    assert (item.title, item.text, item.attributes, item.kind) == (
        "so BLUE",
        "text of b",
        '{"year": 1959}',
        "track",
    )
    (brief,), _ = find_items(store, ItemSearch(item_ids=("b",), brief=True))
    assert (brief.title, brief.text, brief.attributes) == ("so BLUE", None, None)
    (deleted,), _ = find_items(store, ItemSearch(item_ids=("c",)))
    assert not deleted.available


def test_a_page_ends_where_its_bytes_do_and_has_one_item_at_least(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "MAX_BYTES", 1)
    assert ids(store) == (["a%"], True)
    assert ids(store, after="c") == (["书"], False)
