"""What people have: files as they come from elsewhere, read rightly or refused in words that help."""

import gzip
import json
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store.imports.files import NothingToImportError
from store.imports.readers import MissingColumnError
from store.imports.rejects import ImportRejectedError
from store.imports.run import EveryRowRefusedError, UnusableColumnError, check_not_all_refused
from store.imports.text_files import UnknownEncodingError, UnreadableFileError
from store.imports.time_columns import AmbiguousTimesError, UnknownTimesError
from tests.import_folder import Folder, rejected

FORMATS = ("parquet", "csv", "jsonl")
Y2021 = datetime(2021, 1, 1)


class Cases(Folder):
    """A folder to import that can be cleared and filled in any format."""

    def clear(self) -> None:
        for file in sorted(self.path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()

    def raw(self, name: str, content: bytes) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def write(self, form: str, table: str, **columns: list[Any]) -> None:
        """The same rows in a format; in CSV a missing value is an empty field."""
        if form == "parquet":
            self.parquet(table, **columns)
            return
        rows = list(zip(*columns.values(), strict=True))
        if form == "jsonl":
            self.jsonl(table, *(dict(zip(columns, row, strict=True)) for row in rows))
        else:
            fields = [["" if value is None else str(value) for value in row] for row in rows]
            self.csv(table, ",".join(columns), *(",".join(row) for row in fields))

    def times(self, column: str = "ts", table: str = "behaviors") -> list[datetime | None]:
        return [row[0] for row in self.rows(f"SELECT {column} FROM data.{table} ORDER BY user_id")]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Cases]:
    folder = Cases(tmp_path)
    yield folder
    folder.store.close()


def item_ids(folder: Cases) -> list[str]:
    return [row[0] for row in folder.rows("SELECT item_id FROM data.items ORDER BY 1")]


# Numbers as ids


@pytest.mark.parametrize("form", FORMATS)
def test_whole_doubles_are_ids_without_a_point(folder: Cases, form: str) -> None:
    folder.write(form, "items", item_id=[10.0, 2.0**53, -3.0, float("nan")])
    folder.write(form, "behaviors", user_id=[1.0, None], item_id=[10.0, 10.0], action=[2.0, 2.0])
    report = folder.load()
    assert item_ids(folder) == ["-3", "10", str(2**53)]
    assert rejected(report, "items") == {4: "empty_item_id"}
    assert rejected(report, "behaviors") == {2: "empty_user_id"}
    assert folder.rows("SELECT user_id, item_id, action FROM data.behaviors") == [("1", "10", "2")]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("value", [90071992547409920.0, 1.5, -0.25, 1e300])
def test_a_double_that_is_no_id_refuses_the_column(folder: Cases, form: str, value: float) -> None:
    folder.write(form, "items", item_id=[10.0, value])
    with pytest.raises(
        UnusableColumnError, match=r"column 'item_id' .*row 2.*write it as int64 or text"
    ) as caught:
        folder.load()
    assert (caught.value.column, caught.value.row) == ("item_id", 2)
    assert folder.store.counts()["items"] == 0


def test_exact_numbers_and_text_are_ids_as_they_are(folder: Cases) -> None:
    folder.jsonl(
        "items", '{"item_id": 123456789012345678901}', '{"item_id": "10.0"}', '{"item_id": 9007199254740993}'
    )
    folder.load(strict=True)
    assert item_ids(folder) == ["10.0", "123456789012345678901", "9007199254740993"]
    folder.clear()
    folder.csv("items", "item_id", "v1.0", "007", "1.50")  # not all are numbers: text
    folder.load(strict=True)
    folder.clear()
    folder.parquet("items", item_id=pa.array([7, 8], pa.decimal128(22, 0)))
    folder.load(strict=True)
    assert {"v1.0", "007", "1.50", "7", "8"} <= set(item_ids(folder))
    folder.clear()
    folder.parquet("items", item_id=pa.array([2.0**24 + 2], pa.float32()))
    with pytest.raises(UnusableColumnError):  # odd neighbours were lost when it was written
        folder.load()


