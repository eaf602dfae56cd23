"""The derived state of users: equal to the store, caught up after a crash, rebuilt in doubt."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder import arrays as rows
from server.query.snapshot import ValuesByCode
from store.database import connect, migrate, migrations
from store.records import UserViews
from store.state import packing
from store.state.packing import NO_TIME, Friendships, find_row
from store.state.rebuild import bring_up_to_date, rebuild
from store.state.state import DamagedStateError, UserState
from store.state.vocabulary import Vocabulary
from store.store import Store
from tests.state_contents import expected_state, state_of


@pytest.fixture
def state(tmp_path: Path) -> Iterator[UserState]:
    with UserState.open(tmp_path / "state") as opened:
        yield opened


MAY = datetime(2026, 5, 1)
ROWS = """
    INSERT INTO data.items (item_id) VALUES ('i1'), ('i2'), ('i3');
    INSERT INTO data.behaviors VALUES
        ('ann', 'i2', 'view', 1, '2026-05-01', NULL), ('ann', 'i1', 'view', 2, NULL, 'train'),
        ('ann', 'i3', 'view', 1, '2026-05-02', 'test'), ('bob', 'i1', 'like', 0.5, '2026-05-03', NULL),
        ('李', 'i2', 'view', 1, '2026-05-01', 'valid');
    INSERT INTO data.texts (user_id, item_id, text, ts, occurrence) VALUES
        ('ann', NULL, 'later', '2026-05-02', 1), ('ann', 'i3', 'of a held-out item', NULL, 1),
        ('ann', NULL, 'twice', NULL, 1), ('ann', NULL, 'twice', NULL, 2);
    INSERT INTO data.social VALUES
        ('ann', 'bob', 'friend', 1, NULL), ('ann', 'bob', 'colleague', 0.5, NULL),
        ('ann', '李', 'friend', 2, NULL),
        ('bob', 'nobody', 'friend', 1, NULL);
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "views.duckdb") as opened:
        with opened.writing() as cursor:
            cursor.execute(ROWS)
        yield opened


def test_a_rebuilt_state_is_what_the_store_says(store: Store, state: UserState) -> None:
    bring_up_to_date(store, state)
    assert state.commit_id == store.last_commit.commit_id
    ann = state_of(state, "ann")
    assert ann == expected_state(store.user_views("ann"))
    assert ann[0][0] == [("i1", "view", 2.0, NO_TIME), ("i2", "view", 1.0, 1777593600000000)]  # type: ignore[index]
    assert ann[2] == [("bob", 1.5), ("李", 2.0)]
    assert len(ann[1]) == 3  # type: ignore[arg-type]
    for user_id in ("bob", "李", "nobody", "unheard of"):
        assert state_of(state, user_id) == expected_state(store.user_views(user_id))


def test_friends_of_an_anonymous_person_come_with_their_histories(store: Store, state: UserState) -> None:
    bring_up_to_date(store, state)
    person = state.record_of_friends({"bob": 2.0, "ann": 0.5, "nobody": 1.0})
    assert person.friends == ("ann", "bob", "nobody")
    assert person.weights.tolist() == [0.5, 2.0, 1.0]
    assert person.owners.tolist() == [1, 1, 2]
    assert len(person.history) == 0


def test_one_commit_behind_is_caught_up_user_by_user(
    store: Store, state: UserState, caplog: pytest.LogCaptureFixture
) -> None:
    bring_up_to_date(store, state)
    touched: set[str] = set()
    with store.writing(touched) as cursor:
        cursor.execute("DELETE FROM data.texts WHERE user_id = 'ann' AND text = 'later'")
        cursor.execute("DELETE FROM data.behaviors WHERE user_id = 'bob'")
        cursor.execute("INSERT INTO data.behaviors VALUES ('eve', 'i1', 'view', 1, NULL, NULL)")
        touched |= {"ann", "bob", "eve"}
    assert store.last_commit.users == ("ann", "bob", "eve")
    with caplog.at_level("INFO"):
        bring_up_to_date(store, state)
    assert "reading 3 users again" in caplog.text
    for user_id in ("ann", "bob", "eve", "李"):
        assert state_of(state, user_id) == expected_state(store.user_views(user_id))


