"""Request ids are remembered by one rule, in memory, on disk and over restarts, whatever the clock does."""

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from store.state.state import UserState
from store.store import Store
from store.writes import idempotency as answered
from store.writes.idempotency import WINDOW, RequestIdReusedError
from store.writes.request import BehaviorRow, Behaviors, Request
from store.writes.writer import Writer

MOST, TIDY = 6, 4
SECOND, HOUR = dt.timedelta(seconds=1), dt.timedelta(hours=1)


class Place:
    """A writer under a clock that stands where it is put, and that may be started anew before each write."""

    def __init__(self, store: Store, state: UserState, restarts: bool) -> None:
        self.clock = dt.datetime(2026, 1, 1)
        self._store, self._state, self._restarts = store, state, restarts
        self._writer = Writer(store, state)

    def write(self, names: Sequence[str], digest: str = "d") -> list[bool]:
        """Write requests in one transaction; return which were told an earlier answer."""
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
        monkeypatch.setattr(answered, "_now", lambda: one.clock)
        monkeypatch.setattr(answered, "MOST", MOST)
        monkeypatch.setattr(answered, "_TIDY_EVERY", TIDY)
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
    assert there.stored() <= MOST + TIDY
    assert there.write(["order"]) == [False]


def test_beyond_the_bound_the_oldest_is_new_and_the_others_are_not(there: Place) -> None:
    for number in range(MOST + 1):
        there.write([f"r{number}"])
    assert there.write(["r1"]) == [True]
    assert there.write(["r0"]) == [False]  # and pushes r1 out
    assert there.write([f"r{number}" for number in range(2, MOST + 1)]) == [True] * (MOST - 1)
    assert there.write(["r1"]) == [False]


def test_what_one_transaction_answers_is_tidied_in_its_order(there: Place) -> None:
    there.write([f"r{number}" for number in range(5 * MOST)])
    last = [f"r{number}" for number in range(4 * MOST, 5 * MOST)]
    assert there.write(last) == [True] * MOST
    assert there.write(["r0"]) == [False]
    assert there.write(last[1:]) == [True] * (MOST - 1)


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


def test_after_a_clock_that_was_set_back_the_oldest_goes_first(there: Place) -> None:
    there.clock += HOUR
    for number in range(MOST):
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
