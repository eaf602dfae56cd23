"""Writes in groups: by hand, as an import has it, the state in step, request ids, a store that fails."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.export import Export, create_export
from store.imports.run import import_folder
from store.privacy.erase import erase_user
from store.state.packing import NO_TIME
from store.state.rebuild import bring_up_to_date, rebuild
from store.state.state import UserState
from store.store import Store
from store.writes import idempotency
from store.writes.idempotency import RememberedRequests, RequestIdReusedError
from store.writes.request import (
    BAD_TIME,
    LAST_TIME,
    BehaviorRow,
    Behaviors,
    Content,
    Deletion,
    FriendRow,
    Friends,
    ImpressionRow,
    Impressions,
    ItemRow,
    Items,
    Rejected,
    Request,
    TextRow,
    Texts,
    WriteResult,
)
from store.writes.writer import Writer
from tests.state_contents import expected_state, state_of

EPOCH = datetime(1970, 1, 1)
MAY = (datetime(2026, 5, 1) - EPOCH) // timedelta(microseconds=1)


class Place:
    """A store with three items, its state and a writer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.open(folder / "views.duckdb")
        with self.store.writing() as cursor:
            cursor.execute("INSERT INTO data.items (item_id) VALUES ('i1'), ('i2'), ('i3')")
        self.state = UserState.open(folder / "state")
        bring_up_to_date(self.store, self.state)
        self.writer = Writer(self.store, self.state)

    def close(self) -> None:
        self.state.close()
        self.store.close()

    def write(self, *contents: Content) -> list[WriteResult]:
        return self.writer.write([Request(content) for content in contents])[0]

    def check(self, *users: str) -> None:
        """The state is that of the last commit and says what the store says."""
        assert self.state.commit_id == self.store.last_commit.commit_id
        for user in users:
            assert state_of(self.state, user) == expected_state(self.store.user_views(user))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def test_behaviors_are_inserted_updated_or_known(place: Place) -> None:
    rows = [
        BehaviorRow("ann", "i1", "view", 1.0, MAY),
        BehaviorRow("ann", "i2"),
        BehaviorRow("bob", "i1", "view", 2.0, MAY + 1),
    ]
    assert place.write(Behaviors(rows)) == [WriteResult(inserted=3)]
    assert place.write(Behaviors(rows)) == [WriteResult(unchanged=3)]
    again = [rows[0]._replace(weight=3.0), rows[1], BehaviorRow("ann", "i3", "view", 1.0, MAY - 5)]
    assert place.write(Behaviors(again)) == [WriteResult(inserted=1, updated=1, unchanged=1)]
    history = place.store.user_views("ann").history
    assert [(event.item_id, event.weight) for event in history] == [("i2", 1.0), ("i3", 1.0), ("i1", 3.0)]
    place.check("ann", "bob")
    assert place.store.last_commit.users == ("ann",)


def test_requests_of_one_group_see_each_other(place: Place) -> None:
    first = BehaviorRow("ann", "new", "view", 1.0, MAY)
    results = place.write(
        Items([ItemRow("new", "A title")]),
        Behaviors([first]),
        Behaviors([first._replace(weight=2.0)]),
        Behaviors([first._replace(weight=4.0)]),
        Friends([FriendRow("ann", "bob")]),
        Friends([FriendRow("ann", "bob", weight=0.5)]),
    )
    assert [(w.inserted, w.updated) for w in results] == [(1, 0), (1, 0), (0, 1), (0, 1), (1, 0), (0, 1)]
    views = place.store.user_views("ann")
    assert views.history[0].weight == 4.0
    assert views.friends[0].weight == 0.5
    place.check("ann", "bob")


