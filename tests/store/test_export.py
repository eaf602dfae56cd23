"""Exports: one state of the store, whole or not there, and the same again after an import."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import artifact
from store.artifact import DamagedArtifactError
from store.export import Export, NoExportError, NotAnExportError, create_export
from store.imports.run import import_folder
from store.store import Store
from store.tables import TABLES

MAY, JUNE = datetime(2024, 5, 1), datetime(2024, 6, 1, 12, 30, 0, 123456)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "views.duckdb") as store:
        with store.writing() as cursor:
            cursor.execute("""
                INSERT INTO data.items (item_id, title, attributes, available) VALUES
                  ('书', '三体', '{"lang": "zh"}', true), ('i1', 'One', '{}', true),
                  ('i2', NULL, '{}', false);
                INSERT INTO data.behaviors VALUES
                  ('李', 'i1', 'click', 1, NULL, NULL), ('ann', 'i2', 'click', 1, '2024-06-01', 'train'),
                  ('ann', 'i1', 'click', 2, '2024-05-01', NULL), ('ann', '书', 'click', 1, NULL, 'train'),
                  ('ann', 'i9', 'click', 3, NULL, 'valid'), ('zed', 'i1', 'buy', 1, NULL, 'test');
                INSERT INTO data.texts (user_id, item_id, text, ts, vector, text_model_id, occurrence) VALUES
                  ('李', NULL, '你好', NULL, NULL, NULL, 1), ('ann', 'i9', 'leak', NULL, [9, 9], 'm', 1),
                  ('ann', NULL, 'late', '2024-06-01', [1, 2], 'm', 1),
                  ('ann', 'i1', 'early', NULL, NULL, NULL, 1),
                  ('ann', 'i1', 'early', NULL, [3, 4], 'm', 2);
                INSERT INTO data.social (user_id, friend_id, relation, weight) VALUES
                  ('ann', '李', 'friend', 1), ('ann', '李', 'boss', 2.5), ('ann', 'ann', 'friend', 9),
                  ('ann', 'bob', 'friend', 1)""")
        yield store


@pytest.fixture
def export(store: Store, tmp_path: Path) -> Iterator[Export]:
    with Export.open(tmp_path / "exports" / create_export(store, tmp_path / "exports")) as export:
        yield export


def rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


def test_the_manifest_tells_what_is_inside(export: Export, tmp_path: Path) -> None:
    facts = {name: value for name, value in export.manifest.items() if name not in ("files", "created_at")}
    assert facts == {
        "kind": "export",
        "schema_version": 5,
        "counts": {"items": 3, "behaviors": 6, "texts": 5, "social": 4, "impressions": 0, "consents": 0},
        "logs": {},
        "held_out": {"valid": 1, "test": 1},
    }
    assert datetime.fromisoformat(export.manifest["created_at"]).utcoffset() is not None
    assert export.export_id == artifact.artifacts(tmp_path / "exports")[0]
    files = {f"{table.name}.parquet" for table in TABLES}
    assert set(export.manifest["files"]) == {*files, "erasures.json"}


def test_the_files_carry_every_row_in_order_and_compressed(export: Export) -> None:
    behaviors = pq.read_table(export.path / "behaviors.parquet")
    assert behaviors.column_names == ["user_id", "item_id", "action", "weight", "ts", "split"]
    assert behaviors.column("user_id").to_pylist() == ["ann"] * 4 + ["zed", "李"]
    assert behaviors.column("split").to_pylist() == ["valid", "train", None, "train", "test", None]
    texts = pq.read_table(export.path / "texts.parquet")
    assert texts.column_names == ["user_id", "item_id", "text", "ts", "vector", "text_model_id"]
    chunk = pq.ParquetFile(export.path / "texts.parquet").metadata.row_group(0).column(0)
    assert chunk.compression == "ZSTD"


def test_items(export: Export) -> None:
    items = export.items()
    names = ["item_id", "title", "text", "kind", "attributes", "available", "updated_at", "vector"]
    assert items.column_names == names
    assert items.column("item_id").to_pylist() == ["i1", "i2", "书"]
    assert items.column("attributes").to_pylist() == ["{}", "{}", '{"lang": "zh"}']
    assert export.items(available_only=True).column("item_id").to_pylist() == ["i1", "书"]


def test_history_is_visible_and_held_out_is_asked_for(export: Export) -> None:
    assert rows(export.history()) == [
        ("ann", "书", "click", 1.0, None),
        ("ann", "i1", "click", 2.0, MAY),
        ("ann", "i2", "click", 1.0, datetime(2024, 6, 1)),
        ("李", "i1", "click", 1.0, None),
    ]
    assert rows(export.held_out("valid")) == [("ann", "i9", "click", 3.0, None)]
    assert rows(export.held_out("test")) == [("zed", "i1", "buy", 1.0, None)]


def test_texts_friends_and_users(export: Export) -> None:
    assert rows(export.texts()) == [
        ("ann", "i1", "early", None),
        ("ann", "i1", "early", None),
        ("ann", None, "late", datetime(2024, 6, 1)),
        ("李", None, "你好", None),
    ]
    assert rows(export.friends()) == [("ann", "bob", 1.0), ("ann", "李", 3.5)]
    assert export.users().to_pylist() == ["ann", "bob", "zed", "李"]
    assert export.users().type == pa.string()


def test_imported_vectors_are_the_visible_ones(export: Export, store: Store) -> None:
    for source in (export, store):
        ((texts, vectors),) = source.imported_vectors("m")
        assert texts == ["early", "late"]
        np.testing.assert_allclose(vectors, [[0.6, 0.8], [0.2**0.5, 0.8**0.5]], rtol=1e-7)  # of length 1


def test_the_export_shows_what_the_store_shows(export: Export, store: Store) -> None:
    for user in export.users().to_pylist():
        views = store.user_views(user)
        history = [row[1:] for row in rows(export.history()) if row[0] == user]
        assert history == [(e.item_id, e.action, e.weight, e.ts) for e in views.history]
        assert [row[2] for row in rows(export.texts()) if row[0] == user] == list(views.texts)
        friends = [row[1:] for row in rows(export.friends()) if row[0] == user]
        assert friends == [(f.friend_id, f.weight) for f in views.friends]


def test_batches_are_bounded_and_add_up(tmp_path: Path) -> None:
    with Store.open(tmp_path / "views.duckdb") as store:
        with store.writing() as cursor:
            cursor.execute("""
                INSERT INTO data.behaviors (user_id, item_id) SELECT 'u' || (range % 97), 'i' || range
                FROM range(50000)""")
            cursor.execute("""
                INSERT INTO data.texts (user_id, text) SELECT 'u' || (range % 97), 't' || range
                FROM range(5000)""")
        create_export(store, tmp_path / "exports")
    with Export.latest(tmp_path / "exports") as export:
        batches = list(export.history_batches(3000))
        assert max(batch.num_rows for batch in batches) <= 3000
        assert pa.Table.from_batches(batches).equals(export.history())
        texts = list(export.texts_batches(700))
        assert max(batch.num_rows for batch in texts) <= 700
        assert pa.Table.from_batches(texts).equals(export.texts())


def test_the_latest_export_is_the_newest(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NoExportError, match="holds no export yet"):
        Export.latest(tmp_path / "exports")
    ids = [create_export(store, tmp_path / "exports") for _ in range(5)]
    with Export.latest(tmp_path / "exports") as export:
        assert export.export_id == ids[-1]


def test_an_export_does_not_change_with_the_store(export: Export, store: Store) -> None:
    with store.writing() as cursor:
        cursor.execute("DELETE FROM data.behaviors")
    assert export.history().num_rows == 4


def test_a_damaged_export_is_refused(export: Export) -> None:
    path = export.path / "behaviors.parquet"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DamagedArtifactError, match=r"behaviors\.parquet"):
        Export.open(export.path)
    Export.open(export.path, verify=False).close()


def test_another_artifact_is_no_export(tmp_path: Path) -> None:
    with artifact.build(tmp_path, "m1") as draft:
        draft.facts["kind"] = "model"
    with pytest.raises(NotAnExportError, match="kind 'model'"):
        Export.open(tmp_path / "m1")


IDS = st.text(min_size=1, max_size=8).filter(lambda text: "\x00" not in text) | st.sampled_from(
    ["甲", "乙", "a"]
)
TEXTS = IDS.filter(lambda text: bool(text.strip(" \t\r\n")))
TIMES = st.sampled_from([None, MAY, JUNE])
WEIGHTS = st.floats(0, 1e12)
VECTORS = st.tuples(WEIGHTS, WEIGHTS)
STATES = st.fixed_dictionaries(
    {
        "items": st.lists(
            st.tuples(IDS, st.none() | TEXTS, st.booleans(), TIMES, st.none() | VECTORS), max_size=5
        ),
        "behaviors": st.lists(
            st.tuples(
                IDS, st.integers(0, 4), WEIGHTS, TIMES, st.sampled_from([None, "train", "valid", "test"])
            ),
            max_size=8,
        ),
        "texts": st.lists(st.tuples(IDS, TEXTS, TIMES, st.none() | st.tuples(WEIGHTS, WEIGHTS)), max_size=8),
        "social": st.lists(
            st.tuples(IDS, IDS, st.sampled_from(["friend", "同事"]), WEIGHTS, TIMES), max_size=6
        ),
        "impressions": st.lists(
            st.tuples(
                *(IDS, st.integers(0, 4), TIMES, st.sampled_from([None, 0, 7, 2**31 - 1])),
                *(st.sampled_from([None, "q1", "q2"]), st.booleans()),
            ),
            max_size=8,
        ),
    }
)


def write(folder: Path, state: dict[str, list[tuple[Any, ...]]]) -> None:
    folder.mkdir()
    items = [row[0] for row in state["items"]]
    behaviors, impressions = (
        [(user, items[at % len(items)], *rest) for user, at, *rest in state[name] if items]
        for name in ("behaviors", "impressions")
    )
    times = pa.timestamp("us")
    layout: dict[str, tuple[list[tuple[Any, ...]], list[tuple[str, pa.DataType]]]] = {
        "items": (
            state["items"],
            [
                ("item_id", pa.string()),
                ("title", pa.string()),
                ("available", pa.bool_()),
                ("updated_at", times),
                ("vector", pa.list_(pa.float32())),
            ],
        ),
        "behaviors": (
            behaviors,
            [
                *(("user_id", pa.string()), ("item_id", pa.string()), ("weight", pa.float64())),
                *(("ts", times), ("split", pa.string())),
            ],
        ),
        "texts": (
            state["texts"],
            [
                ("user_id", pa.string()),
                ("text", pa.string()),
                ("ts", times),
                ("vector", pa.list_(pa.float32())),
            ],
        ),
        "social": (
            state["social"],
            [
                *(("user_id", pa.string()), ("friend_id", pa.string()), ("relation", pa.string())),
                *(("weight", pa.float64()), ("ts", times)),
            ],
        ),
        "impressions": (
            impressions,
            [
                *(("user_id", pa.string()), ("item_id", pa.string()), ("ts", times)),
                *(("position", pa.int64()), ("query_id", pa.string()), ("clicked", pa.bool_())),
            ],
        ),
    }
    for name, (records, fields) in layout.items():
        columns = {f: pa.array([r[at] for r in records], kind) for at, (f, kind) in enumerate(fields)}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def contents(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    with store.snapshot() as cursor:
        return {t.name: cursor.execute(f"FROM data.{t.name} ORDER BY {t.order}").fetchall() for t in TABLES}


@settings(max_examples=12, deadline=None)
@given(state=STATES)
def test_import_of_an_export_is_the_same_store_and_twice_is_once(
    state: dict[str, list[tuple[Any, ...]]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write(root / "in", state)
        with Store.open(root / "a.duckdb") as first, Store.open(root / "b.duckdb") as second:
            import_folder(first, root / "in", rejects=root / "rejects")
            once = contents(first)
            import_folder(first, root / "in", rejects=root / "rejects")
            assert contents(first) == once
            export_id = create_export(first, root / "exports")
            for _ in range(2):
                import_folder(second, root / "exports" / export_id, rejects=root / "rejects", strict=True)
                assert contents(second) == once


KILLED = """
import pathlib, sys
from store.store import Store
from store.export import create_export
root = pathlib.Path(sys.argv[1])
with Store.open(root / "views.duckdb") as store:
    print("go", flush=True)
    while True:
        create_export(store, root / "exports")
"""


@pytest.mark.parametrize("delay", [0.01, 0.15, 0.4])
def test_a_killed_export_is_whole_or_absent(store: Store, tmp_path: Path, delay: float) -> None:
    with store.writing() as cursor:
        cursor.execute("INSERT INTO data.behaviors (user_id, item_id) SELECT range, range FROM range(100000)")
    store.close()
    exports = tmp_path / "exports"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
    for export_id in artifact.artifacts(exports):
        with Export.open(exports / export_id) as export:
            assert export.history().num_rows == 100_004
    with Store.open(tmp_path / "views.duckdb") as again:
        export_id = create_export(again, exports)
    assert [path.name for path in exports.iterdir() if path.name.startswith(".")] == []
    with Export.latest(exports) as export:
        assert export.export_id == export_id
