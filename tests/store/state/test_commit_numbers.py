"""The numbers of the log, which callers know as commits: they only grow, whatever becomes of the state."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.state.rebuild import bring_up_to_date
from store.state.state import UserState
from store.store import Store
from store.writes.request import FriendRow, Friends, Request
from store.writes.writer import Writer


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "views.duckdb") as store:
        yield store


def befriend(store: Store, state: UserState, user_id: str) -> int:
    """Write a row of a user; return the commit that has it."""
    Writer(store, state).write([Request(Friends([FriendRow(user_id, "bob", "friend", 1.0, 0)]))])
    return state.commit


def test_every_write_of_a_user_has_a_greater_number(store: Store, tmp_path: Path) -> None:
    with UserState.open(tmp_path / "state") as state:
        numbers = [befriend(store, state, f"u{number}") for number in range(3)]
    with UserState.open(tmp_path / "state") as state:
        bring_up_to_date(store, state)
        numbers.append(befriend(store, state, "another"))
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("between", [0, 1])
def test_a_state_made_anew_goes_on_behind_all_numbers_before(
    store: Store, tmp_path: Path, between: int
) -> None:
    last = 0
    for _ in range(3):
        with UserState.open(tmp_path / "state") as state:
            bring_up_to_date(store, state)
            assert state.commit > last
            for number in range(between):
                befriend(store, state, f"u{number}")
            with state.writing() as draft:  # entries that belong to no commit of the store
                draft.change_all()
            last = state.commit
        shutil.rmtree(tmp_path / "state")


def test_entries_of_the_new_numbers_can_be_read(store: Store, tmp_path: Path) -> None:
    with UserState.open(tmp_path / "first") as state:
        befriend(store, state, "ann")
    with UserState.open(tmp_path / "state") as state:
        bring_up_to_date(store, state)
        before = state.commit
        befriend(store, state, "eve")
        entries = state.read(lambda reading: reading.entries(before))
        assert entries is not None
        assert [entry.users for entry in entries] == [frozenset(["eve"])]
        assert state.read(lambda reading: reading.entries(0)) is None


def test_whoever_waits_for_a_commit_has_it_or_is_told_in_time(store: Store, tmp_path: Path) -> None:
    with UserState.open(tmp_path / "state") as state:
        bring_up_to_date(store, state)
        wanted = state.commit + 1
        assert not state.wait_for(wanted, 0.0)
        found: list[bool] = []
        waiting = threading.Thread(target=lambda: found.append(state.wait_for(wanted, 60.0)))
        waiting.start()
        befriend(store, state, "ann")
        waiting.join()
        assert found == [True]