@pytest.mark.parametrize("behind", [1, 2])
def test_any_other_difference_makes_it_anew(
    store: Store, state: UserState, behind: int, caplog: pytest.LogCaptureFixture
) -> None:
    bring_up_to_date(store, state)
    for number in range(behind):
        # Of one commit that does not say whom it touched, or of two that do.
        with store.writing(None if behind == 1 else {"eve"}) as cursor:
            cursor.execute(
                "INSERT INTO data.behaviors VALUES ('eve', 'i1', 'view', $1, NULL, NULL)", [number]
            )
    with caplog.at_level("INFO"):
        bring_up_to_date(store, state)
    assert "making the state of all users" in caplog.text
    assert state_of(state, "eve") == expected_state(store.user_views("eve"))


def test_a_failed_write_does_not_raise_the_head(store: Store) -> None:
    before = store.last_commit
    with pytest.raises(ZeroDivisionError), store.writing(set()):
        raise ZeroDivisionError
    assert store.last_commit == before
    with store.writing(set()):
        pass
    assert (store.last_commit.sequence, store.last_commit.previous) == (before.sequence + 1, before.commit_id)


def test_another_store_with_as_many_commits_is_told_apart(
    store: Store, state: UserState, tmp_path: Path
) -> None:
    bring_up_to_date(store, state)
    with Store.open(tmp_path / "other.duckdb") as other:
        for _ in range(store.last_commit.sequence):
            with other.writing():
                pass
        assert other.last_commit.sequence == store.last_commit.sequence
        bring_up_to_date(other, state)
    assert state_of(state, "ann") == expected_state(UserViews())


def test_a_rebuild_keeps_the_codes_that_readers_may_hold(store: Store, state: UserState) -> None:
    bring_up_to_date(store, state)
    names = list(state.items.names)
    with store.writing() as cursor:
        cursor.execute("INSERT INTO data.items (item_id) VALUES ('a-first')")
    rebuild(store, state)
    assert state.items.names == [*names, "a-first"]


def test_a_failed_draft_leaves_rows_and_codes_as_they_were(store: Store, state: UserState) -> None:
    bring_up_to_date(store, state)

    def fail() -> None:
        with state.writing() as draft:
            assert draft.items.code("new") == 3
            assert "new" in draft.items
            assert draft.items.name(3) == "new"
            draft.put("events", "ann", b"")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "new" not in state.items.code_of
    assert state_of(state, "ann") == expected_state(store.user_views("ann"))


