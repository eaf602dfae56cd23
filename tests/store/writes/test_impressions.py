"""Impressions: counted once, clicked for good, no part of anybody's views, and gone with the person."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from store.export import Export, create_export
from store.home import Home
from store.ledger import write_ledger
from store.privacy import erase_user, list_erasures, rows_about
from store.state import NO_TIME, UserState, bring_up_to_date
from store.store import Store
from store.writes import BehaviorRow, Behaviors, ImpressionRow, Impressions, Request, Writer, WriteResult
from tests.import_folder import Folder, rejected

ROWS = "SELECT user_id, item_id, ts, position, query_id, clicked FROM data.impressions ORDER BY ALL"
MAY, JUNE = datetime(2024, 5, 1), datetime(2024, 6, 1)
MAY_US, JUNE_US = 1_714_521_600_000_000, 1_717_200_000_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path)
    folder.csv("items", "item_id", "i1", "i2")
    folder.load()
    (folder.path / "items.csv").unlink()
    yield folder
    folder.store.close()


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_is_read(folder: Folder, form: str) -> None:
    columns: dict[str, list[Any]] = {
        "user_id": ["ann", "bob"],
        "item_id": ["i1", "i2"],
        "ts": ["2024-05-01", None],
        "position": [0, 2**31 - 1],
        "query_id": [None, "q"],
        "clicked": [True, None],
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if form == "parquet":
        folder.parquet("impressions", **columns)
    elif form == "jsonl":
        folder.jsonl("impressions", *rows)
    else:
        between = "," if form == "csv" else "\t"
        lines = [between.join("" if one is None else str(one) for one in row.values()) for row in rows]
        (folder.path / f"impressions.{form}").write_text("\n".join([between.join(columns), *lines]) + "\n")
    report = folder.load(strict=True).tables["impressions"]
    assert (report.read, report.inserted, report.updated, report.unchanged) == (2, 2, 0, 0)
    assert folder.rows(ROWS) == [
        ("ann", "i1", MAY, 0, None, True),
        ("bob", "i2", None, 2**31 - 1, "q", False),
    ]
    again = folder.load().tables["impressions"]
    assert (again.inserted, again.updated, again.unchanged) == (0, 0, 2)


def test_positions_that_pandas_made_floats_are_whole_numbers(folder: Folder) -> None:
    folder.parquet(
        "impressions",
        user_id=["a", "b", "c"],
        item_id=["i1"] * 3,
        query_id=["q"] * 3,
        position=[1.0, float("nan"), 1.5],
    )
    assert rejected(folder.load(), "impressions") == {3: "bad_position"}
    assert [row[3] for row in folder.rows(ROWS)] == [1, None]


def test_bad_rows_have_reasons(folder: Folder) -> None:
    good = {"user_id": "u", "item_id": "i1", "query_id": "q"}
    folder.jsonl(
        "impressions",
        good | {"user_id": ""},
        good | {"item_id": None},
        good | {"query_id": "q" * 257},
        good | {"position": -1},
        good | {"position": 2**31},
        good | {"position": "first"},
        good | {"clicked": "perhaps"},
        good | {"ts": "soon"},
        {"user_id": "u", "item_id": "i1", "query_id": "", "ts": ""},
        good | {"item_id": "nothing"},
        good,
    )
    report = folder.load()
    assert list(rejected(report, "impressions").values()) == [
        *("empty_user_id", "empty_item_id", "id_too_long", "bad_position", "bad_position", "bad_position"),
        *("bad_clicked", "unparsable_time", "no_ts_or_query_id", "unknown_item"),
    ]
    assert report.tables["impressions"].inserted == 1
    assert "--create-items" in report.tables["impressions"].remarks[0]
    folder.csv("impressions", "user_id,item_id,query_id", "u,made,q")
    (folder.path / "impressions.jsonl").unlink()
    assert folder.load_with(create_items=True).tables["impressions"].items_made == 1


def test_without_ts_and_query_id_in_the_file_every_row_is_refused(folder: Folder) -> None:
    folder.csv("impressions", "user_id,item_id", "u,i1")
    assert rejected(folder.load(), "impressions") == {1: "no_ts_or_query_id"}


def test_a_row_is_known_by_its_query_and_without_one_by_its_time(folder: Folder) -> None:
    folder.csv(
        "impressions",
        "user_id,item_id,ts,query_id",
        "u,i1,2024-05-01,q1",
        "u,i1,2024-06-01,q1",  # the same, later
        "u,i1,2024-05-01,q2",
        "u,i1,2024-05-01,",
        "u,i1,2024-06-01,",
    )
    report = folder.load().tables["impressions"]
    assert (report.inserted, report.unchanged) == (4, 1)
    assert folder.rows(ROWS) == [
        ("u", "i1", MAY, None, "q2", False),
        ("u", "i1", MAY, None, None, False),
        ("u", "i1", JUNE, None, "q1", False),
        ("u", "i1", JUNE, None, None, False),
    ]


def test_once_clicked_stays_clicked_and_what_is_not_given_stays(folder: Folder) -> None:
    head = "user_id,item_id,query_id,ts,position,clicked"
    folder.csv("impressions", head, "u,i1,q,2024-05-01,3,false")
    folder.load()
    for rows, counts, now in (
        (["u,i1,q,,,true"], (0, 1, 0), (MAY, 3, True)),
        (["u,i1,q,,,true"], (0, 0, 1), (MAY, 3, True)),
        (["u,i1,q,2024-06-01,,false"], (0, 1, 0), (JUNE, 3, True)),
        (["u,i1,q,,5,"], (0, 1, 0), (JUNE, 5, True)),
        (["u,i1,q,,6,false", "u,i1,q,,7,", "u,i1,q,,,false"], (0, 1, 2), (JUNE, 7, True)),
    ):
        folder.csv("impressions", head, *rows)
        report = folder.load().tables["impressions"]
        assert (report.inserted, report.updated, report.unchanged) == counts, rows
        ((_, _, ts, position, _, clicked),) = folder.rows(ROWS)
        assert (ts, position, clicked) == now, rows


class Place:
    """A home whose store has an item, with a writer."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.store = Store.open(self.home.database)
        with self.store.writing() as cursor:
            cursor.execute("INSERT INTO data.items (item_id) VALUES ('i1'), ('i2')")
        self.state = UserState.open(self.home.state)
        bring_up_to_date(self.store, self.state)
        self.writer = Writer(self.store, self.state)

    def write(self, *rows: ImpressionRow, request_id: str = "") -> WriteResult:
        (result,), _ = self.writer.write([Request(Impressions(rows), request_id, request_id)])
        return result

    def rows(self) -> list[tuple[Any, ...]]:
        with self.store.snapshot() as cursor:
            return cursor.execute(ROWS).fetchall()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "home")
    yield place
    place.state.close()
    place.store.close()


