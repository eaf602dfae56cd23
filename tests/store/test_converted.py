"""Rows that were converted from another layout: refused with the file and line that they came from."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from store.imports import ConvertedParts, ImportOptions, import_folder
from store.imports.rejects import ImportRejectedError
from store.masking import Masking
from store.store import Store

COLUMNS = {"items": ("item_id", "title"), "texts": ("user_id", "text", "ts")}


def parts(folder: Path, part: str = "part-00000") -> ConvertedParts:
    return ConvertedParts(folder, part, COLUMNS, "utf-8")


def load(store: Store, folder: Path, **options: object) -> list[dict[str, object]]:
    report = import_folder(
        store,
        folder,
        rejects=folder.parent / "rejects",
        options=ImportOptions(file_format="parquet", **options),  # type: ignore[arg-type]
    )
    return [
        json.loads(line)
        for table in report.tables.values()
        if table.rejects_file is not None
        for line in table.rejects_file.read_text("utf-8").splitlines()
    ]


def test_a_refused_row_names_its_origin_and_its_record_is_masked(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    writing = parts(folder)
    writing.add("texts", {"user_id": "a", "text": "ok", "ts": datetime(2024, 5, 1)}, file="in/a.csv", row=3)
    writing.add("texts", {"user_id": "a", "text": ""}, file="in/a.csv", row=4)
    broken = "b,write to ann@example.org"
    writing.add("texts", {}, file="in/b.csv", row=70, reason="malformed_row", text=broken)
    assert writing.publish() == {"texts": 3}
    with Store.open(tmp_path / "views.duckdb") as store:
        with pytest.raises(ImportRejectedError, match=r"^in/a\.csv, row 4: empty_text") as caught:
            load(store, folder, strict=True)
        assert (caught.value.file, caught.value.row) == (Path("in/a.csv"), 4)
        assert store.counts()["texts"] == 0
        refused = load(store, folder, masking=Masking.named("all"))
        assert [(row["file"], row["row"], row["reason"]) for row in refused] == [
            ("in/a.csv", 4, "empty_text"),
            ("in/b.csv", 70, "malformed_row"),
        ]
        assert "ann@example.org" not in json.dumps(refused)
        assert str(refused[1]["line"]).startswith("b,write to ")
        assert [text for batch in store.distinct_texts() for text in batch] == ["ok"]


def test_columns_that_are_not_given_keep_their_values(tmp_path: Path) -> None:
    with Store.open(tmp_path / "views.duckdb") as store:
        for number, title in enumerate(("One", "Uno")):
            folder = tmp_path / f"in-{number}" / "tables"
            writing = parts(folder)
            writing.add("items", {"item_id": "i", "title": title, "text": "is left out"}, file="f", row=1)
            writing.publish()
            load(store, folder, strict=True)
            with store.writing() as cursor:
                cursor.execute("UPDATE data.items SET kind = 'book'")
        item = store.item("i")
        assert (item.title, item.text, item.kind) == ("Uno", None, "book")


def test_what_cannot_be_stored_is_refused_and_what_is_too_long_too(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    writing = parts(folder)
    writing.add("items", {"item_id": "a", "title": "caf\udce9"}, file="f", row=1)
    writing.add("items", {"item_id": "b", "title": "half \ud83d"}, file="f", row=2)
    writing.add("items", {"item_id": "c", "title": "x" * 100_001}, file="f", row=3)
    writing.add("items", {"item_id": "d", "title": "书 😀"}, file="f", row=4)
    writing.publish()
    with Store.open(tmp_path / "views.duckdb") as store:
        refused = load(store, folder)
        assert [(row["row"], row["reason"]) for row in refused] == [
            (1, "not_utf8"),
            (2, "half_a_surrogate_pair"),
            (3, "text_too_long"),
        ]
        assert store.item("d").title == "书 😀"


def test_an_abandoned_part_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    parts(folder).publish()
    writing = parts(folder)
    writing.add("items", {"item_id": "a"}, file="f", row=1)
    assert [file.suffix for file in folder.rglob("*") if file.is_file()] == [".tmp"]
    writing.abandon()
    assert [file for file in folder.rglob("*") if file.is_file()] == []


def test_the_memory_of_a_store_can_be_bounded(tmp_path: Path) -> None:
    with Store.open(tmp_path / "views.duckdb") as store:
        store.limit_memory(256 << 20)
        with store.snapshot() as cursor:
            assert cursor.execute("SELECT current_setting('memory_limit')").fetchall() == [("256.0 MiB",)]