def test_every_refusal_names_position_and_reason(place: Place) -> None:
    long = "é" * 129
    good = BehaviorRow("ann", "i1")
    bad: dict[str, BehaviorRow] = {
        "empty_user_id": good._replace(user_id=""),
        "empty_item_id": good._replace(item_id=""),
        "id_too_long": good._replace(user_id=long),
        "word_too_long": good._replace(action=long),
        "weight_not_a_number": good._replace(weight=float("nan")),
        "negative_weight": good._replace(weight=-1.0),
        "unparsable_time": good._replace(ts=BAD_TIME),
        "unknown_item": good._replace(item_id="nothing"),
        "duplicate": good,
    }
    (written,) = place.write(Behaviors([good, *bad.values()]))
    assert written == WriteResult(
        inserted=1, rejected=tuple(Rejected(i, reason) for i, reason in enumerate(bad, start=1))
    )
    texts: dict[str, TextRow] = {
        "empty_user_id": TextRow("", "t"),
        "id_too_long": TextRow("ann", "t", long),
        "empty_text": TextRow("ann", " \t\n"),
        "text_too_long": TextRow("ann", "x" * 100_001),
        "unparsable_time": TextRow("ann", "t", ts=BAD_TIME),
        "unknown_item": TextRow("ann", "t", "nothing"),
    }
    (written,) = place.write(Texts(list(texts.values())))
    assert [one.reason for one in written.rejected] == list(texts)
    tie = FriendRow("ann", "bob")
    ties: dict[str, FriendRow] = {
        "empty_user_id": tie._replace(user_id=""),
        "empty_friend_id": tie._replace(friend_id=""),
        "id_too_long": tie._replace(friend_id=long),
        "word_too_long": tie._replace(relation=long),
        "weight_not_a_number": tie._replace(weight=float("inf")),
        "negative_weight": tie._replace(weight=-0.5),
        "unparsable_time": tie._replace(ts=BAD_TIME),
        "self_friend": tie._replace(friend_id="ann"),
        "duplicate": tie,
    }
    (written,) = place.write(Friends([tie, *ties.values()]))
    assert [one.reason for one in written.rejected] == list(ties)
    items: dict[str, ItemRow] = {
        "empty_item_id": ItemRow(""),
        "id_too_long": ItemRow(long),
        "text_too_long": ItemRow("n1", text="x" * 100_001),
        "bad_attributes": ItemRow("n2", attributes="[1]"),
        "unparsable_time": ItemRow("n3", updated_at=LAST_TIME + 5),
        "word_too_long": ItemRow("n4", kind=long),
    }
    (written,) = place.write(Items([ItemRow("n5"), *items.values(), ItemRow("n5")]))
    assert [one.reason for one in written.rejected] == [*items, "duplicate"]
    assert written.inserted == 1
    (written,) = place.write(Deletion(["n5", "n1", "n5"]))
    assert written == WriteResult(updated=1, unchanged=1, rejected=(Rejected(1, "unknown_item"),))


def test_equal_texts_are_kept_as_often_as_one_request_has_them(place: Place) -> None:
    twice = [TextRow("ann", "hello"), TextRow("ann", "hello")]
    assert place.write(Texts(twice[:1])) == [WriteResult(inserted=1)]
    assert place.write(Texts(twice)) == [WriteResult(inserted=1, unchanged=1)]
    assert place.write(Texts(twice), Texts([TextRow("ann", "hello", ts=MAY)])) == [
        WriteResult(unchanged=2),
        WriteResult(inserted=1),
    ]
    assert place.store.user_views("ann").texts == ("hello",) * 3
    place.check("ann")


def test_a_text_about_a_held_out_pair_stays_hidden(place: Place) -> None:
    with place.store.writing() as cursor:
        cursor.execute("INSERT INTO data.behaviors VALUES ('ann', 'i1', 'view', 1, NULL, 'test')")
    place.write(Texts([TextRow("ann", "about it", "i1"), TextRow("ann", "about another", "i2")]))
    assert place.store.user_views("ann").texts == ("about another",)
    place.check("ann")
    assert place.write(Behaviors([BehaviorRow("ann", "i1", "view", 5.0)])) == [WriteResult(updated=1)]
    assert place.store.user_views("ann").history == ()
    place.check("ann")


def test_items_are_replaced_whole_and_deleted_ones_stay_as_ids(place: Place) -> None:
    row = ItemRow("i1", "Title", "Text", "ad", '{"a": 1}', available=True, updated_at=MAY)
    written, change = place.writer.write([Request(Items([row, ItemRow("i2")]))])
    assert written == [WriteResult(updated=1, unchanged=1)]
    assert [item.item_id for item in change.items[0][0]] == ["i1"]
    assert change.items[0][0][0] == place.store.item("i1")
    assert place.store.item("i1").attributes == {"a": 1}
    place.write(Items([ItemRow("i1", "Only this")]))
    assert (place.store.item("i1").text, place.store.item("i1").updated_at) == (None, None)
    written, change = place.writer.write([Request(Deletion(["i1"]))])
    assert change.items == (((), ("i1",)),)
    assert not place.store.item("i1").available
    assert place.write(Behaviors([BehaviorRow("ann", "i1")])) == [WriteResult(inserted=1)]
    place.write(Items([ItemRow("i1", "Back")]))
    assert place.store.item("i1").available