def test_a_click_in_a_later_request_of_the_same_group_counts(place: Place) -> None:
    shown = ImpressionRow("u", "i1", MAY_US, 3, "q")
    requests = [
        Request(Impressions([shown, shown])),
        Request(Impressions([ImpressionRow("u", "i1", query_id="q", clicked=True)])),
        Request(Impressions([shown])),
    ]
    results, change = place.writer.write(requests)
    assert [(one.inserted, one.updated, one.unchanged) for one in results] == [
        (1, 0, 1),
        (0, 1, 0),
        (0, 0, 1),
    ]
    assert place.rows() == [("u", "i1", MAY, 3, "q", True)]
    assert (change.users, change.items, change.texts) == ((), (), ())  # nobody's views changed
    assert place.write(shown).unchanged == 1
    assert place.write(shown._replace(ts=JUNE_US)).updated == 1
    assert place.rows() == [("u", "i1", JUNE, 3, "q", True)]


def test_impressions_are_no_history(place: Place) -> None:
    place.write(ImpressionRow("u", "i1", MAY_US, clicked=True), ImpressionRow("u", "i2", MAY_US))
    place.writer.write([Request(Behaviors([BehaviorRow("v", "i1")]))])
    assert place.state.commit_id == place.store.last_commit.commit_id
    assert len(place.state.users(["u"])[0].history) == 0
    assert place.store.user_views("u").history == ()
    hashes = place.store.user_hashes()
    assert hashes.column("user_id").to_pylist() == ["v"]
    assert place.store.counts() == {
        **{"items": 2, "behaviors": 1, "texts": 0, "social": 0, "impressions": 2, "consents": 0},
        "users": 2,
    }


def test_a_request_id_is_written_once(place: Place) -> None:
    first = place.write(ImpressionRow("u", "i1", MAY_US), request_id="r")
    again = place.write(ImpressionRow("u", "i1", MAY_US), request_id="r")
    assert (first.inserted, again.inserted, again.repeated) == (1, 1, True)
    assert len(place.rows()) == 1


def test_an_export_hides_impressions_of_the_erased_and_of_held_out_pairs(place: Place) -> None:
    place.write(
        ImpressionRow("gone", "i1", MAY_US),
        ImpressionRow("u", "i1", MAY_US, 1, "q", clicked=True),
        ImpressionRow("u", "i2", NO_TIME, None, "q"),
    )
    with place.store.writing() as cursor:
        cursor.execute("INSERT INTO data.behaviors (user_id, item_id, split) VALUES ('u', 'i2', 'test')")
    export_id = create_export(place.store, place.home.exports)
    with Export.open(place.home.exports / export_id) as export:
        assert [row["user_id"] for row in export.impressions().to_pylist()] == ["gone", "u"]
        assert export.mentions("gone")
        assert export.manifest["counts"]["impressions"] == 3
    assert ("impressions", 1) in [(table, len(rows)) for table, rows, _ in rows_about(place.store, "gone")]
    done = erase_user(place.store, place.state, "gone", (), ())
    assert done.removed == {"behaviors": 0, "texts": 0, "social": 0, "impressions": 1, "consents": 0}
    assert "gone" not in place.store.user_ids()
    assert list(rows_about(place.store, "gone")) == []
    write_ledger(place.home.erasures, list_erasures(place.store))
    with Export.open(place.home.exports / export_id) as export:
        assert not export.mentions("gone")
        schema = [(field.name, str(field.type)) for field in export.impressions().schema]
        assert schema == [
            *(("user_id", "string"), ("item_id", "string"), ("ts", "timestamp[us]")),
            *(("position", "int32"), ("query_id", "string"), ("clicked", "bool")),
        ]
        (batch,) = export.impressions_batches()
        assert batch.to_pylist() == [
            {"user_id": "u", "item_id": "i1", "ts": MAY, "position": 1, "query_id": "q", "clicked": True}
        ]


def test_refused_impressions_are_told_and_removed_with_the_person(folder: Folder) -> None:
    folder.csv("impressions", "user_id,item_id,query_id", "u,nothing,q")
    report = folder.load().tables["impressions"]
    assert report.rejects_file is not None
    (line,) = report.rejects_file.read_text().splitlines()
    assert json.loads(line)["values"] == {"user_id": "u", "item_id": "nothing", "query_id": "q"}
