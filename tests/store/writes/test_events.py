"""Events of a log: each is written once, whatever is repeated, with where the store stands in the log."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.backups.from_backup import restore
from scripts.backups.to_backup import back_up
from store.artifact import read_manifest
from store.export import create_export
from store.home import Home
from store.masking import Masker, Masking
from store.privacy.erase import erase_user
from store.state import NO_TIME
from store.state.rebuild import bring_up_to_date
from store.state.state import UserState
from store.store import Store
from store.writes.events import LogPosition, LogStanding, RefusedEvent, read_standing
from store.writes.request import (
    BehaviorRow,
    Behaviors,
    Content,
    EventBatch,
    EventEntry,
    FriendRow,
    Friends,
    ItemRow,
    Items,
    Request,
    TextRow,
    Texts,
)
from store.writes.writer import Writer
from tests.small_stores import make_store
from tests.state_contents import expected_state, state_of

LOG = "nats/EVENTS"
START = LogPosition()
NUMBERS = count()
NOW = 4_000_000_000_000_000  # microseconds: after any erasure of a test


def at(sequence: int, epoch: str = "") -> LogPosition:
    return LogPosition(epoch, sequence)


def event(sequence: int, content: Content | None, published: int = NOW, request_id: str = "") -> EventEntry:
    if content is None:
        return EventEntry(sequence, published, None, "empty_event")
    return EventEntry(sequence, published, Request(content, request_id, repr(content)))


def liked(user: str, item: str, ts: int = NO_TIME, weight: float = 1.0) -> Behaviors:
    return Behaviors([BehaviorRow(user, item, "like", weight, ts)])


@dataclass(frozen=True)
class Place:
    home: Home
    store: Store
    state: UserState
    writer: Writer

    def apply(
        self, after: LogPosition, through: LogPosition, *entries: EventEntry, log: str = LOG
    ) -> LogStanding:
        ((result,), _) = self.writer.write([Request(EventBatch(log, after, through, entries))])
        assert result.standing is not None
        assert result.standing == self.standing(log)
        return result.standing

    def standing(self, log: str = LOG) -> LogStanding:
        with self.store.snapshot() as cursor:
            return read_standing(cursor, log)

    def rows(self, table: str) -> list[tuple[object, ...]]:
        with self.store.snapshot() as cursor:
            return cursor.execute(f"FROM data.{table} ORDER BY ALL").fetchall()


def opened(folder: Path) -> Iterator[Place]:
    home = make_store(folder, [("a", "x", 1), ("b", "y", 2)])
    with Store.open(home.database) as store, UserState.open(home.state) as state:
        bring_up_to_date(store, state)
        yield Place(home, store, state, Writer(store, state))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield from opened(tmp_path)


def test_a_batch_and_its_end_are_written_together(place: Place) -> None:
    done = place.apply(START, at(9), event(3, liked("a", "y")), event(7, liked("new", "x")))
    assert done == LogStanding(at(9), events=2, inserted=2)
    assert state_of(place.state, "new") == expected_state(place.store.user_views("new"))
    done = place.apply(at(9), at(10), event(10, liked("a", "y", weight=3)))
    assert done == LogStanding(at(10), events=3, inserted=2, updated=1)


def test_a_batch_that_fails_leaves_the_position(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr("store.writes.writer.PendingRows.flush", fails)
        with pytest.raises(OSError, match="gone"):
            place.apply(START, at(1), event(1, liked("a", "y")))
    assert place.standing() == LogStanding()
    assert place.apply(START, at(1), event(1, liked("a", "y"))).inserted == 1


def test_a_batch_from_elsewhere_is_not_written(place: Place) -> None:
    first = place.apply(START, at(2), event(1, liked("a", "y")), event(2, liked("ghost", "no such item")))
    assert first.refusals == (RefusedEvent(2, "unknown_item", 0),)
    rows = place.rows("behaviors")
    for after, through in (
        (START, at(2)),
        (START, at(3)),
        (at(1), at(2)),
        (at(5), at(6)),
        (at(2, "e"), at(3)),
    ):
        assert place.apply(after, through, event(through.sequence, liked("b", "x"))) == first
    assert place.rows("behaviors") == rows


def test_two_batches_of_one_group_follow_each_other(place: Place) -> None:
    batches = [
        EventBatch(LOG, START, at(1), [event(1, liked("a", "y"))]),
        EventBatch(LOG, START, at(1), [event(1, liked("a", "y"))]),
        EventBatch(LOG, at(1), at(2), [event(2, liked("a", "y", weight=2))]),
        EventBatch("another", START, at(1), [event(1, liked("b", "x"))]),
    ]
    results, _ = place.writer.write([Request(one) for one in batches])
    assert [one.repeated for one in results] == [False, True, False, False]
    assert place.standing() == LogStanding(at(2), events=2, inserted=1, updated=1)
    assert place.standing("another").events == 1


def test_a_log_that_was_made_anew_begins_anew(place: Place) -> None:
    place.apply(START, at(100, "first"), event(100, liked("a", "y")))
    done = place.apply(at(100, "first"), at(1, "second"), event(1, liked("b", "x")))
    assert (done.position, done.events) == (at(1, "second"), 2)
    assert place.apply(at(100, "first"), at(101, "first"), event(101, liked("b", "y"))) == done


def test_what_cannot_be_written_is_refused_alone(place: Place) -> None:
    vectors = Items([ItemRow("p"), ItemRow("q", attributes="{")])
    done = place.apply(
        START,
        at(6),
        event(1, None),
        event(2, vectors),
        event(3, liked("a", "y"), request_id="once"),
        event(4, liked("a", "y", weight=2), request_id="once"),
        event(5, liked("a", "y"), request_id="once"),
        event(6, liked("b", "p")),
    )
    refused = (
        RefusedEvent(1, "empty_event"),
        RefusedEvent(2, "bad_attributes", 1),
        RefusedEvent(4, "request_id_reused"),
    )
    assert done == LogStanding(at(6), events=6, inserted=3, rejected=3, refusals=refused)


def test_a_vector_of_another_length_refuses_its_item_alone(place: Place) -> None:
    def item(name: str, length: int) -> ItemRow:
        return ItemRow(name, vector=np.ones(length, dtype=np.float32))

    done = place.apply(
        START,
        at(3),
        event(1, Items([item("p", 4)])),
        event(2, Items([item("q", 5)])),
        event(3, Items([item("r", 4)])),
    )
    assert done.refusals == (RefusedEvent(2, "bad_vector_length", 0),)
    assert done.inserted == 2


def test_items_one_by_one_are_put_together_and_in_order(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from store.writes import writer

    put, calls = writer.put_items, []

    def counted(*args: object, **options: object) -> object:
        calls.append(len(args[2]))  # type: ignore[arg-type]
        return put(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "put_items", counted)
    done = place.apply(
        START,
        at(6),
        event(1, Items([ItemRow("p", "old")])),
        event(2, Items([ItemRow("q", "one"), ItemRow("q", "two")])),
        event(3, Items([ItemRow("r", attributes="[")])),
        event(4, Items([ItemRow("p", "new")])),
        event(5, liked("a", "p")),
        event(6, Items([ItemRow("s")])),
    )
    assert calls == [4, 1, 1]
    assert done.refusals == (RefusedEvent(2, "duplicate", 1), RefusedEvent(3, "bad_attributes", 0))
    assert {name: place.store.title_and_text(name)[0] for name in "pq"} == {"p": "new", "q": "one"}


def test_what_the_log_took_before_an_erasure_does_not_bring_the_person_back(place: Place) -> None:
    before = 1_000_000
    erase_user(place.store, place.state, "a", [], [])
    done = place.apply(
        START,
        at(5),
        event(1, Behaviors([BehaviorRow("a", "x"), BehaviorRow("b", "x")]), before),
        event(2, Friends([FriendRow("b", "a"), FriendRow("b", "c")]), before),
        event(3, Texts([TextRow("a", "hello")]), before),
        event(4, liked("a", "y"), NO_TIME),
        event(5, liked("a", "x"), NOW),
    )
    assert done.refusals == tuple(RefusedEvent(one, "erased", 0) for one in (1, 2, 3))
    assert done.inserted == 4
    assert not place.rows("texts")
    assert len(place.store.user_views("a").history) == 2


def test_texts_of_events_are_masked(place: Place) -> None:
    batch = Request(EventBatch(LOG, START, at(1), [event(1, Texts([TextRow("a", "mail a@example.org")]))]))
    place.writer.write([batch.masked_by(Masker(Masking(("email",))))])
    assert place.rows("texts")[0][2] == "mail [email]"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place for many examples, each with a log and with people of its own."""
    yield from opened(tmp_path_factory.mktemp("events"))


