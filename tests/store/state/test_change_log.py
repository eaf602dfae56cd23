"""The change log of the state: what each transaction changed, in the order of the transactions."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.state import LogEntry, LogHead, UserState
from store.state.log import KEPT_ENTRIES, MOST_USERS, EntryDraft


@pytest.fixture
def state(tmp_path: Path) -> Iterator[UserState]:
    with UserState.open(tmp_path / "state") as state:
        yield state


def entries(state: UserState, after: int = 0) -> list[LogEntry] | None:
    return state.read(lambda reading: reading.entries(after))


def head(state: UserState) -> LogHead:
    return state.read(lambda reading: reading.head)


def test_an_entry_names_the_users_whose_rows_a_transaction_changed(state: UserState) -> None:
    with state.writing() as draft:
        draft.put("events", "ann", b"rows")
        draft.put("friends", "bob", b"rows")
    with state.writing() as draft:
        draft.put("texts", "ann", b"")

    assert entries(state) == [
        LogEntry(1, frozenset({"ann", "bob"})),
        LogEntry(2, frozenset({"ann"})),
    ]
    assert entries(state, after=1) == [LogEntry(2, frozenset({"ann"}))]
    assert head(state).sequence == 2


def test_a_transaction_that_changes_nothing_has_no_entry_and_one_that_fails_neither(state: UserState) -> None:
    with state.writing() as draft:
        draft.set_commit_id("one")
    with pytest.raises(ZeroDivisionError), state.writing() as draft:
        draft.put("events", str(1 // 0), b"rows")

    assert head(state).sequence == 0
    assert entries(state) == []


def test_a_rebuild_changes_all_users_and_so_does_an_entry_of_too_many(state: UserState) -> None:
    with state.writing() as draft:
        draft.clear()
        draft.put("events", "ann", b"rows")
    many = EntryDraft()
    for number in range(MOST_USERS + 1):
        many.changed(f"user-{number}", texts=False)

    assert entries(state) == [LogEntry(1, None)]
    committed = many.committed(2)
    assert committed.entry == LogEntry(2, None)
    assert committed.users is not None
    assert len(committed.users) == MOST_USERS + 1


def test_the_head_counts_the_codes_that_rows_may_hold(state: UserState) -> None:
    with state.writing() as draft:
        draft.items.code("film")
        draft.words.code("view")
        draft.words.code("like")

    assert head(state) == LogHead(sequence=0, oldest=1, items=1, words=2)


def test_old_entries_are_forgotten_and_a_reader_behind_them_is_told(state: UserState) -> None:
    for _ in range(KEPT_ENTRIES + 3):
        with state.writing() as draft:
            draft.put("events", "ann", b"rows")

    assert entries(state, after=2) is None
    kept = entries(state, after=3)
    assert kept is not None
    assert [entry.sequence for entry in kept] == list(range(4, KEPT_ENTRIES + 4))


def test_the_log_goes_on_where_it_was_after_the_state_was_closed(tmp_path: Path) -> None:
    for _ in range(2):
        with UserState.open(tmp_path / "state") as state, state.writing() as draft:
            draft.put("events", "ann", b"rows")
    with UserState.open(tmp_path / "state") as state:
        assert head(state).sequence == 2


def test_live_changes_of_an_index_are_kept_by_item_with_the_entry_that_told(state: UserState) -> None:
    with state.writing() as draft:
        draft.put_live("index-a", {"film": b"first", "song": b"one"}, {"ann": b"vector"})
    with state.writing() as draft:
        draft.put_live("index-a", {"film": b"second", "gone": b""})
    with state.writing() as draft:
        draft.put_live("index-ab", {"film": b"other"})

    read = state.read(lambda reading: reading.live("index-a", "items"))
    assert read == {"film": (2, b"second"), "gone": (2, b""), "song": (1, b"one")}
    some = state.read(lambda reading: reading.live("index-a", "items", ["song", "unknown"]))
    assert some == {"song": (1, b"one")}
    assert state.read(lambda reading: reading.live("index-a", "users")) == {"ann": (1, b"vector")}
    assert entries(state) == [
        LogEntry(1, frozenset(), "index-a", ("film", "song"), ("ann",)),
        LogEntry(2, frozenset(), "index-a", ("film", "gone")),
        LogEntry(3, frozenset(), "index-ab", ("film",)),
    ]
    assert state.read(lambda reading: reading.live_indexes()) == ["index-a", "index-ab"]

    with state.writing() as draft:
        draft.clear_live("index-a")
    assert state.read(lambda reading: reading.live("index-a", "items")) == {}
    assert state.read(lambda reading: reading.live("index-ab", "items")) == {"film": (3, b"other")}


def test_what_serves_is_an_entry_of_its_own(state: UserState) -> None:
    with state.writing() as draft:
        draft.serve("index-a")

    assert entries(state) == [LogEntry(1, frozenset(), serves="index-a")]


def test_a_reading_sees_records_and_head_of_one_transaction(state: UserState) -> None:
    def read_while_another_writes(reading: object) -> tuple[int, int]:
        with state.writing() as draft:
            draft.put("events", "ann", b"rows")
        return reading.head.sequence, len(reading.users(["ann"])[0].events)  # type: ignore[attr-defined]

    assert state.read(read_while_another_writes) == (0, 0)
