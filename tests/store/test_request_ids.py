"""Request ids are remembered by one rule, in memory, on disk and over restarts, whatever the clock does."""

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from store.state.state import UserState
from store.store import Store
from store.writes import idempotency
from store.writes.idempotency import WINDOW, RequestIdReusedError
from store.writes.request import BehaviorRow, Behaviors, Request
from store.writes.writer import Writer

KEPT, TIDY = 6, 4  # ids: one, and five others answered since
SECOND, HOUR = dt.timedelta(seconds=1), dt.timedelta(hours=1)


class Place:
    """A writer with a clock that only tests move; it may be opened again before each write."""

    def __init__(self, store: Store, state: UserState, restarts: bool) -> None:
        self.clock = dt.datetime(2026, 1, 1)
        self._store, self._state, self._restarts = store, state, restarts
        self._writer = Writer(store, state)

    def write(self, names: Sequence[str], digest: str = "d") -> list[bool]:
        """Write requests in one transaction; return which got the result of an earlier one."""
        if self._restarts:
            self._writer = Writer(self._store, self._state)
        requests = [Request(Behaviors([BehaviorRow("ann", "i1")]), name, digest) for name in names]
        return [written.repeated for written in self._writer.write(requests)[0]]

    def stored(self) -> int:
        with self._store.snapshot() as cursor:
            return int(cursor.execute("SELECT count(*) FROM data.requests").fetchall()[0][0])


@contextmanager
def opened_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: bool) -> Iterator[Place]:
    with Store.open(tmp_path / "views.duckdb") as store, UserState.open(tmp_path / "state") as state:
        with store.writing() as cursor:
            cursor.execute("INSERT INTO data.items (item_id) VALUES ('i1')")
        one = Place(store, state, restarts)
        monkeypatch.setattr(idempotency, "utc_now", lambda: one.clock)
        monkeypatch.setattr(idempotency, "MOST_SINCE", KEPT - 1)
        monkeypatch.setattr(idempotency, "_TIDY_EVERY", TIDY)
        yield one


@pytest.fixture(params=[False, True], ids=["one process", "restarts"])
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Place]:
    with opened_place(tmp_path, monkeypatch, request.param) as one:
        yield one


def test_a_repeat_gets_the_first_answer_for_24_hours_and_is_new_afterwards(place: Place) -> None:
    assert place.write(["order"]) == [False]
    place.clock += WINDOW - SECOND
    assert place.write(["order"]) == [True]
    with pytest.raises(RequestIdReusedError):
        place.write(["order"], "other")
    place.clock += SECOND
    assert place.write(["order"], "other") == [False]
    assert place.write(["order"], "other") == [True]
    with pytest.raises(RequestIdReusedError):  # the id is that of the new request now
        place.write(["order"])
    place.clock += WINDOW - SECOND
    assert place.write(["order"], "other") == [True]


def test_one_that_was_tidied_away_is_new(place: Place) -> None:
    place.write(["order"])
    place.clock += 30 * HOUR
    for number in range(3 * TIDY):
        place.write([f"r{number}"])
    assert place.stored() <= KEPT + TIDY
    assert place.write(["order"]) == [False]


def test_an_id_is_remembered_with_as_many_others_since_as_promised_and_not_with_one_more(
    place: Place,
) -> None:
    place.write(["order"])
    for number in range(KEPT - 1):
        place.write([f"r{number}"])
    assert place.write(["order"]) == [True]  # and stays as old as it was
    place.write(["one more"])
    assert place.write(["order"]) == [False]


def test_beyond_the_bound_the_oldest_is_new_and_the_others_are_not(place: Place) -> None:
    for number in range(KEPT + 1):
        place.write([f"r{number}"])
    assert place.write(["r1"]) == [True]
    assert place.write(["r0"]) == [False]  # and pushes r1 out
    assert place.write([f"r{number}" for number in range(2, KEPT + 1)]) == [True] * (KEPT - 1)
    assert place.write(["r1"]) == [False]


def test_what_one_transaction_answers_is_tidied_in_its_order(place: Place) -> None:
    place.write([f"r{number}" for number in range(5 * KEPT)])
    last = [f"r{number}" for number in range(4 * KEPT, 5 * KEPT)]
    assert place.write(last) == [True] * KEPT
    assert place.write(["r0"]) == [False]
    assert place.write(last[1:]) == [True] * (KEPT - 1)


def test_a_clock_that_is_set_back_forgets_nothing_and_holds_nothing_for_ever(place: Place) -> None:
    place.clock += 1_000 * HOUR  # it was wrong by weeks
    place.write(["a"])
    place.write(["b"])
    place.clock -= 1_000 * HOUR
    assert place.write(["a", "b"]) == [True, True]
    place.write(["c"])
    place.clock += WINDOW - SECOND
    assert place.write(["a", "b", "c"]) == [True, True, True]
    place.clock += SECOND
    assert place.write(["a", "b", "c"]) == [False, False, False]


def test_without_a_new_id_those_of_the_future_stay(place: Place) -> None:
    place.clock += 1_000 * HOUR
    place.write(["a"])
    place.clock -= 1_000 * HOUR
    place.clock += WINDOW
    assert place.write(["a"]) == [True]
    place.write(["b"])  # from now on a's answer counts as of this time
    place.clock += WINDOW
    assert place.write(["a"]) == [False]


def test_after_a_clock_that_was_set_back_the_oldest_goes_first(place: Place) -> None:
    place.clock += HOUR
    for number in range(KEPT):
        place.write([f"r{number}"])
    place.clock -= HOUR
    place.write(["new"])
    assert place.write(["r1", "new"]) == [True, True]
    assert place.write(["r0"]) == [False]


def test_a_clock_that_is_set_forward_makes_ids_new(place: Place) -> None:
    place.write(["order"])
    place.clock += 1_000 * HOUR
    assert place.write(["order"]) == [False]
    place.clock -= 1_000 * HOUR
    assert place.write(["order"]) == [True]
    for number in range(3 * TIDY):
        place.write([f"r{number}"])
    assert place.write([f"r{3 * TIDY - 1}"]) == [True]
