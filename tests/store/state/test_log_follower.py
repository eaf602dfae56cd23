"""Followers of the change log hear of each entry once, in order, before a query goes on."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from store.state import LogEntry, LogFollower, StateReading, UserState
from store.state.log import KEPT_ENTRIES


@pytest.fixture
def state(tmp_path: Path) -> Iterator[UserState]:
    with UserState.open(tmp_path / "state") as state:
        yield state


def write(state: UserState, user_id: str) -> None:
    with state.writing() as draft:
        draft.put("events", user_id, b"rows")


class Heard:
    """A listener that keeps what it was told."""

    def __init__(self) -> None:
        self.users: list[str] = []
        self.lost = 0

    def __call__(self, entries: Sequence[LogEntry] | None, reading: StateReading) -> None:
        if entries is None:
            self.lost += 1
            return
        self.users += [user for entry in entries for user in sorted(entry.users or ())]


def test_each_entry_is_heard_once_and_in_order(state: UserState) -> None:
    heard = Heard()
    follower = LogFollower(heard)
    write(state, "ann")
    write(state, "bob")
    state.read(follower.catch_up)
    state.read(follower.catch_up)
    write(state, "cid")
    state.read(follower.catch_up)

    assert heard.users == ["ann", "bob", "cid"]
    assert follower.sequence == 3


def test_an_older_transaction_tells_nothing_anew(state: UserState) -> None:
    heard = Heard()
    follower = LogFollower(heard)
    write(state, "ann")

    def older(reading: StateReading) -> None:
        write(state, "bob")
        state.read(follower.catch_up)
        follower.catch_up(reading)

    state.read(older)
    assert heard.users == ["ann", "bob"]


def test_a_follower_that_was_away_too_long_is_told_so(state: UserState) -> None:
    heard = Heard()
    follower = LogFollower(heard)
    for _ in range(KEPT_ENTRIES + 1):
        write(state, "ann")
    state.read(follower.catch_up)

    assert (heard.lost, heard.users) == (1, [])
    assert follower.sequence == KEPT_ENTRIES + 1


def test_entries_are_heard_again_after_a_listener_failed(state: UserState) -> None:
    heard, failing = Heard(), iter([True, False])

    def fail(entries: Sequence[LogEntry] | None, reading: StateReading) -> None:
        if next(failing):
            raise RuntimeError("no room")

    follower = LogFollower(fail, heard)
    write(state, "ann")
    with pytest.raises(RuntimeError, match="no room"):
        state.read(follower.catch_up)
    state.read(follower.catch_up)

    assert heard.users == ["ann"]


def test_threads_that_meet_hear_each_entry_once(state: UserState) -> None:
    heard = Heard()
    follower = LogFollower(heard)
    names = [f"user-{number}" for number in range(50)]
    for name in names:
        write(state, name)
    meet = threading.Barrier(8)

    def catch_up() -> None:
        meet.wait()
        state.read(follower.catch_up)

    threads = [threading.Thread(target=catch_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard.users == names
