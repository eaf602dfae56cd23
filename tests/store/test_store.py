"""The live store: what is visible of a user, who owns the file, what opens and what does not."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.database import NewerStoreError, NotAStoreError, StoreLockedError, connect, migrate, migrations
from store.records import Event, Friend, ItemRecord, UserViews
from store.store import ItemNotFoundError, Store, UnknownSplitError

MAY, JUNE = datetime(2024, 5, 1), datetime(2024, 6, 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "home" / "views.duckdb")
    with store.writing() as cursor:
        cursor.execute("""
            INSERT INTO data.items (item_id, title, attributes, available) VALUES
              ('i1', 'One', '{"color": "red"}', true), ('i2', NULL, '{}', false), ('书', '三体', '{}', true);
            INSERT INTO data.behaviors VALUES
              ('ann', 'i2', 'click', 1, '2024-06-01', NULL), ('ann', 'i1', 'click', 2, '2024-05-01', 'train'),
              ('ann', '书', 'share', 1, NULL, 'train'), ('ann', 'i1', 'buy', 1, NULL, NULL),
              ('ann', 'i9', 'click', 1, NULL, 'valid'), ('ann', 'i8', 'click', 1, NULL, 'test'),
              ('李', 'i1', 'click', 1, NULL, NULL), ('李', 'i2', 'click', 1, NULL, 'test'),
              ('bob', 'i1', 'click', 1, NULL, 'valid');
            INSERT INTO data.texts (user_id, item_id, text, ts) VALUES
              ('ann', 'i1', 'later', '2024-06-01'), ('ann', NULL, '你好', '2024-05-01'),
              ('ann', 'i9', 'leak', NULL),
              ('ann', 'i8', 'leak too', NULL), ('ann', NULL, 'undated', NULL), ('李', 'i9', 'mine', NULL);
            INSERT INTO data.social (user_id, friend_id, relation, weight) VALUES
              ('ann', '李', 'friend', 1), ('ann', '李', 'colleague', 2.5), ('ann', 'bob', 'friend', 1),
              ('ann', 'ann', 'friend', 9), ('cy', 'ann', 'friend', 1)""")
    yield store
    store.close()


def test_the_views_of_a_user_are_the_visible_rows_in_order(store: Store) -> None:
    assert store.user_views("ann") == UserViews(
        history=(
            Event("i1", "buy", 1.0, None),
            Event("书", "share", 1.0, None),
            Event("i1", "click", 2.0, MAY),
            Event("i2", "click", 1.0, JUNE),
        ),
        texts=("undated", "你好", "later"),
        friends=(Friend("bob", 1.0, ()), Friend("李", 3.5, (Event("i1", "click", 1.0, None),))),
    )


def test_a_text_is_hidden_by_the_held_out_rows_of_its_own_user_only(store: Store) -> None:
    assert store.user_views("李").texts == ("mine",)  # ann's i9 is held out, not 李's


def test_the_texts_of_a_user_are_the_visible_ones_each_once(store: Store) -> None:
    with store.writing() as cursor:
        cursor.execute(
            "INSERT INTO data.texts (user_id, item_id, text, ts) VALUES ('ann', 'i2', 'later', NULL)"
        )
    assert store.texts_of("ann") == {"undated", "你好", "later"}
    assert store.texts_of("李") == {"mine"}
    assert store.texts_of("nobody") == set()


def test_an_unknown_user_has_empty_views(store: Store) -> None:
    assert store.user_views("nobody") == UserViews()


def test_several_users_at_once_have_the_views_that_each_has_alone(store: Store) -> None:
    with store.snapshot() as cursor:
        users = [row[0] for row in cursor.execute("SELECT DISTINCT user_id FROM data.behaviors").fetchall()]
    asked = [*users, "nobody", users[0]]
    assert store.users_views(asked) == {user: store.user_views(user) for user in asked}
    assert store.users_views([]) == {}


def test_an_item_comes_back_whole_or_not_at_all(store: Store) -> None:
    assert store.item("i1") == ItemRecord("i1", "One", None, None, {"color": "red"}, True, None)
    assert store.item("书").title == "三体"
    with pytest.raises(ItemNotFoundError, match="'i3' is not in the store") as caught:
        store.item("i3")
    assert caught.value.item_id == "i3"


def test_counts(store: Store) -> None:
    assert store.counts() == {
        **{"items": 3, "behaviors": 9, "texts": 6, "social": 5, "impressions": 0, "consents": 0},
        "users": 4,
    }


def test_distinct_texts_are_the_visible_ones_shortest_first_in_batches(store: Store) -> None:
    assert list(store.distinct_texts(batch=3)) == [["你好", "mine", "later"], ["undated"]]


def test_imported_vectors_are_those_of_the_model(store: Store) -> None:
    with store.writing() as cursor:
        cursor.execute("""
            INSERT INTO data.texts (user_id, item_id, text, vector, text_model_id) VALUES
              ('u', NULL, 'b', [3, 4], 'm'), ('u', NULL, 'a', [1, 2], 'm'), ('v', NULL, 'a', [1, 2], 'm'),
              ('u', NULL, 'c', [1, 2], 'other'), ('ann', 'i9', 'held', [1, 2], 'm')""")
    ((texts, vectors),) = store.imported_vectors("m")
    assert texts == ["a", "b"]
    np.testing.assert_allclose(vectors, [[0.2**0.5, 0.8**0.5], [0.6, 0.8]], rtol=1e-7)  # of length 1
    assert vectors.dtype == np.float32
    assert list(store.imported_vectors("none")) == []


def test_splits_are_written_by_identity_where_no_time_equals_no_time(store: Store) -> None:
    events = store.visible_events()
    assert events.column_names == ["user_id", "item_id", "action", "ts", "split"]
    assert events.num_rows == 5
    assert store.visible_events(held_out=True).num_rows == 9
    marks = pa.table(
        {
            "user_id": ["ann", "ann", "nobody"],
            "item_id": ["书", "i1", "i1"],
            "action": ["share", "click", "click"],
            "ts": pa.array([None, MAY, None], pa.timestamp("us")),
            "split": ["test", "valid", "test"],
        }
    )
    assert store.write_splits(marks, reset=False) == 2
    views = store.user_views("ann")
    assert [event.item_id for event in views.history] == ["i1", "i2"]
    assert views.texts == ("undated", "你好")  # "later" is on i1, which is held out now
    assert store.write_splits(marks.slice(0, 1), reset=True) == 1
    assert store.visible_events().num_rows == 8


def test_an_unknown_split_writes_nothing(store: Store) -> None:
    marks = pa.table(
        {"user_id": ["ann"], "item_id": ["i1"], "action": ["buy"], "ts": [None], "split": ["dev"]}
    )
    with pytest.raises(UnknownSplitError, match="'dev'"):
        store.write_splits(marks, reset=True)
    assert store.visible_events().num_rows == 5


def test_a_failed_write_leaves_nothing(store: Store) -> None:
    with pytest.raises(duckdb.CatalogException), store.writing() as cursor:
        cursor.execute("DELETE FROM data.items; DELETE FROM data.nothing")
    assert store.counts()["items"] == 3


def test_threads_read_while_one_writes(store: Store) -> None:
    expected = store.user_views("ann")
    wrong: list[UserViews] = []

    def read() -> None:
        for _ in range(20):
            wrong.extend(views for views in [store.user_views("ann")] if views != expected)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(20):
        with store.writing() as cursor:
            cursor.execute("INSERT INTO data.items (item_id) VALUES (?)", [f"n{number}"])
    for thread in threads:
        thread.join()
    assert wrong == []
    assert store.counts()["items"] == 23


ROWS = st.lists(
    st.tuples(
        st.sampled_from("ab中"),
        st.sampled_from("xyz"),
        st.sampled_from([None, MAY, JUNE]),
        st.sampled_from([None, "train", "valid", "test"]),
    ),
    unique_by=lambda row: row[:3],
)


@settings(max_examples=15, deadline=None)
@given(rows=ROWS)
def test_no_held_out_row_is_ever_seen(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, datetime | None, str | None]]
) -> None:
    with Store.open(tmp_path_factory.mktemp("law") / "views.duckdb") as store:
        with store.writing() as cursor:
            for user, item, ts, split in rows:
                cursor.execute(
                    "INSERT INTO data.behaviors VALUES (?, ?, 'act', 1, ?, ?)", [user, item, ts, split]
                )
                cursor.execute(
                    "INSERT INTO data.texts (user_id, item_id, text) VALUES (?, ?, ?)", [user, item, item]
                )
        for user in "ab中":
            own = [row for row in rows if row[0] == user]
            held = {item for _, item, _, split in own if split in ("valid", "test")}
            seen = sorted(
                ((item, ts) for _, item, ts, split in own if split in (None, "train")),
                key=lambda pair: (pair[1] is not None, pair[1] or MAY, pair[0]),
            )
            views = store.user_views(user)
            assert [(event.item_id, event.ts) for event in views.history] == seen
            assert sorted(views.texts) == sorted(item for _, item, _, _ in own if item not in held)
            assert store.texts_of(user) == set(views.texts)


def test_a_store_outlives_its_process(store: Store, tmp_path: Path) -> None:
    before = store.user_views("ann")
    store.close()
    with Store.open(tmp_path / "home" / "views.duckdb") as again:
        assert again.user_views("ann") == before
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["views.duckdb"]


def test_one_process_owns_the_store(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "home" / "views.duckdb"
    code = "import sys, pathlib; from store.store import Store; Store.open(pathlib.Path(sys.argv[1]))"
    other = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert other.returncode == 1
    assert "StoreLockedError" in other.stderr
    assert "owned by another process (a running server?)" in other.stderr


def test_one_process_opens_the_store_once(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreLockedError) as caught:
        Store.open(tmp_path / "home" / "views.duckdb")
    assert caught.value.path == tmp_path / "home" / "views.duckdb"


@pytest.mark.parametrize("content", [b"", b"hello", b"PAR1" * 9000])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "views.duckdb").write_bytes(content)
    with pytest.raises(NotAStoreError, match=r"views\.duckdb is no Triptych store, or is damaged"):
        Store.open(tmp_path / "views.duckdb")
    assert (tmp_path / "views.duckdb").read_bytes() == content


def test_a_directory_or_another_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.duckdb").mkdir()
    with pytest.raises(NotAStoreError, match="directory"):
        Store.open(tmp_path / "folder.duckdb")
    duckdb.connect(str(tmp_path / "other.duckdb")).execute("CREATE TABLE t AS SELECT 1").close()
    with pytest.raises(NotAStoreError, match="no Triptych tables"):
        Store.open(tmp_path / "other.duckdb")


@pytest.mark.parametrize("position", [0, 12, 600, 4100, 8200])
def test_a_damaged_header_is_refused(store: Store, tmp_path: Path, position: int) -> None:
    store.close()
    path = tmp_path / "home" / "views.duckdb"
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(NotAStoreError):
        Store.open(path)


def test_a_newer_store_is_refused_and_left_alone(store: Store, tmp_path: Path) -> None:
    with store.writing() as cursor:
        cursor.execute("INSERT INTO data.migrations VALUES (99, now()::TIMESTAMP)")
    store.close()
    with pytest.raises(NewerStoreError, match="schema version 99 and this Triptych knows up to 5") as caught:
        Store.open(tmp_path / "home" / "views.duckdb")
    assert caught.value.version == 99


def test_migrations_are_recorded_and_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "views.duckdb"
    connection = connect(path)
    steps = [
        *migrations(),
        "CREATE TABLE data.two (x INTEGER)",
        "CREATE TABLE data.three (x INTEGER); SELECT no",
    ]
    with pytest.raises(duckdb.Error):
        migrate(connection, path, steps)
    versions = "SELECT version FROM data.migrations ORDER BY 1"
    assert connection.execute(versions).fetchall() == [(1,), (2,), (3,), (4,), (5,), (6,)]
    with pytest.raises(duckdb.CatalogException):
        connection.execute("FROM data.three")
    migrate(connection, path, [*steps[:-1], "CREATE TABLE data.three (x INTEGER)"])
    assert connection.execute(versions).fetchall() == [(1,), (2,), (3,), (4,), (5,), (6,), (7,)]
    connection.close()


def test_a_path_with_a_quote_opens(tmp_path: Path) -> None:
    with Store.open(tmp_path / "it's 家" / "views.duckdb") as store:
        assert store.counts()["users"] == 0