# Lists and objects


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_lists_of_text_are_joined_and_other_nested_values_refused(folder: Cases, form: str) -> None:
    folder.write(
        form,
        "items",
        item_id=["i1", "i2", "i3"],
        title=[["One"], [], None],
        text=[["first paragraph", "second, paragraph"], ["a", None, "b"], []],
    )
    folder.write(form, "behaviors", user_id=[["u1"], ["u2", "u3"], None], item_id=["i1", "i1", "i2"])
    folder.write(form, "social", user_id=["a", "b"], friend_id=["b", "c"], weight=[{"x": 1}, None])
    folder.write(form, "texts", user_id=["u", "v"], text=[[1, 2], [3]], ts=[[1], [2]])
    report = folder.load()
    assert folder.rows("SELECT title, text FROM data.items ORDER BY item_id") == [
        ("One", "first paragraph\nsecond, paragraph"),
        (None, "a\nb"),
        (None, None),
    ]
    assert rejected(report, "behaviors") == {
        1: "user_id_is_a_list",
        2: "user_id_is_a_list",
        3: "empty_user_id",
    }
    assert rejected(report, "social") == {1: "weight_is_an_object"}
    assert rejected(report, "texts") == {1: "text_is_a_list", 2: "text_is_a_list"}
    with pytest.raises(
        EveryRowRefusedError, match="behaviors: empty_user_id, user_id_is_a_list; texts: text_is_a"
    ):
        check_not_all_refused(report)


def test_a_list_in_a_strict_import_is_told_with_its_column(folder: Cases) -> None:
    folder.jsonl("items", {"item_id": ["i1"]})
    with pytest.raises(ImportRejectedError, match=r"row 1: item_id_is_a_list: item_id = '\[\"i1\"\]'"):
        folder.load(strict=True)


# Not a number


def test_not_a_number_is_missing(folder: Cases) -> None:
    folder.jsonl(
        "items",
        '{"item_id":"i1","title":NaN,"text":"a","attributes":{"x":NaN,"y":[NaN,1],"z":"so NaN, \\"NaN\\""}}',
        '{"item_id":NaN,"title":"x"}',
        '{"item_id":"i2","title":"NaN","available":NaN,"updated_at":NaN,"attributes":NaN}',
        '{"item_id":"i3","attributes":"{\\"x\\": NaN}"}',
    )
    folder.jsonl("behaviors", '{"user_id":"u","item_id":"i1","weight":NaN,"ts":NaN}')
    report = folder.load()
    assert rejected(report, "items") == {2: "empty_item_id"}
    assert folder.rows("SELECT item_id, title, text FROM data.items ORDER BY 1") == [
        ("i1", None, "a"),
        ("i2", "NaN", None),  # a text in quotes, as it says
        ("i3", None, None),
    ]
    assert folder.store.item("i1").attributes == {"x": None, "y": [None, 1], "z": 'so NaN, "NaN"'}
    assert folder.store.item("i3").attributes == {"x": None}
    assert folder.rows("SELECT weight, ts FROM data.behaviors") == [(1.0, None)]


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_not_a_number_is_missing_in_columns_of_floats(folder: Cases, form: str) -> None:
    nan = float("nan")
    folder.write(form, "items", item_id=["i1", "i2"], available=[1.0, nan], title=[nan, nan])
    folder.write(
        form, "social", user_id=["a", "b"], friend_id=["b", "c"], weight=[nan, 2.0], ts=[nan, 1609459200.0]
    )
    folder.load(strict=True)
    assert folder.rows("SELECT title, available FROM data.items") == [(None, True)] * 2
    assert folder.rows("SELECT weight, ts FROM data.social ORDER BY user_id") == [(1.0, None), (2.0, Y2021)]


def test_nan_behind_numbers_is_missing_although_statistics_of_parquet_leave_it_out(folder: Folder) -> None:
    nan = float("nan")
    folder.parquet("items", item_id=["i1"])
    folder.parquet("behaviors", user_id=["a", "b", "c"], item_id=["i1"] * 3, weight=[3.0, nan, 1.5])
    folder.parquet("texts", user_id=[1.0, nan, 3.0], text=["x", "y", "z"])
    report = folder.load()
    assert rejected(report, "texts") == {2: "empty_user_id"}
    assert folder.rows("SELECT weight FROM data.behaviors ORDER BY user_id") == [(3.0,), (1.0,), (1.5,)]