def test_a_state_outlives_its_process_and_its_death(store: Store, tmp_path: Path) -> None:
    with UserState.open(tmp_path / "state") as state:
        bring_up_to_date(store, state)
    code = (
        "import os, sys; from pathlib import Path; from store.state.state import UserState\n"
        "state = UserState.open(Path(sys.argv[1]))\n"
        "with state.writing() as draft: draft.items.code('later'); draft.set_commit_id('x')\n"
        "os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path / "state")], check=False)
    assert died.returncode == -9
    with UserState.open(tmp_path / "state") as state:
        assert state.commit_id == "x"
        assert state.items.names == ["i1", "i2", "i3", "later"]
        assert state_of(state, "ann") == expected_state(store.user_views("ann"))


def test_a_state_left_open_at_another_boot_is_thrown_away(store: Store, tmp_path: Path) -> None:
    with UserState.open(tmp_path / "state") as state:
        bring_up_to_date(store, state)
    (tmp_path / "state" / "OPEN").write_text("of an earlier boot")
    with UserState.open(tmp_path / "state") as state:
        assert (state.commit_id, state.items.names) == ("", [])


def blank(file: Path) -> None:
    """Zero every page but the two that LMDB opens a file with."""
    with file.open("r+b") as raw:
        raw.seek(2 * 4096)
        raw.write(bytes(file.stat().st_size - 2 * 4096))


@pytest.mark.parametrize(
    "damage",
    [lambda file: file.write_bytes(b""), lambda file: file.write_bytes(b"no database" * 1000), blank],
)
def test_a_damaged_state_is_made_anew(store: Store, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "state"
    with UserState.open(folder) as state:
        bring_up_to_date(store, state)
    damage(folder / "data.mdb")
    with UserState.open(folder) as state:
        bring_up_to_date(store, state)
        assert state_of(state, "ann") == expected_state(store.user_views("ann"))


def test_damage_met_under_way_names_the_folder(store: Store, tmp_path: Path) -> None:
    with UserState.open(tmp_path / "state") as state:
        bring_up_to_date(store, state)
        file = tmp_path / "state" / "data.mdb"
        blank(file)
        with pytest.raises(DamagedStateError, match="start the server again") as caught:
            state.users(["ann"])
        assert caught.value.path == tmp_path / "state"


def test_a_store_of_the_first_schema_gets_a_head(tmp_path: Path) -> None:
    path = tmp_path / "views.duckdb"
    connection = connect(path)
    for table in ("head", "requests", "erasures", "salt", "impressions", "consents", "logs"):
        connection.execute(f"DROP TABLE data.{table}")
    connection.execute("ALTER TABLE data.items DROP COLUMN vector")
    connection.execute("DELETE FROM data.migrations WHERE version > 1")
    migrate(connection, path, migrations())
    connection.close()
    with Store.open(path) as store:
        assert (store.last_commit.sequence, store.last_commit.users) == (0, None)


def test_no_time_is_what_training_takes_for_it() -> None:
    assert packing.NO_TIME == rows.NO_TIME
    assert len(packing.pack_event_identity(0, 0, 0)) + 8 + 1 == packing.EVENT.itemsize
    assert len(packing.pack_text_identity(bytes(32), 0, 0)) + 1 == packing.TEXT.itemsize


def test_rows_are_found_at_row_starts_only() -> None:
    assert find_row(b"abab" + b"cabc" + b"abxx", 4, b"ab") == 0
    assert find_row(b"xaby" + b"cabc" + b"abxx", 4, b"ab") == 8
    assert find_row(b"xaby" + b"cabc", 4, b"ab") == -1
    assert find_row(b"", 4, b"ab") == -1


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.text(max_size=20), st.integers(0, 2**32 - 1), st.floats(0, 1e12), st.integers(NO_TIME, 2**62)
        ),
        max_size=8,
    )
)
def test_ties_come_back_as_they_were_packed(entries: list[tuple[str, int, float, int]]) -> None:
    ties = Friendships.of(entries)
    assert Friendships.unpack(ties.pack()) == ties
    sums = {name: sum(w for other, _, w, _ in entries if other == name) for name, *_ in entries}
    assert ties.by_friend() == pytest.approx(sums)


def test_values_by_code_grow_with_the_codes() -> None:
    codes = Vocabulary(["a", "b"])
    lengths = ValuesByCode(codes, lambda names: np.array([len(name) for name in names], dtype=np.int64))
    assert lengths(np.array([1, 0, 1])).tolist() == [1, 1, 1]
    codes.names.append("ccc")
    assert lengths(np.array([2, 0], dtype=np.uint32)).tolist() == [3, 1]


def test_marks_of_a_split_hide_rows_after_the_next_start(store: Store, state: UserState) -> None:
    bring_up_to_date(store, state)
    marks = pa.table(
        {
            "user_id": ["bob"],
            "item_id": ["i1"],
            "action": ["like"],
            "ts": [datetime(2026, 5, 3)],
            "split": ["test"],
        }
    )
    store.write_splits(marks, reset=False)
    bring_up_to_date(store, state)
    assert state_of(state, "bob")[0][0] == []  # type: ignore[index]