@given(st.data())
def test_repeats_and_cuts_change_nothing(shared: Place, data: st.DataObject) -> None:
    """However events are cut into batches and repeated, the rows are those of writing each once, in order."""
    log = f"log {next(NUMBERS)}"
    one = st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(1, 5))
    rows = data.draw(st.lists(one, min_size=1, max_size=8))
    events = [event(n, liked(log + user, item, weight=w)) for n, (user, item, w) in enumerate(rows, 1)]
    while (stands := shared.standing(log).position.sequence) < len(events):
        begin = data.draw(st.integers(0, stands), label="after")
        end = data.draw(st.integers(begin + 1, len(events)), label="through")
        shared.apply(at(begin), at(end), *events[begin:end], log=log)
    done = shared.standing(log)
    assert (done.events, done.inserted + done.updated + done.unchanged) == (len(rows), len(rows))
    expected = {(log + user, item): float(w) for user, item, w in rows}
    written = [row for row in shared.rows("behaviors") if str(row[0]).startswith(log)]
    assert {(user, item): weight for user, item, _, weight, *_ in written} == expected


def test_an_export_and_a_restored_backup_know_the_position(place: Place, tmp_path: Path) -> None:
    place.apply(START, at(7, "e"), event(7, liked("a", "y")))
    export_id = create_export(place.store, place.home.exports)
    assert read_manifest(place.home.exports / export_id)["logs"] == {LOG: ["e", 7]}
    restored = Home(tmp_path / "restored")
    restore(back_up(place.home, export_id, tmp_path / "backups", with_index=False), restored)
    with Store.open(restored.database) as store, store.snapshot() as cursor:
        assert read_standing(cursor, LOG).position == at(7, "e")