def test_a_repeated_request_is_told_the_same_and_written_once(place: Place, tmp_path: Path) -> None:
    request = Request(Behaviors([BehaviorRow("ann", "i1"), BehaviorRow("", "i1")]), "r1", "digest")
    first = WriteResult(inserted=1, rejected=(Rejected(1, "empty_user_id"),))
    twin = WriteResult(inserted=1, rejected=(Rejected(1, "empty_user_id"),), repeated=True)
    assert place.writer.write([request, request])[0] == [first, twin]
    assert place.writer.write([request])[0] == [twin]
    other = Request(Behaviors([BehaviorRow("ann", "i2")]), "r1", "other")
    with pytest.raises(RequestIdReusedError, match="'r1' was used before"):
        place.writer.write([other])
    new = Request(Behaviors([BehaviorRow("ann", "i2")]), "r2", "digest")
    with pytest.raises(RequestIdReusedError):  # all or nothing
        place.writer.write([new, Request(new.content, "r2", "other")])
    assert len(place.store.user_views("ann").history) == 1
    assert Writer(place.store, place.state).write([request])[0] == [twin]  # also by the next server


def test_old_request_ids_are_forgotten(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "MOST_SINCE", 2)
    monkeypatch.setattr(idempotency, "_TIDY_EVERY", 2)
    writer = Writer(place.store, place.state)
    for number in range(8):
        writer.write([Request(Behaviors([BehaviorRow("ann", "i1")]), f"r{number}", "d")])
    with place.store.snapshot() as cursor:
        kept = [row[0] for row in cursor.execute("SELECT request_id FROM data.requests").fetchall()]
    assert kept == ["r2", "r3", "r4", "r5", "r6", "r7"]
    with place.store.writing(set()) as cursor:
        cursor.execute("UPDATE data.requests SET answered_at = answered_at - INTERVAL 2 DAY")
    again = Request(Behaviors([BehaviorRow("ann", "i1")]), "r7", "d")
    assert not RememberedRequests.load(place.store)._known
    assert Writer(place.store, place.state).write([again])[0] == [WriteResult(unchanged=1)]


def test_a_group_that_fails_leaves_nothing(place: Place) -> None:
    place.write(Behaviors([BehaviorRow("ann", "i1")]))
    with place.store.snapshot() as cursor:
        cursor.execute("ALTER TABLE data.social RENAME TO away")
    with pytest.raises(Exception, match="social"):
        place.write(Behaviors([BehaviorRow("ann", "i2")]), Friends([FriendRow("ann", "bob")]))
    with place.store.snapshot() as cursor:
        cursor.execute("ALTER TABLE data.away RENAME TO social")
    assert len(place.store.user_views("ann").history) == 1
    place.check("ann", "bob")


def test_a_state_that_fell_behind_is_caught_up_before_the_next_write(place: Place) -> None:
    with place.store.writing({"ann"}) as cursor:  # as when the second commit fails
        cursor.execute("INSERT INTO data.behaviors VALUES ('ann', 'i1', 'view', 1, NULL, NULL)")
    place.write(Behaviors([BehaviorRow("bob", "i1")]))
    place.check("ann", "bob")


def test_an_erasure_loses_no_write_that_the_state_missed(place: Place) -> None:
    with place.store.writing({"ann"}) as cursor:  # as when the second commit fails
        cursor.execute("INSERT INTO data.behaviors VALUES ('ann', 'i1', 'view', 1, NULL, NULL)")
    erase_user(place.store, place.state, "bob", [], [])
    place.check("ann", "bob")