def test_not_a_number_in_attributes_of_parquet_is_null(folder: Cases) -> None:
    folder.parquet("items", item_id=["i1"], attributes=[{"price": float("nan"), "note": "no: NaN,"}])
    folder.load(strict=True)
    assert folder.store.item("i1").attributes == {"price": None, "note": "no: NaN,"}


# Times

NUMBERS: dict[str, list[Any]] = {
    "years": [2021, 2021, 2021],
    "dates": [20210101, 20210101000000, 20210101],
    "s": [1609459200, 1609459200.0, 1609459200],
    "ms": [1609459200000, 1609459200000, 1609459200000],
    "us": [1609459200000000] * 3,
    "ns": [1609459200000000000] * 3,
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("reading", NUMBERS)
def test_numbers_are_times_by_their_range(folder: Cases, form: str, reading: str) -> None:
    folder.write(form, "behaviors", user_id=["a", "b", "c"], item_id=["i"] * 3, ts=NUMBERS[reading])
    report = folder.load_with(create_items=True)
    assert report.tables["behaviors"].rejected == {}
    assert folder.times() == [Y2021] * 3
    assert bool(report.tables["behaviors"].remarks) == (reading != "s")
    folder.load_with(create_items=True, times=reading)
    assert folder.times() == [Y2021] * 3


def test_dates_and_years_of_one_column_are_never_1970(folder: Cases) -> None:
    folder.csv("behaviors", "user_id,item_id,ts", "u1,i1,20210101", "u2,i1,2021", "u3,i1,20211301", "u4,i1,5")
    report = folder.load_with(create_items=True)
    assert folder.times() == [Y2021, Y2021]
    assert rejected(report, "behaviors") == {3: "unparsable_time", 4: "unparsable_time"}


def test_units_may_change_within_a_column(folder: Cases) -> None:
    iso = "2021-01-01 00:00:00 +0100"
    folder.csv(
        "behaviors", "user_id,item_id,ts", "u1,i1,1609459200000", "u2,i1,1609459200000000", f"u3,i1,{iso}"
    )
    report = folder.load_with(create_items=True)
    assert folder.times() == [Y2021, Y2021, Y2021 - timedelta(hours=1)]
    assert report.tables["behaviors"].remarks == (
        "ts: 1 numbers are read as milliseconds since 1970, 1 numbers are read as microseconds since 1970",
    )


@pytest.mark.parametrize(
    ("numbers", "readings"),
    [
        ([5_000_000_000, 6_000_000_000], ("s", "ms")),
        ([202101011230, 202101011231], ("ms", "dates")),
        ([5_000_000_000_000, 1609459200], ("ms", "us")),
    ],
)
def test_numbers_with_two_readings_are_refused_and_both_named(
    folder: Cases, numbers: list[int], readings: tuple[str, str]
) -> None:
    folder.csv("behaviors", "user_id,item_id,ts", *(f"u{n},i,{n}" for n in (numbers[0], *numbers)))
    with pytest.raises(
        AmbiguousTimesError, match=f"--times {readings[0]} or --times {readings[1]}"
    ) as caught:
        folder.load_with(create_items=True)
    assert caught.value.readings == readings
    folder.load_with(create_items=True, times=readings[0])
    assert folder.store.counts()["behaviors"] >= 1


def test_a_clock_that_began_at_0_and_the_true_1970(folder: Cases) -> None:
    clock = [0, 50, 75, 100, 1900, 2021, 19700101]  # some look like years and dates, most do not
    folder.write("csv", "behaviors", user_id=list("abcdefg"), item_id=["i"] * 7, ts=clock)
    report = folder.load_with(create_items=True)
    began = datetime(1970, 1, 1)
    assert folder.times() == [began + timedelta(seconds=at) for at in clock]
    assert "small numbers (0 to 100) are read as seconds since 1970" in report.tables["behaviors"].remarks[0]
    folder.write("csv", "behaviors", user_id=["z"], item_id=["i"], ts=[20210101])
    folder.load_with(create_items=True, times="s")
    assert folder.times()[-1] == datetime(1970, 8, 22, 21, 55, 1)
    folder.write("csv", "behaviors", user_id=["z"], item_id=["i"], ts=[-86400])
    folder.load_with(create_items=True)
    assert datetime(1969, 12, 31) in folder.times()


ISO = {
    "2021-01-01": Y2021,
    "2021-01-01T00:00Z": Y2021,
    "2021-01-01T01:00:00+01": Y2021,
    "2021-01-01 05:30:00+05:30": Y2021,
    "2021-01-01 01:00:00 +0100": Y2021,
    "2021-01-01 00:00:00 Z": Y2021,
    "2020-12-31 16:00:00 -08:00": Y2021,
    "20210101T000000Z": Y2021,
    "2021-01-01t00:00:00,5z": Y2021 + timedelta(milliseconds=500),
    "2021-01-01T00:00:00.123456789": Y2021 + timedelta(microseconds=123456),
}


@pytest.mark.parametrize("form", FORMATS)
def test_iso_times_with_any_offset(folder: Cases, form: str) -> None:
    texts = [text for text in ISO if form != "csv" or "," not in text]
    users = [f"u{n:02}" for n in range(len(texts))]
    folder.write(form, "behaviors", user_id=users, item_id=["i"] * len(texts), ts=texts)
    report = folder.load_with(create_items=True)
    assert report.tables["behaviors"].rejected == {}
    assert folder.times() == [ISO[text] for text in texts]


def test_words_are_no_times(folder: Cases) -> None:
    words = ["epoch", "now", "infinity", "yesterday", "true", "inf", "1e400", "2021-13-01", "2021-01-01 (BC)"]
    folder.write("csv", "behaviors", user_id=[f"u{n}" for n in words], item_id=["i"] * len(words), ts=words)
    report = folder.load_with(create_items=True)
    assert report.tables["behaviors"].rejected == {"unparsable_time": len(words)}


def test_parquet_times_keep_their_meaning(folder: Cases) -> None:
    zone = timezone(timedelta(hours=1))
    folder.parquet(
        "behaviors",
        user_id=["a"],
        item_id=["i"],
        ts=pa.array([Y2021.replace(tzinfo=zone)], pa.timestamp("ms", tz="Europe/Berlin")),
    )
    folder.parquet("items", item_id=["i"], updated_at=pa.array([date(2021, 1, 1)]))
    folder.load(strict=True)
    assert folder.times() == [Y2021 - timedelta(hours=1)]
    assert folder.store.item("i").updated_at == Y2021


def test_unknown_times_are_told(folder: Cases) -> None:
    with pytest.raises(
        UnknownTimesError, match="times 'minutes' is none of auto, years, dates, s, ms, us, ns"
    ):
        folder.load_with(times="minutes")


# Booleans


@pytest.mark.parametrize("form", FORMATS)
def test_booleans_as_people_write_them(folder: Cases, form: str) -> None:
    yes = ["true", "T", "Yes", "y", "1", "1.0", "ON", " true "]
    no = ["False", "f", "NO", "n", "0", "0.0", "off", "OFF"]
    words = [*yes, *no, "2", "maybe", "ja"]
    folder.write(form, "items", item_id=[f"i{n:02}" for n in range(len(words))], available=words)
    report = folder.load()
    assert report.tables["items"].rejected == {"bad_available": 3}
    flags = [row[0] for row in folder.rows("SELECT available FROM data.items ORDER BY item_id")]
    assert flags == [True] * 8 + [False] * 8


@pytest.mark.parametrize("values", [[True, False], [1, 0], [1.0, 0.0]])
def test_booleans_as_numbers(folder: Cases, values: list[Any]) -> None:
    for form in ("parquet", "jsonl"):
        folder.write(form, "items", item_id=["i1", "i2"], available=values)
        folder.load(strict=True)
        assert folder.rows("SELECT available FROM data.items ORDER BY item_id") == [(True,), (False,)]
        folder.clear()


# Names are no data


def test_folder_names_change_nothing(folder: Cases) -> None:
    folder.raw("items.csv", b"item_id\ni1\n")
    folder.raw("behaviors/split=test/action=view/part-0.csv", b"user_id,item_id\nu,i1\n")
    folder.raw("behaviors/split=valid/part-1.csv.gz", gzip.compress(b"user_id,item_id\nv,i1\n"))
    pq.write_table(
        pa.table({"user_id": ["w"], "item_id": ["i1"]}), folder.path / "behaviors/split=valid/p.parquet"
    )
    folder.raw("behaviors/_SUCCESS", b"")
    folder.raw("behaviors/.part.crc", b"x")
    report = folder.load(strict=True)
    assert folder.rows("SELECT user_id, action, split FROM data.behaviors ORDER BY 1") == [
        ("u", "interact", None),
        ("v", "interact", None),
        ("w", "interact", None),
    ]
    assert report.tables["behaviors"].ignored_columns == ()


def test_columns_may_be_called_like_ours(folder: Cases) -> None:
    folder.parquet(
        "items", item_id=["i1", ""], file_row_number=[7, 8], filename=["x", "y"], _row=[1, 1], _line=["a", ""]
    )
    folder.csv("behaviors", "user_id,item_id,_row,_fault,c0,rowid,,", "u,i1,5,x,y,z,1,2", ",i1,5,x,y,z,1,2")
    folder.jsonl(
        "texts", {"user_id": "u", "text": "t", "_row": 1, "": 2, "item_id_type": 3, "a.b": 4}, {"user_id": ""}
    )
    report = folder.load()
    assert rejected(report, "items") == {2: "empty_item_id"}
    assert rejected(report, "behaviors") == {2: "empty_user_id"}
    assert rejected(report, "texts") == {2: "empty_user_id"}
    assert report.tables["items"].ignored_columns == ("file_row_number", "filename", "_row", "_line")
    assert report.tables["behaviors"].ignored_columns == ("_row", "_fault", "c0", "rowid", "(no name)")
    assert set(report.tables["texts"].ignored_columns) == {"_row", "(no name)", "item_id_type", "a.b"}


def test_a_file_row_number_of_another_case_is_no_collision(folder: Cases) -> None:
    folder.parquet("items", item_id=["i1"], FILE_ROW_NUMBER=[7])
    folder.load(strict=True)
    assert item_ids(folder) == ["i1"]


def test_an_unnamed_index_column_is_not_used(folder: Cases) -> None:
    folder.csv("items", ",item_id,title", "0,i1,One", "1,i2,Two")
    report = folder.load(strict=True)
    assert folder.rows("SELECT item_id, title FROM data.items ORDER BY 1") == [("i1", "One"), ("i2", "Two")]
    assert report.tables["items"].ignored_columns == ("(no name)",)


# Files


def test_a_byte_order_mark_is_no_data(folder: Cases) -> None:
    for name, content in {
        "items.jsonl": '{"item_id":"i1"}\n{"item_id":"i2"}\n',
        "items.csv": "item_id\ni1\ni2\n",
        "items.json": '[{"item_id":"i1"}, {"item_id":"i2"}]',
    }.items():
        for encoding in ("utf-8-sig", "utf-16", "utf-32"):
            folder.raw(name, content.encode(encoding))
            assert folder.load(strict=True).tables["items"].read == 2
            folder.clear()
    assert item_ids(folder) == ["i1", "i2"]


@pytest.mark.parametrize(
    "ends", [("\r\n", "\n"), ("\n", "\r\n"), ("\r", "\n"), ("\r", "\r"), ("\n\n", "\r\n\r\n")]
)
def test_line_ends_may_be_mixed(folder: Cases, ends: tuple[str, str]) -> None:
    rows = ("user_id,text", "u1,one", 'u2,"two\r\n\r\n""2"" \n\nend"', "u3", "u4,four")
    text = "".join(row + ends[number % 2] for number, row in enumerate(rows))
    folder.raw("texts.csv", text.encode())
    report = folder.load()
    assert rejected(report, "texts") == {3: "malformed_row"}
    assert folder.rows("SELECT user_id, text FROM data.texts ORDER BY 1") == [
        ("u1", "one"),
        ("u2", 'two\r\n\r\n"2" \n\nend'),
        ("u4", "four"),
    ]


@pytest.mark.parametrize("name", ["items.jsonl", "items.json", "items.ndjson"])
def test_json_arrays_and_lines_in_any_json_file(folder: Cases, name: str) -> None:
    for content in (
        b'[{"item_id":"i1"},\n{"item_id":"i2"}]',
        b'{"item_id":"i1"}\r{"item_id":"i2"}',
        b' \n[\n{\n"item_id": "i2"}]',
    ):
        folder.raw(name, content)
        folder.load(strict=True)
    assert item_ids(folder) == ["i1", "i2"]
    folder.raw(name, b'[{"item_id":"i3"}, 5, null, ["x"], {"item_id": "i4"}]')
    report = folder.load()
    assert rejected(report, "items") == {2: "malformed_row", 3: "malformed_row", 4: "malformed_row"}
    folder.raw(name, b'[{"item_id":"i5"},\n{"item_id":')
    with pytest.raises(UnreadableFileError, match="it is no JSON, or its array is broken off"):
        folder.load()


def test_bytes_of_another_encoding_are_named(folder: Cases) -> None:
    content = "item_id,title\ni1,Café\ni2,Two\ni3,Straße\n".encode("latin-1")
    folder.raw("items.csv", content)
    report = folder.load()
    assert rejected(report, "items") == {1: "not_utf8", 3: "not_utf8"}
    (remark,) = report.tables["items"].remarks
    assert remark.startswith(
        "not UTF-8: byte 0xE9 in row 1 of items.csv: say the encoding of the file, such as"
    )
    with pytest.raises(ImportRejectedError, match="row 1: not_utf8"):
        folder.load(strict=True)
    assert folder.load_with(encoding="latin-1").tables["items"].rejected == {}
    assert folder.rows("SELECT title FROM data.items ORDER BY item_id") == [("Café",), ("Two",), ("Straße",)]
    folder.clear()
    folder.raw(
        "items.jsonl", '{"item_id":"i1"}\n{"item_id":"書"}\n{"item_id":"i2","x":"書"}'.encode("gb18030")
    )
    report = folder.load()
    assert rejected(report, "items") == {2: "not_utf8"}  # what is not used may be anything
    assert folder.load_with(encoding="gb18030").tables["items"].rejected == {}
    assert "書" in item_ids(folder)
    with pytest.raises(UnknownEncodingError, match="encoding 'latin-99' is unknown: name one such as"):
        folder.load_with(encoding="latin-99")
    with pytest.raises(UnknownEncodingError):
        folder.load_with(encoding="hex")


def test_bytes_that_no_text_has(folder: Cases) -> None:
    folder.raw("items.csv", b"item_id\n\x00\xd8")
    with pytest.raises(UnreadableFileError, match="it is no utf-16-le text; say --encoding"):
        folder.load_with(encoding="utf-16-le")
    folder.clear()
    folder.parquet("items", item_id=pa.array([b"\xff"], pa.binary()))
    with pytest.raises(UnreadableFileError, match="it holds text that is not UTF-8"):
        folder.load()


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_packed_files_of_every_format(folder: Cases, packing: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": ["u"], "friend_id": ["v"]}), tmp_path / "s.parquet")
    for name, content in {
        "items.csv": b"item_id\ni1\n",
        "behaviors.tsv": b"user_id\titem_id\nu1\ti1\n",
        "texts.jsonl": b'{"user_id":"u","text":"t"}',
        "social.parquet": (tmp_path / "s.parquet").read_bytes(),
    }.items():
        packed = gzip.compress(content) if packing == ".gz" else pa.compress(content, "zstd", asbytes=True)
        folder.raw(name + packing, packed)
    folder.load(strict=True)
    counts = {
        "items": 1,
        "behaviors": 1,
        "texts": 1,
        "social": 1,
        "impressions": 0,
        "consents": 0,
        "users": 3,
    }
    assert folder.store.counts() == counts
    packed = (folder.path / f"items.csv{packing}").read_bytes()
    for broken in (packed[:-5], b"item_id\ni1\n"):
        folder.raw(f"items.csv{packing}", broken)
        with pytest.raises(UnreadableFileError, match=r"items\.csv.* it is no whole (gzip|zstd) file"):
            folder.load()


def test_parts_are_one_table(folder: Cases) -> None:
    folder.parquet("behaviors", user_id=["a"], item_id=[1], ts=[1609459200])
    (folder.path / "behaviors.parquet").rename(folder.path / "part-0.parquet")
    (folder.path / "behaviors").mkdir()
    (folder.path / "part-0.parquet").rename(folder.path / "behaviors/part-0.parquet")
    pq.write_table(
        pa.table({"user_id": ["b", "a", None], "item_id": [1.0, 1.0, 2.0], "ts": pa.array([Y2021] * 3)}),
        folder.path / "behaviors/part-1.parquet",
    )
    folder.raw(
        "behaviors/part-2.jsonl", b'{"user_id":"c","item_id":"1","weight":2}\n{"user_id":"","item_id":"1"}'
    )
    report = folder.load_with(create_items=True)
    lines = [json.loads(line) for line in report.tables["behaviors"].rejects_file.read_text().splitlines()]  # type: ignore[union-attr]
    assert [(Path(one["file"]).name, one["row"], one["reason"]) for one in lines] == [
        ("part-1.parquet", 2, "duplicate"),
        ("part-1.parquet", 3, "empty_user_id"),
        ("part-2.jsonl", 2, "empty_user_id"),
    ]
    assert folder.rows("SELECT user_id, item_id, weight, ts FROM data.behaviors ORDER BY 1") == [
        ("a", "1", 1.0, Y2021),
        ("b", "1", 1.0, Y2021),
        ("c", "1", 2.0, None),
    ]
    folder.raw("behaviors/part-3.csv", b"user,item_id\n")
    with pytest.raises(MissingColumnError, match=r"part-3\.csv: table behaviors needs a column 'user_id'"):
        folder.load()


def test_what_was_found_and_not_read_is_told(folder: Cases) -> None:
    folder.raw("items.xlsx", b"x")
    folder.raw("ratings.csv", b"x")
    (folder.path / "texts").mkdir()
    folder.raw("social/readme.txt", b"x")
    with pytest.raises(NothingToImportError) as caught:
        folder.load()
    told = str(caught.value)
    for part in (
        "items.xlsx (no format that is read)",
        "ratings.csv (no table's name)",
        "texts/ (an empty folder)",
        "social/readme.txt (no format that is read)",
    ):
        assert part in told


# Interactions alone


def test_interactions_alone_are_a_data_set(folder: Cases) -> None:
    folder.csv("behaviors", "user_id,item_id", "u1,i1", "u2,i2")
    report = folder.load()
    assert report.tables["behaviors"].remarks == (
        "2 rows name items that are not in the store: import these items, too, or say --create-items",
    )
    with pytest.raises(EveryRowRefusedError, match="every row was refused of behaviors: unknown_item"):
        check_not_all_refused(report)
    folder.csv("texts", "user_id,text,item_id", "u1,hello,i3", "u1,bye,", "u1,,i4")
    report = folder.load_with(create_items=True)
    check_not_all_refused(report)
    assert (report.tables["behaviors"].items_made, report.tables["texts"].items_made) == (2, 1)
    assert item_ids(folder) == ["i1", "i2", "i3"]
    assert folder.store.item("i1").available
    assert folder.load_with(create_items=True).tables["behaviors"].items_made == 0


def test_an_empty_table_says_so(folder: Cases) -> None:
    folder.csv("items", "item_id")
    folder.raw("texts.jsonl", b"\n \n")
    report = folder.load()
    check_not_all_refused(report)
    assert report.tables["items"].remarks == ("items.csv holds no rows",)
    assert report.tables["texts"].remarks == ("texts.jsonl holds no rows",)


# Vectors


def test_vectors_are_checked_against_the_text_model(folder: Cases) -> None:
    folder.jsonl(
        "texts",
        {"user_id": "u", "text": "a", "vector": [1, 2, 3], "text_model_id": "m"},
        {"user_id": "u", "text": "b", "vector": [1, 2], "text_model_id": "m"},
        {"user_id": "u", "text": "c", "vector": [1, 2], "text_model_id": "other"},
        '{"user_id": "u", "text": "d", "vector": [1, NaN], "text_model_id": "m"}',
        '{"user_id": "u", "text": "e", "vector": [1, 1e39], "text_model_id": "m"}',
        {"user_id": "u", "text": "f", "vector": [1, None], "text_model_id": "m"},
        {"user_id": "u", "text": "g", "vector": "one", "text_model_id": "m"},
    )
    report = folder.load_with(dims={"m": 2})
    assert rejected(report, "texts") == {
        1: "vector_dimension",
        4: "vector_not_finite",
        5: "vector_not_finite",
        6: "vector_not_readable",
        7: "vector_not_readable",
    }
    assert report.tables["texts"].remarks == (
        "row 1 of texts.jsonl: a vector of 3 numbers, and text model m has 2",
    )


@pytest.mark.parametrize("column", [pa.list_(pa.float64()), pa.list_(pa.float32(), 2)])
def test_vectors_of_parquet(folder: Cases, column: pa.DataType) -> None:
    vectors = pa.array([[1.0, 2.0], [1.0, float("nan")], [float("inf"), 1.0], None], column)
    folder.parquet("texts", user_id=list("abcd"), text=list("abcd"), vector=vectors)
    assert rejected(folder.load(), "texts") == {2: "vector_not_finite", 3: "vector_not_finite"}
    big = pa.array([[1.0, 1e39], [1.0, None]], pa.list_(pa.float64()))
    folder.parquet("texts", user_id=list("ef"), text=list("ef"), vector=big)
    assert rejected(folder.load(), "texts") == {1: "vector_not_finite", 2: "vector_not_readable"}


# The command


def test_the_command_ends_with_1_where_every_row_of_a_table_is_refused(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    data, home = tmp_path / "data", tmp_path / "home"
    data.mkdir()
    (data / "behaviors.csv").write_text("user_id,item_id,ts\nu1,i1,5000000000\nu2,i2,6000000000\n")
    code, out, err = run("import", data, "--home", home)
    assert (code, out) == (1, "")
    assert "seconds since 1970 or milliseconds since 1970: say --times s or --times ms" in err
    code, out, err = run("import", data, "--home", home, "--times", "ms")
    assert code == 1
    assert "2 rows name items that are not in the store" in out
    assert err.splitlines()[-1] == "triptych: every row was refused of behaviors: unknown_item"
    code, out, _ = run("import", data, "--home", home, "--times", "ms", "--create-items")
    assert code == 0
    assert "behaviors: 2 items made that only these rows name" in out
    code, _, err = run("import", data, "--home", home, "--encoding", "klingon")
    assert (code, "encoding 'klingon' is unknown" in err) == (2, True)


def test_a_file_of_a_single_byte_is_a_row_that_is_refused(folder: Cases) -> None:
    folder.raw("items.jsonl", b"5")
    report = folder.load()
    assert (report.tables["items"].read, rejected(report, "items")) == (1, {1: "malformed_row"})


def test_a_parquet_file_that_lost_a_byte_is_unreadable(folder: Cases) -> None:
    folder.parquet("items", item_id=["i1", "i2"], updated_at=[1_609_459_200, 1_609_459_201])
    file = folder.path / "items.parquet"
    file.write_bytes(file.read_bytes()[1:])
    with pytest.raises(UnreadableFileError, match=r"items\.parquet"):
        folder.load()


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_csv_header_without_a_comma_may_have_another_delimiter(
    folder: Folder, delimiter: str, ends: str
) -> None:
    rows = [["item_id", "title"], ["i1", "one, two"], ["i2", f'"a{delimiter}b"'], ["", ""], ["i3", ""]]
    lines = [delimiter.join(row) if any(row) else "" for row in rows]  # with a blank line, it is copied
    (folder.path / "items.csv").write_bytes((ends.join(lines) + ends).encode())
    report = folder.load(strict=True).tables["items"]
    assert folder.rows("SELECT item_id, title FROM data.items ORDER BY item_id") == [
        *(("i1", "one, two"), ("i2", f"a{delimiter}b"), ("i3", None)),
    ]
    assert report.remarks == (
        f"items.csv: values are taken apart at {delimiter!r}, as its header has no comma",
    )
    folder.csv("items", "item_id", "i;1")  # one column
    assert folder.load(strict=True).tables["items"].inserted == 1
    assert folder.store.item("i;1").item_id == "i;1"


def test_an_encoding_beside_parquet_is_said_to_be_unused(folder: Folder) -> None:
    folder.parquet("items", item_id=["é"])
    folder.csv("behaviors", "user_id,item_id")
    report = folder.load_with(encoding="latin-1")
    assert report.tables["items"].remarks == (
        "items.parquet: the encoding latin-1 is not used, as Parquet says how its text is encoded",
    )
    assert report.tables["behaviors"].remarks == ("behaviors.csv holds no rows",)
    assert folder.load_with(encoding="utf8").tables["items"].remarks == ()
