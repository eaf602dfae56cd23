"""Conversions: cut off anywhere and gone on with, bounded; files that change, are packed, broken or odd."""

import gzip
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.exchange import lines as lines_module
from scripts.exchange.command import NoRowsError, import_sources
from scripts.exchange.conversion import Limit, convert
from scripts.exchange.formats import LAYOUTS
from scripts.exchange.lines import Lines
from scripts.exchange.records import Delimited, JsonLines, Position, Record
from scripts.exchange.sources import Row, SourceFile
from scripts.exchange.unfinished import ImportRunsError, Unfinished, left_over
from store.home import Home
from store.imports import ImportOptions, UnreadableFileError
from store.imports.rejects import ImportRejectedError
from store.store import Store
from tests.layouts import imported, imported_sources, lines, rows_of, write

WHAT = {"layout": "test"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def reviews(count: int) -> str:
    return lines(
        *(
            {"user_id": f"u{at % 7}", "parent_asin": f"p{at}", "rating": 1, "text": "é" * at}
            for at in range(count)
        ),
    )


def products(count: int) -> str:
    return lines(*({"parent_asin": f"p{at}", "title": f"No. {at}"} for at in range(count)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "am", r_DOT_jsonl_DOT_gz=reviews(40), p_DOT_jsonl=products(40))


class _CutError(Exception):
    pass


def cut_off(sources: list[SourceFile], records: int) -> list[SourceFile]:
    """The same files, whose conversion ends with an error after so many records."""
    left = records

    def rows(source: SourceFile, fields: Any) -> Iterator[Row]:
        nonlocal left
        left -= 1
        if left < 0:
            raise _CutError
        yield from source.rows(fields)

    return [replace(source, rows=lambda fields, source=source: rows(source, fields)) for source in sources]


def converted(unfinished: Unfinished) -> list[dict[str, Any]]:
    return [
        row
        for table in sorted(unfinished.tables.iterdir())
        for part in sorted(table.glob("*.parquet"))
        for row in pq.read_table(part).to_pylist()
    ]


@given(cuts=st.lists(st.integers(0, 40), max_size=5), part_bytes=st.integers(1, 2_000))
@settings(max_examples=25)
def test_a_conversion_that_is_cut_off_goes_on_to_the_same_rows(
    cuts: list[int], part_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cuts")
    folder = write(path / "am", r_DOT_jsonl_DOT_gz=reviews(40), p_DOT_jsonl=products(40))
    sources = LAYOUTS["amazon-reviews"].find(folder, None)
    with Unfinished.of(path / "whole", WHAT, restart=False) as unfinished:
        convert(sources, unfinished)
        whole = converted(unfinished)
    for cut in cuts:
        with Unfinished.of(path / "cut", WHAT, restart=False) as unfinished, suppress(_CutError):
            convert(cut_off(sources, min(cut, 20)), unfinished, part_bytes=part_bytes)
    with Unfinished.of(path / "cut", WHAT, restart=False) as unfinished:
        progress = convert(sources, unfinished, part_bytes=part_bytes)
        assert converted(unfinished) == whole
        assert dict(progress.rows) == {"items": 40, "behaviors": 40, "texts": 39}
        assert not [file for file in unfinished.tables.rglob("*") if file.name[0] == "."]


def test_parts_behind_the_last_note_are_written_anew(folder: Path, home: Home) -> None:
    sources = LAYOUTS["amazon-reviews"].find(folder, None)
    with Unfinished.of(home.imports, WHAT, restart=False) as unfinished:
        with pytest.raises(_CutError):
            convert(cut_off(sources, 50), unfinished, part_bytes=500)
        (unfinished.tables / "items" / "part-00099.parquet").write_text("half a part")
        (unfinished.tables / "items" / ".part-00099.tmp").write_text("half a part")
        convert(sources, unfinished, part_bytes=500)
        assert len([row for row in converted(unfinished) if row.get("title")]) == 40


def test_what_changed_is_read_anew(folder: Path, home: Home, caplog: pytest.LogCaptureFixture) -> None:
    sources = LAYOUTS["amazon-reviews"].find(folder, None)
    with Unfinished.of(home.imports, WHAT, restart=False) as unfinished:
        with pytest.raises(_CutError):
            convert(cut_off(sources, 50), unfinished, part_bytes=500)
        write(folder, p_DOT_jsonl=products(3))
        assert convert(sources, unfinished).rows["items"] == 3
        assert "the files changed since the import that was cut off" in caplog.text
        (unfinished.path / "progress.json").write_text("{}")
        assert convert(sources, unfinished).rows["items"] == 3


def test_the_command_goes_on_and_restart_begins_anew(
    folder: Path, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    sources = LAYOUTS["amazon-reviews"].find(folder, None)
    raw = gzip.decompress((folder / "r.jsonl.gz").read_bytes()) + b"{broken\n"
    (folder / "r.jsonl.gz").write_bytes(gzip.compress(raw))
    with pytest.raises(ImportRejectedError, match=r"r\.jsonl\.gz, row 41: malformed_row: _line \(not shown"):
        import_sources(home, sources, WHAT, ImportOptions(strict=True))
    assert len(left_over(home.imports, home.imports / "another")) == 1
    with caplog.at_level("INFO"):
        report = import_sources(home, sources, WHAT, ImportOptions())
    assert "going on where an import of the same files was cut off: all is read (40 items, " in caplog.text
    assert report.tables["texts"].rejected == {"malformed_row": 1}
    assert left_over(home.imports, home.imports / "another") == []
    caplog.clear()
    with caplog.at_level("INFO"):
        import_sources(home, sources, WHAT, ImportOptions(), restart=True)
    assert "going on" not in caplog.text


def test_two_imports_of_the_same_files_do_not_meet(home: Home) -> None:
    with (
        Unfinished.of(home.imports, WHAT, restart=False),
        pytest.raises(ImportRunsError, match="another import of these files runs"),
        Unfinished.of(home.imports, WHAT, restart=False),
    ):
        pass


def test_a_second_import_changes_nothing_and_a_split_stays(folder: Path, home: Home) -> None:
    first = imported(folder, "amazon-reviews", home)
    marks = pa.table(
        {"user_id": ["u0"], "item_id": ["p0"], "action": ["rate"], "ts": pa.array([None], pa.timestamp("us"))}
    ).append_column("split", pa.array(["test"]))
    with Store.open(home.database) as store:
        store.write_splits(marks, reset=True)
    again = imported(folder, "amazon-reviews", home)
    assert {one.unchanged for one in again.report.tables.values()} == {40, 39}
    split = {row[:2]: row[5] for row in again.rows["behaviors"]}
    assert split.pop(("u0", "p0")) == "test"
    assert set(split.values()) == {None}
    assert again.rows["texts"] == first.rows["texts"]


def test_a_limit_takes_items_that_the_other_rows_name(folder: Path, home: Home) -> None:
    write(folder, p_DOT_jsonl="".join(reversed(products(40).splitlines(keepends=True))))
    done = imported(folder, "amazon-reviews", home, limit=5)
    assert {name: len(rows) for name, rows in done.rows.items()} == {"items": 6, "behaviors": 5, "texts": 5}
    named = {row[1] for table in ("behaviors", "texts") for row in done.rows[table]}
    assert {row[0] for row in done.rows["items"]} == named
    assert done.refused == set()
    (folder / "r.jsonl.gz").unlink()
    only_items = imported(folder, "amazon-reviews", Home(home.path / "two"), limit=5)
    assert len(only_items.rows["items"]) == 5


def test_a_limit_stops_reading(folder: Path, home: Home) -> None:
    sources = LAYOUTS["amazon-reviews"].find(folder, None)
    with Unfinished.of(home.imports, WHAT, restart=False) as unfinished:
        progress = convert(cut_off(sources, 25), unfinished, limit=Limit(10))
    assert progress.rows == {"behaviors": 10, "texts": 10, "items": 11}  # the first review has no words


def test_items_may_be_made(folder: Path, home: Home) -> None:
    (folder / "p.jsonl").unlink()
    done = imported(folder, "amazon-reviews", home, create_items=True)
    assert done.report.tables["behaviors"].items_made + done.report.tables["texts"].items_made == 40


def test_files_without_rows_say_so(tmp_path: Path, home: Home) -> None:
    write(tmp_path, ratings_DOT_csv="userId,movieId,rating,timestamp\n")
    with pytest.raises(NoRowsError, match=r"there are no rows in ratings\.csv"):
        import_sources(home, LAYOUTS["movielens"].find(tmp_path, None), WHAT, ImportOptions())


def test_packed_content_that_is_broken_off(folder: Path, home: Home) -> None:
    file = folder / "r.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UnreadableFileError, match=r"r\.jsonl\.gz cannot be read: it is no whole gzip file"):
        imported(folder, "amazon-reviews", home)
    packed = folder / "r.jsonl.zst"
    packed.write_bytes(pa.compress(reviews(3).encode() * 9, "zstd", asbytes=True)[:-9])
    file.unlink()
    with pytest.raises(UnreadableFileError, match="it is no whole zstd file"):
        imported(folder, "amazon-reviews", home)


def test_zstd_is_read(folder: Path, home: Home) -> None:
    (folder / "r.jsonl.gz").unlink()
    (folder / "r.jsonl.zst").write_bytes(pa.compress(reviews(40).encode(), "zstd", asbytes=True))
    assert len(imported(folder, "amazon-reviews", home).rows["behaviors"]) == 40


def test_bytes_of_another_encoding_are_named(tmp_path: Path, home: Home) -> None:
    write(tmp_path, t_DOT_csv="user_id,text\na,caf\xe9\nb,ok\n".encode("latin-1"))
    columns = {"texts": ("user_id", "text")}

    def rows(fields: dict[str, Any]) -> Iterator[Row]:
        yield "texts", {"user_id": fields["user_id"], "text": fields["text"]}

    done = imported_sources([SourceFile(tmp_path / "t.csv", columns, Delimited(), rows)], home)
    assert done.refused == {("t.csv", 2, "not_utf8")}
    (remark,) = done.report.tables["texts"].remarks
    assert "not UTF-8: byte 0xE9 in row 2 of t.csv: say the encoding of the file" in remark
    reader = Delimited(encoding="latin-1")
    imported_sources([SourceFile(tmp_path / "t.csv", columns, reader, rows)], home)
    assert ("a", None, "café", None) in rows_of(home)["texts"]
    reader = Delimited(encoding="utf-16")
    with pytest.raises(UnreadableFileError, match="utf-16 is read in folders of our tables only"):
        imported_sources([SourceFile(tmp_path / "t.csv", columns, reader, rows)], home)


def records(path: Path, reader: Delimited | JsonLines, start: Position = Position()) -> list[Record]:  # noqa: B008
    with Lines(path) as some:
        return list(reader.records(some, start))


def test_records_keep_line_ends_in_quotes_and_number_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n1,"x\r\ny ""z"""\r\n\r\n2,5" disk\r\n3,"a"b\r\n4,last')
    assert records(path, Delimited()) == [
        Record(2, {"a": "1", "b": 'x\r\ny "z"'}, '1,"x\r\ny ""z"""'),
        Record(5, {"a": "2", "b": '5" disk'}, '2,5" disk'),
        Record(6, None, '3,"a"b'),
        Record(7, {"a": "4", "b": "last"}, "4,last"),
    ]


def test_a_stray_quote_does_not_swallow_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,"open\n' + "2,x\n" * 100_000)
    found = records(path, Delimited())
    assert found[0].fields is None
    assert len(found) > 60_000
    assert found[-1] == Record(100_002, {"a": "2", "b": "x"}, "2,x")


def test_a_line_without_an_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "MAX_LINE_BYTES", 64)
    path = tmp_path / "a.jsonl"
    for length in (62, 63, 64, 65, 127, 128, 129, 1_000):
        path.write_text('{"a": "' + "x" * (length - 9) + '"}\n{"a": 1}\n')
        found = records(path, JsonLines())
        assert found[-1] == Record(2, {"a": 1}, '{"a": 1}')
        assert (found[0].fields is not None) is (length <= 64)
        assert len(found[0].text) <= 64


@given(
    rows=st.lists(st.lists(st.text("ab,\"\n'é;", max_size=6), min_size=2, max_size=2), max_size=8),
    packed=st.booleans(),
)
def test_reading_goes_on_behind_any_record(
    rows: list[list[str]], packed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fields = [",".join(f'"{value.replace(chr(34), 2 * chr(34))}"' for value in row) for row in rows]
    raw = "".join(f"{line}\n" for line in ("a,b", *fields)).encode()
    path = tmp_path_factory.mktemp("rows") / ("a.csv.gz" if packed else "a.csv")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    whole = records(path, Delimited())
    assert [list((record.fields or {}).values()) for record in whole] == rows
    with Lines(path) as some:
        for at, _ in enumerate(Delimited().records(some), start=1):
            assert records(path, Delimited(), Position(some.offset, some.number)) == whole[at:]


def test_a_header_that_names_a_column_twice(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(UnreadableFileError, match="names a column twice: a"):
        records(tmp_path / "a.csv", Delimited())


def test_progress_holds_no_value_of_a_row(folder: Path, home: Home) -> None:
    sources = LAYOUTS["amazon-reviews"].find(folder, None)
    with Unfinished.of(home.imports, WHAT, restart=False) as unfinished:
        convert(sources, unfinished)
        noted = json.loads((unfinished.path / "progress.json").read_text())
    assert set(noted) == {"files", "progress"}
    assert set(noted["files"][0]) == {"path", "bytes", "changed", "head"}
    assert set(noted["progress"]) == {"file", "offset", "line", "part", "rows"}
