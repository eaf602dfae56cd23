"""Imports: every row read, refused with its reason, or put in; all of a folder or nothing."""

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store.imports.files import AmbiguousFilesError, NothingToImportError, UnknownFormatError
from store.imports.readers import MissingColumnError
from store.imports.rejects import ImportRejectedError
from store.imports.run import import_folder
from store.imports.text_files import UnreadableFileError
from store.records import Event, Friend, ItemRecord, UserViews
from store.store import Store
from tests.import_folder import Folder, rejected

MAY = datetime(2024, 5, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    folder = Folder(tmp_path)
    yield folder
    folder.store.close()


def expected_views() -> UserViews:
    return UserViews(
        history=(Event("书", "interact", 1.0, None), Event("i1", "click", 2.5, MAY)),
        texts=('你好, "世界"',),
        friends=(Friend("李", 1.0, ()),),
    )


def test_csv_jsonl_and_parquet_say_the_same(folder: Folder) -> None:
    folder.csv("items", "item_id,title,attributes", 'i1,One,"{""a"": 1}"', "书,三体,")
    folder.csv(
        "behaviors",
        "user_id,item_id,action,weight,ts",
        "ann,i1,click,2.5,2024-05-01T08:00:00+08:00",
        "ann,书,,,",
    )
    folder.csv("texts", "user_id,text,ts", 'ann,"你好, ""世界""",1714521600')
    folder.csv("social", "user_id,friend_id", "ann,李")
    folder.load(strict=True)
    assert folder.store.user_views("ann") == expected_views()
    assert folder.store.item("i1") == ItemRecord("i1", "One", None, None, {"a": 1}, True, None)
    for file in folder.path.iterdir():
        file.unlink()
    folder.jsonl(
        "items", {"item_id": "i1", "title": "One", "attributes": {"a": 1}}, {"item_id": "书", "title": "三体"}
    )
    folder.jsonl(
        "behaviors",
        {"user_id": "ann", "item_id": "i1", "action": "click", "weight": 2.5, "ts": 1714521600},
        {"user_id": "ann", "item_id": "书", "action": None},
    )
    folder.parquet(
        "texts",
        user_id=["ann"],
        text=['你好, "世界"'],
        ts=pa.array([MAY], pa.timestamp("ns", tz="Asia/Tokyo")),
    )
    folder.parquet(
        "social", user_id=pa.array([b"ann"], pa.binary()), friend_id=["李"], weight=pa.array([1], pa.int8())
    )
    report = folder.load(strict=True)
    assert {name: (table.inserted, table.updated) for name, table in report.tables.items()} == {
        "items": (0, 0),
        "behaviors": (0, 0),
        "texts": (0, 0),
        "social": (0, 0),
    }


def test_defaults_stand_in_for_missing_columns_and_values(folder: Folder) -> None:
    folder.jsonl("items", {"item_id": "i1", "available": None}, {"item_id": "i2", "available": False})
    folder.csv("behaviors", "user_id,item_id,weight,split", "u,i1,,", 'u,i2,3,"train"')
    folder.csv("texts", "user_id,text", "u,hello")
    folder.csv("social", "user_id,friend_id", "u,v")
    folder.load(strict=True)
    assert folder.rows("FROM data.items ORDER BY 1") == [
        ("i1", None, None, None, "{}", True, None, None),
        ("i2", None, None, None, "{}", False, None, None),
    ]
    assert folder.rows("FROM data.behaviors ORDER BY 2") == [
        ("u", "i1", "interact", 1.0, None, None),
        ("u", "i2", "interact", 3.0, None, "train"),
    ]
    assert folder.rows("FROM data.texts") == [("u", None, "hello", None, None, None, 1)]
    assert folder.rows("FROM data.social") == [("u", "v", "friend", 1.0, None)]


def test_every_reason_to_refuse_a_behavior(folder: Folder) -> None:
    folder.csv("items", "item_id", "i1")
    cases = {
        "u,i1,1,,": None,
        ",i1,1,,": "empty_user_id",
        "u,,1,,": "empty_item_id",
        f"{'书' * 86},i1,1,,": "id_too_long",
        "u,i1,abc,,": "weight_not_a_number",
        "u,i1,-inf,,": "weight_not_a_number",
        "u,i1,inf,,": "weight_not_a_number",
        "u,i1,-0.5,,": "negative_weight",
        "u,i1,1,yesterday,": "unparsable_time",
        "u,i1,1,infinity,": "unparsable_time",
        "u,i1,1,1e30,": "unparsable_time",
        "u,i1,1,20000-01-01,": "unparsable_time",
        "u,i1,1,,dev": "unknown_split",
        "u,i2,1,,": "unknown_item",
        "u,i1,9,,train": "duplicate",
        "u,i1": "malformed_row",
        "u,i1,1,,,x": "malformed_row",
        "u,i1,0,2024-05-01,test": None,
        'u,"i1"x,1,,': "malformed_row",
        "-,i1,1,-1.5,valid": None,
        ",i2,-1,never,dev": "empty_user_id",
    }
    folder.csv("behaviors", "user_id,item_id,weight,ts,split", *cases)
    report = folder.load()
    reasons = list(cases.values())
    assert rejected(report, "behaviors") == {n: reason for n, reason in enumerate(reasons, 1) if reason}
    table = report.tables["behaviors"]
    assert (table.read, table.inserted) == (21, 3)
    assert table.rejected == {reason: reasons.count(reason) for reason in set(reasons) if reason}
    assert folder.rows("SELECT user_id, weight, ts, split FROM data.behaviors ORDER BY ALL") == [
        ("-", 1.0, datetime(1969, 12, 31, 23, 59, 58, 500000), "valid"),
        ("u", 0.0, MAY, "test"),
        ("u", 1.0, None, None),
    ]
    assert table.rejects_file == folder.root / "rejects" / report.import_id / "behaviors.jsonl"
    lines = [json.loads(line) for line in table.rejects_file.read_text(encoding="utf-8").splitlines()]
    assert lines[3] == {
        "row": 5,
        "reason": "weight_not_a_number",
        "line": None,
        "values": {"user_id": "u", "item_id": "i1", "weight": "abc", "ts": None, "split": None},
    }
    assert next(line for line in lines if line["row"] == 17)["line"] == "u,i1,1,,,x"


def test_every_reason_to_refuse_an_item_a_text_and_a_friend(folder: Folder) -> None:
    folder.jsonl(
        "items",
        {"item_id": "i1", "attributes": '{"a": 1}', "available": "0", "updated_at": "2024-05-01"},
        {"item_id": ""},
        {"item_id": "i2", "attributes": [1]},
        {"item_id": "i2", "attributes": "{"},
        {"item_id": "i2", "available": "perhaps"},
        {"item_id": "i2", "text": "字" * 100_001},
        {"item_id": "i2", "updated_at": "soon"},
        {"item_id": "i1", "title": "again"},
        "{not json",
        "[1]",
        {"item_id": {"a": 1}},
        "",
        {"item_id": 7, "available": 1},
    )
    folder.jsonl(
        "texts",
        {"user_id": "u", "text": "字" * 100_000, "item_id": "i1", "vector": [1, 2.5], "text_model_id": "m"},
        {"user_id": "u", "text": " \t\n"},
        {"user_id": "u"},
        {"user_id": "u", "text": "x" * 100_001},
        {"user_id": "u", "text": "a", "item_id": "i2"},
        {"user_id": "u", "text": "b", "vector": [1, None]},
        {"user_id": "u", "text": "c", "vector": [1, 1e39]},
        {"user_id": "u", "text": "d", "vector": "one"},
        {"user_id": "u", "text": "e", "vector": []},
        {"user_id": "u", "text": "f", "vector": [1, 2, 3], "text_model_id": "m"},
        {"user_id": "u", "text": "g", "vector": [1, 2, 3], "text_model_id": "n"},
        {"user_id": "u", "text": "g"},
        {"user_id": "u", "text": "g"},
    )
    folder.csv("social", "user_id,friend_id,relation", "u,v,", "u,u,", "u,,", "u,v,friend", "u,v,boss")
    report = folder.load()
    assert rejected(report, "items") == {
        2: "empty_item_id",
        3: "bad_attributes",
        4: "bad_attributes",
        5: "bad_available",
        6: "text_too_long",
        7: "unparsable_time",
        8: "duplicate",
        9: "malformed_row",
        10: "malformed_row",
        11: "item_id_is_an_object",
    }
    assert '"line":"{not json"' in report.tables["items"].rejects_file.read_text()  # type: ignore[union-attr]
    assert rejected(report, "texts") == {
        2: "empty_text",
        3: "empty_text",
        4: "text_too_long",
        5: "unknown_item",
        6: "vector_not_readable",
        7: "vector_not_finite",
        8: "vector_not_readable",
        9: "vector_not_readable",
        10: "vector_dimension",
    }
    assert rejected(report, "social") == {2: "self_friend", 3: "empty_friend_id", 4: "duplicate"}
    assert folder.rows("SELECT item_id, available, attributes FROM data.items ORDER BY 1") == [
        ("7", True, "{}"),
        ("i1", False, '{"a":1}'),
    ]
    assert (
        folder.rows("SELECT text, occurrence FROM data.texts WHERE text = 'g' ORDER BY ALL")
        == [
            ("g", 1),
            ("g", 1),
            ("g", 2),
            ("g", 3),
        ][1:]
    )


def test_parquet_values_are_checked_like_text(folder: Folder) -> None:
    folder.parquet(
        "items",
        item_id=["i1", "i2"],
        attributes=[{"a": "x"}, None],
        available=[False, None],
        updated_at=pa.array([MAY, None], pa.date32()),
    )
    folder.parquet(
        "behaviors",
        user_id=["u", "u", "u"],
        item_id=["i1", "i1", "i2"],
        weight=[1.0, float("inf"), None],
        ts=[1714521600, 1, 2**62],
    )
    folder.parquet("texts", user_id=["u", "u"], text=["a", "b"], vector=[[1.0, 2.0], [1.0, float("inf")]])
    report = folder.load()
    assert rejected(report, "behaviors") == {2: "weight_not_a_number", 3: "unparsable_time"}
    assert rejected(report, "texts") == {2: "vector_not_finite"}
    assert folder.store.item("i1").attributes == {"a": "x"}
    assert folder.store.item("i1").updated_at == MAY
    assert folder.store.user_views("u").history == (Event("i1", ts=MAY),)


def test_importing_again_updates_what_differs_and_nothing_else(folder: Folder) -> None:
    folder.csv("items", "item_id,title", "i1,One", "i2,Two")
    folder.csv("behaviors", "user_id,item_id,weight,split", "u,i1,1,test", "u,i2,1,", "v,i1,1,train")
    folder.csv("texts", "user_id,text", "u,same", "u,same")
    folder.load(strict=True)
    folder.csv("items", "item_id,kind", "i1,book", "i3,book")
    folder.csv("behaviors", "user_id,item_id,weight", "u,i1,5", "u,i2,1", "w,i3,1")
    folder.csv("texts", "user_id,text,vector,text_model_id", "u,same,,", 'u,same,"[1, 2]",m', "u,same,,")
    report = folder.load(strict=True)
    assert {n: (t.inserted, t.updated, t.unchanged) for n, t in report.tables.items()} == {
        "items": (1, 1, 0),
        "behaviors": (1, 1, 1),
        "texts": (1, 1, 1),
    }
    assert folder.rows("SELECT item_id, title, kind FROM data.items ORDER BY 1") == [
        ("i1", "One", "book"),
        ("i2", "Two", None),
        ("i3", None, "book"),
    ]
    assert folder.rows("SELECT user_id, item_id, weight, split FROM data.behaviors") == [
        ("u", "i1", 5.0, "test"),
        ("u", "i2", 1.0, None),
        ("v", "i1", 1.0, "train"),
        ("w", "i3", 1.0, None),
    ]
    assert folder.rows("SELECT occurrence, vector FROM data.texts") == [(1, None), (2, [1.0, 2.0]), (3, None)]
    again = folder.load(strict=True)
    assert all((t.inserted, t.updated) == (0, 0) for t in again.tables.values())


def test_a_text_model_keeps_the_dimension_of_its_stored_vectors(folder: Folder) -> None:
    folder.csv("texts", "user_id,text,vector,text_model_id", 'u,a,"[1, 2]",m')
    folder.load(strict=True)
    folder.csv("texts", "user_id,text,vector,text_model_id", 'u,b,"[1, 2, 3]",m', 'u,c,"[3, 4]",m')
    assert rejected(folder.load(), "texts") == {1: "vector_dimension"}


def test_a_strict_import_names_the_first_reject_and_imports_nothing(folder: Folder) -> None:
    folder.csv("items", "item_id", "i1")
    folder.csv("behaviors", "user_id,item_id,weight", "u,i1,1", "u,i1,-2", "u,i1,x")
    with pytest.raises(
        ImportRejectedError, match=r"behaviors\.csv, row 2: negative_weight: weight = '-2'"
    ) as caught:
        folder.load(strict=True)
    assert caught.value.row == 2
    assert caught.value.values == {"weight": "-2"}
    assert folder.store.counts()["items"] == 0
    assert not (folder.root / "rejects").exists()


def test_a_strict_import_tells_a_duplicate_and_a_line(folder: Folder) -> None:
    folder.csv("items", "item_id,title", "i1,a", "i1,b")
    with pytest.raises(ImportRejectedError, match="row 2: duplicate: item_id = 'i1'"):
        folder.load(strict=True)
    folder.csv("items", "item_id,title", "i1")
    with pytest.raises(ImportRejectedError, match="row 1: malformed_row: _line = 'i1'"):
        folder.load(strict=True)


def test_a_missing_column_names_what_is_there(folder: Folder) -> None:
    folder.csv("items", "item_id", "i1")
    folder.csv("behaviors", "user,item_id", "u,i1")
    with pytest.raises(
        MissingColumnError, match=r"behaviors\.csv.* needs a column 'user_id'.*: user, item_id"
    ) as caught:
        folder.load()
    assert caught.value.present == ("user", "item_id")
    assert folder.store.counts()["items"] == 0
    folder.csv("behaviors")
    with pytest.raises(MissingColumnError, match="none"):
        folder.load()


def test_unknown_columns_and_files_are_told(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    folder.csv("items", "item_id,colour", "i1,red")
    (folder.path / "notes.txt").write_text("hello")
    report = folder.load(strict=True)
    assert report.tables["items"].ignored_columns == ("colour",)
    assert "colour" in caplog.text
    assert "notes.txt" in caplog.text


def test_what_cannot_be_imported_at_all(folder: Folder) -> None:
    with pytest.raises(NothingToImportError, match=r"texts, social, impressions, consents with \.parquet"):
        folder.load()
    with pytest.raises(UnknownFormatError, match="'xml'"):
        folder.load(file_format="xml")
    folder.csv("items", "item_id", "i1")
    folder.jsonl("items", {"item_id": "i2"})
    with pytest.raises(AmbiguousFilesError, match="more than once"):
        folder.load()
    folder.load(file_format="jsonl", strict=True)
    assert folder.rows("SELECT item_id FROM data.items") == [("i2",)]
    with pytest.raises(NothingToImportError, match=r"with \.parquet"):
        folder.load(file_format="parquet")
    with pytest.raises(NotADirectoryError):
        import_folder(folder.store, folder.root / "nowhere", rejects=folder.root)


@pytest.mark.parametrize("content", [b"", b"PAR1 no", b"\xff" * 100])
def test_a_file_that_is_no_parquet(folder: Folder, content: bytes) -> None:
    (folder.path / "items.parquet").write_bytes(content)
    with pytest.raises(UnreadableFileError, match=r"items\.parquet cannot be read"):
        folder.load()


def test_a_csv_header_with_a_column_twice(folder: Folder) -> None:
    folder.csv("items", "item_id,item_id", "a,b")
    with pytest.raises(UnreadableFileError, match="names a column twice"):
        folder.load()


def test_empty_files_import_nothing(folder: Folder) -> None:
    (folder.path / "items.jsonl").write_bytes(b"")
    folder.csv("behaviors", "user_id,item_id")
    assert [table.read for table in folder.load(strict=True).tables.values()] == [0, 0]


def test_rows_with_bytes_that_are_no_utf8_are_refused(folder: Folder) -> None:
    (folder.path / "items.csv").write_bytes(b"item_id,title\ni1,\xff\xfe\n\xe4\xb9\xa6,ok\n")
    (folder.path / "texts.jsonl").write_bytes(
        b'{"user_id": "u", "text": "\xff"}\r\n{"user_id": "u", "text": "x"}\r\n'
    )
    report = folder.load()
    assert rejected(report, "items") == {1: "not_utf8"}
    assert rejected(report, "texts") == {1: "not_utf8"}
    counts = {
        "items": 1,
        "behaviors": 0,
        "texts": 1,
        "social": 0,
        "impressions": 0,
        "consents": 0,
        "users": 1,
    }
    assert folder.store.counts() == counts


KILLED = """
import logging, pathlib, sys
from store.store import Store
from store.imports.run import import_folder
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
root = pathlib.Path(sys.argv[1])
with Store.open(root / "views.duckdb") as store:
    import_folder(store, root / "big", rejects=root / "rejects")
"""


@pytest.mark.parametrize("moment", ["items.parquet: ", "behaviors.parquet: ", "done in"])
def test_a_killed_import_is_whole_or_absent(tmp_path: Path, moment: str) -> None:
    (tmp_path / "big").mkdir()
    ids = [str(number) for number in range(60_000)]
    pq.write_table(pa.table({"item_id": ids}), tmp_path / "big" / "items.parquet")
    for table, column in (("behaviors", "item_id"), ("texts", "text"), ("social", "friend_id")):
        pq.write_table(
            pa.table({"user_id": ["u" + i for i in ids], column: ids}), tmp_path / "big" / f"{table}.parquet"
        )
    with Store.open(tmp_path / "views.duckdb") as store, store.writing() as cursor:
        cursor.execute("INSERT INTO data.items (item_id) VALUES ('old')")
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if moment in line:
                os.kill(process.pid, signal.SIGKILL)
                break
    with Store.open(tmp_path / "views.duckdb") as store:
        counts = store.counts()
        rest = counts["items"] - 1
        assert rest == 60_000 if moment == "done in" else rest in (0, 60_000)  # the kill may come late
        assert [counts[table] for table in ("behaviors", "texts", "social")] == [rest] * 3
        assert store.item("old").available
        import_folder(store, tmp_path / "big", rejects=tmp_path / "rejects", strict=True)
        assert store.counts()["behaviors"] == 60_000