def test_what_was_acknowledged_is_there_after_kill_9(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.close()
    code = (
        "import os, sys; from pathlib import Path\n"
        "from tests.store.test_writing import *\n"
        "folder = Path(sys.argv[1])\n"
        "store, state = Store.open(folder / 'views.duckdb'), UserState.open(folder / 'state')\n"
        "writer = Writer(store, state)\n"
        "writer.write([Request(Behaviors([BehaviorRow('ann', 'i1')]), 'r1', 'd')])\n"
        "os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[2]
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=False)
    assert died.returncode == -9
    with Store.open(tmp_path / "views.duckdb") as store, UserState.open(tmp_path / "state") as state:
        assert state.commit_id == store.last_commit.commit_id
        assert len(state.users(["ann"])[0].history) == 1
        request = Request(Behaviors([BehaviorRow("ann", "i1")]), "r1", "d")
        assert Writer(store, state).write([request])[0] == [WriteResult(inserted=1, repeated=True)]


USERS = st.sampled_from(["ann", "bob", "", "é" * 129])
THINGS = st.sampled_from(["i1", "i2", "nothing", "", "x" * 257])
# No NaN: it is how a file says that there is none, and an error in a request, which can leave the weight out.
WEIGHTS = st.sampled_from([0.0, 1.0, 2.5, -1.0, float("inf")])
TIMES = st.sampled_from([NO_TIME, MAY, MAY + 1, BAD_TIME])
BEHAVIORS = st.builds(BehaviorRow, USERS, THINGS, st.sampled_from(["view", "like"]), WEIGHTS, TIMES)
TEXTS = st.builds(TextRow, USERS, st.sampled_from(["hello", "bye", " ", "\u00a0"]), THINGS, TIMES)
TIES = st.builds(FriendRow, USERS, USERS, st.sampled_from(["friend", "boss"]), WEIGHTS, TIMES)
SHOWN = st.builds(
    ImpressionRow,
    USERS,
    THINGS,
    TIMES,
    st.sampled_from([None, 0, 3, -1, 2**31]),
    st.sampled_from(["", "q1", "q2"]),
    st.booleans(),
)
# Of one length: another one is a rejected row in an import, and an error of a request.
VECTORS = st.sampled_from([None, np.array([1, 2], np.float32), np.array([0.5, -1e30], np.float32)])
ITEMS = st.builds(
    ItemRow,
    THINGS,
    st.sampled_from([None, "A title"]),
    st.sampled_from([None, "x" * 100_001]),
    st.just("ad"),
    st.sampled_from([None, "{}", "[]", '{"a": 1}']),
    st.booleans(),
    TIMES,
    VECTORS,
)


def table_of(rows: list[NamedTuple]) -> pa.Table:
    """The same rows as a file has them."""
    columns = dict(zip(rows[0]._fields, zip(*rows, strict=True), strict=True))
    for name in {"ts", "updated_at"} & columns.keys():
        columns[name] = pa.array([None if ts == NO_TIME else ts for ts in columns[name]], pa.timestamp("us"))
    return pa.table(columns)


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(
            st.lists(ITEMS, min_size=1, max_size=4),
            st.lists(BEHAVIORS, min_size=1, max_size=8),
            st.lists(TEXTS, min_size=1, max_size=8),
            st.lists(TIES, min_size=1, max_size=8),
            st.lists(SHOWN, min_size=1, max_size=8),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_writes_are_what_imports_of_the_same_rows_are(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[list[NamedTuple], ...]]
) -> None:
    folder = tmp_path_factory.mktemp("both")
    (folder / "theirs").mkdir()
    ours, theirs = Place(folder), Place(folder / "theirs")
    for number, batch in enumerate(batches):
        data = folder / f"data{number}"
        data.mkdir()
        for name, rows in zip(("items", "behaviors", "texts", "social", "impressions"), batch, strict=True):
            pq.write_table(table_of(rows), data / f"{name}.parquet")
        report = import_folder(theirs.store, data, rejects=folder / "rejects")
        kinds = (Items, Behaviors, Texts, Friends, Impressions)
        written = ours.write(*(kind(rows) for kind, rows in zip(kinds, batch, strict=True)))
        for told_to_us, table in zip(written, report.tables.values(), strict=True):
            assert (told_to_us.inserted, told_to_us.updated, told_to_us.unchanged) == (
                table.inserted,
                table.updated,
                table.unchanged,
            )
            lines = table.rejects_file.read_text().splitlines() if table.rejects_file else []
            rejects = [json.loads(line) for line in lines]
            assert [(r.position + 1, r.reason) for r in told_to_us.rejected] == [
                (r["row"], r["reason"]) for r in rejects
            ]
    ours.check("ann", "bob")
    before = {user: state_of(ours.state, user) for user in ("ann", "bob")}
    rebuild(ours.store, ours.state)
    assert {user: state_of(ours.state, user) for user in ("ann", "bob")} == before
    exports = [Export.open(folder / create_export(place.store, folder)) for place in (ours, theirs)]
    for name in ("items", "history", "texts", "friends", "impressions"):
        tables = [getattr(export, name)() for export in exports]
        assert tables[0].equals(tables[1]), name
    ours.close()
    theirs.close()


def test_a_writer_pauses_every_few_rows_so_that_queries_go_first(place: Place) -> None:
    pauses: list[int] = []
    writer = Writer(place.store, place.state, lambda: pauses.append(0))
    writer.write([Request(Behaviors([BehaviorRow(f"u{n}", "i1") for n in range(500)]))])
    assert len(pauses) >= 20
    place.check("u0", "u499")
