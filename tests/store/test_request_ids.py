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
    """A writer under a clock that stands where it is put, and that may be started anew before each write."""

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
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: bool) -> Iterator[Place]:
    with Store.open(tmp_path / "views.duckdb") as store, UserState.open(tmp_path / "state") as state:
        with store.writing() as cursor:
            cursor.execute("INSERT INTO data.items (item_id) VALUES ('i1')")
        one = Place(store, state, restarts)
        monkeypatch.setattr(idempotency, "utc_now", lambda: one.clock)
        monkeypatch.setattr(idempotency, "MOST_SINCE", KEPT - 1)
        monkeypatch.setattr(idempotency, "_TIDY_EVERY", TIDY)
        yield one


@pytest.fixture(params=[False, True], ids=["one process", "restarts"])
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Place]:
    with place(tmp_path, monkeypatch, request.param) as one:
        yield one


def test_a_repeat_gets_the_first_answer_for_24_hours_and_is_new_afterwards(there: Place) -> None:
    assert there.write(["order"]) == [False]
    there.clock += WINDOW - SECOND
    assert there.write(["order"]) == [True]
    with pytest.raises(RequestIdReusedError):
        there.write(["order"], "other")
    there.clock += SECOND
    assert there.write(["order"], "other") == [False]
    assert there.write(["order"], "other") == [True]
    with pytest.raises(RequestIdReusedError):  # the id is that of the new request now
        there.write(["order"])
    there.clock += WINDOW - SECOND
    assert there.write(["order"], "other") == [True]


def test_one_that_was_tidied_away_is_new(there: Place) -> None:
    there.write(["order"])
    there.clock += 30 * HOUR
    for number in range(3 * TIDY):
        there.write([f"r{number}"])
    assert there.stored() <= KEPT + TIDY
    assert there.write(["order"]) == [False]


def test_an_id_is_remembered_with_as_many_others_since_as_promised_and_not_with_one_more(
    there: Place,
) -> None:
    there.write(["order"])
    for number in range(KEPT - 1):
        there.write([f"r{number}"])
    assert there.write(["order"]) == [True]  # and stays as old as it was
    there.write(["one more"])
    assert there.write(["order"]) == [False]


def test_beyond_the_bound_the_oldest_is_new_and_the_others_are_not(there: Place) -> None:
    for number in range(KEPT + 1):
        there.write([f"r{number}"])
    assert there.write(["r1"]) == [True]
    assert there.write(["r0"]) == [False]  # and pushes r1 out
    assert there.write([f"r{number}" for number in range(2, KEPT + 1)]) == [True] * (KEPT - 1)
    assert there.write(["r1"]) == [False]


def test_what_one_transaction_answers_is_tidied_in_its_order(there: Place) -> None:
    there.write([f"r{number}" for number in range(5 * KEPT)])
    last = [f"r{number}" for number in range(4 * KEPT, 5 * KEPT)]
    assert there.write(last) == [True] * KEPT
    assert there.write(["r0"]) == [False]
    assert there.write(last[1:]) == [True] * (KEPT - 1)


def test_a_clock_that_is_set_back_forgets_nothing_and_holds_nothing_for_ever(there: Place) -> None:
    there.clock += 1_000 * HOUR  # it was wrong by weeks
    there.write(["a"])
    there.write(["b"])
    there.clock -= 1_000 * HOUR
    assert there.write(["a", "b"]) == [True, True]
    there.write(["c"])
    there.clock += WINDOW - SECOND
    assert there.write(["a", "b", "c"]) == [True, True, True]
    there.clock += SECOND
    assert there.write(["a", "b", "c"]) == [False, False, False]


def test_without_a_new_id_those_of_the_future_stay(there: Place) -> None:
    there.clock += 1_000 * HOUR
    there.write(["a"])
    there.clock -= 1_000 * HOUR
    there.clock += WINDOW
    assert there.write(["a"]) == [True]
    there.write(["b"])  # from now on a's answer counts as of this time
    there.clock += WINDOW
    assert there.write(["a"]) == [False]


def test_after_a_clock_that_was_set_back_the_oldest_goes_first(there: Place) -> None:
    there.clock += HOUR
    for number in range(KEPT):
        there.write([f"r{number}"])
    there.clock -= HOUR
    there.write(["new"])
    assert there.write(["r1", "new"]) == [True, True]
    assert there.write(["r0"]) == [False]


def test_a_clock_that_is_set_forward_makes_ids_new(there: Place) -> None:
    there.write(["order"])
    there.clock += 1_000 * HOUR
    assert there.write(["order"]) == [False]
    there.clock -= 1_000 * HOUR
    assert there.write(["order"]) == [True]
    for number in range(3 * TIDY):
        there.write([f"r{number}"])
    assert there.write([f"r{3 * TIDY - 1}"]) == [True]
