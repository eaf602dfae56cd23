"""Vectors that callers bring of items: any list of numbers, all of one length, a part of the content."""

import threading
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from server.live.writer import GroupCommit
from store.export import Export, create_export
from store.imports import ImportRejectedError
from store.state import UserState, bring_up_to_date
from store.store import Store
from store.tables import MAX_VECTOR_LENGTH
from store.writes import Deletion, ItemRow, Items, ItemVectorLengthError, Request, Writer, WriteResult
from tests.import_folder import Folder, rejected

VECTORS = "SELECT item_id, vector FROM data.items ORDER BY item_id"
FIXED = pa.list_(pa.float16(), 2)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path)
    yield folder
    folder.store.close()


@pytest.mark.parametrize(
    "held",
    [
        *(pa.list_(kind) for kind in (pa.float16(), pa.float32(), pa.float64(), pa.int32())),
        *(pa.list_(kind, 2) for kind in (pa.float16(), pa.float32(), pa.float64())),
        pa.large_list(pa.float32()),
    ],
    ids=str,
)
def test_every_list_of_numbers_of_parquet_is_a_vector(folder: Folder, held: pa.DataType) -> None:
    numbers = [[1, -2], None, [0, 4]] if "int" in str(held) else [[1.5, -2.0], None, [0.0, 0.25]]
    if "float16" in str(held) or "halffloat" in str(held):
        numbers = [None if one is None else np.array(one, np.float16) for one in numbers]  # type: ignore[misc]
    folder.parquet("items", item_id=["a", "b", "c"], vector=pa.array(numbers, held))
    folder.load(strict=True)
    wanted = [None if one is None else [float(number) for number in one] for one in numbers]
    assert folder.rows(VECTORS) == list(zip(["a", "b", "c"], wanted, strict=True))
    assert list(folder.store.item("a").vector or ()) == wanted[0]
    assert folder.store.item("b").vector is None


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_a_json_list_is_a_vector_in_text_files(folder: Folder, form: str) -> None:
    if form == "csv":
        folder.csv("items", "item_id,vector", 'a,"[1.5, -2e0]"', "b,")
    elif form == "tsv":
        (folder.path / "items.tsv").write_text("item_id\tvector\na\t[1.5, -2e0]\nb\t\n")
    else:
        folder.jsonl("items", {"item_id": "a", "vector": [1.5, -2]}, {"item_id": "b"})
    folder.load(strict=True)
    assert folder.rows(VECTORS) == [("a", [1.5, -2.0]), ("b", None)]


def test_what_is_no_vector_is_refused_with_a_reason(folder: Folder) -> None:
    folder.jsonl(
        "items",
        {"item_id": "good", "vector": [1, 2]},
        {"item_id": "nan", "vector": [1, "NaN"]},
        {"item_id": "inf", "vector": [1, 1e39]},
        {"item_id": "zero", "vector": [0, 0.0]},
        {"item_id": "tiny", "vector": [0, 1e-60]},  # zero as float32
        {"item_id": "empty", "vector": []},
        {"item_id": "words", "vector": ["one", "two"]},
        {"item_id": "number", "vector": 3},
        {"item_id": "gap", "vector": [1, None]},
        {"item_id": "long", "vector": [1] * (MAX_VECTOR_LENGTH + 1)},
        {"item_id": "three", "vector": [1, 2, 3]},
        {"item_id": "none", "vector": None},
    )
    report = folder.load()
    assert rejected(report, "items") == {
        2: "vector_not_finite",
        3: "vector_not_finite",
        **dict.fromkeys((4, 5), "vector_all_zero"),
        **dict.fromkeys((6, 7, 8, 9), "vector_not_readable"),
        10: "vector_too_long",
        11: "bad_vector_length",
    }
    assert report.tables["items"].remarks == (
        "row 11 of items.jsonl: a vector of 3 numbers, and those of the other items have 2; to change the "
        "length, give all vectors anew in one import",
    )
    assert folder.rows(VECTORS) == [("good", [1.0, 2.0]), ("none", None)]
    folder.jsonl("items", {"item_id": "three", "vector": [1, 2, 3]})
    with pytest.raises(ImportRejectedError, match=r"bad_vector_length: vector = '\[1,2,3\]'"):
        folder.load(strict=True)


def test_the_longest_vector_is_kept(folder: Folder) -> None:
    vector = np.arange(1, MAX_VECTOR_LENGTH + 1, dtype=np.float32)
    folder.parquet("items", item_id=["a"], vector=pa.array([vector]))
    folder.load(strict=True)
    kept = folder.store.item("a").vector
    assert memoryview(kept).nbytes == 4 * len(vector)  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(kept), vector)


def test_an_import_without_the_column_keeps_vectors(folder: Folder) -> None:
    folder.jsonl("items", {"item_id": "a", "vector": [1, 2]})
    folder.load(strict=True)
    folder.jsonl("items", {"item_id": "a", "title": "new"})
    folder.load(strict=True)
    assert folder.rows(VECTORS) == [("a", [1.0, 2.0])]


def test_another_length_takes_the_place_of_all_vectors_or_of_none(folder: Folder) -> None:
    def load(*rows: dict[str, Any]) -> dict[int, str]:
        folder.jsonl("items", *rows)
        return rejected(folder.load(), "items")

    bad = "bad_vector_length"
    assert load({"item_id": "a", "vector": [1, 2]}, {"item_id": "b", "vector": [3, 4]}) == {}
    assert load({"item_id": "a", "vector": [1, 2, 3]}) == {1: bad}  # b would keep its own
    # Were one of these taken, the other would stay as it is.
    assert load({"item_id": "a", "vector": [1, 2, 3]}, {"item_id": "b", "vector": [1]}) == {1: bad, 2: bad}
    assert load({"item_id": "a", "vector": [1, 2, 3]}, {"item_id": "b", "vector": [1, 2, 3]}) == {}
    assert folder.rows("SELECT DISTINCT len(vector) FROM data.items") == [(3,)]
    assert load({"item_id": "a", "vector": None}, {"item_id": "b", "vector": [7]}) == {}
    assert load({"item_id": "b", "vector": None}) == {}
    assert load({"item_id": "a", "vector": [1, 2]}) == {}  # without any vector the length is free


def test_the_content_hash_changes_with_the_vector_and_only_with_it(folder: Folder) -> None:
    def hashes() -> list[dict[str, Any]]:
        return folder.store.item_hashes().to_pylist()

    folder.jsonl("items", {"item_id": "a", "title": "t"})
    folder.load()
    (without,) = hashes()
    with folder.store.snapshot() as cursor:  # as it was before items had vectors, so no index is made anew
        ((old,),) = cursor.execute(
            "SELECT unhex(md5(to_json([title, text])::VARCHAR)) FROM data.items"
        ).fetchall()
    assert (without["content"], without["vectored"]) == (old, False)
    seen = {without["content"]}
    for vector in ([1, 2], [2, 1], [1, 2, 3], [1]):
        folder.jsonl("items", {"item_id": "a", "title": "t", "vector": vector})
        folder.load(strict=True)
        (now,) = hashes()
        assert now["content"] not in seen
        assert now | {"content": 0, "vectored": 0} == without | {"content": 0, "vectored": 0}
        assert now["vectored"]
        seen.add(now["content"])


def test_an_export_has_the_vectors_in_batches_of_bounded_size(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"i{number:02}" for number in range(20)]
    folder.parquet("items", item_id=ids, vector=pa.array([[float(n + 1)] * 10 for n in range(20)]))
    folder.load(strict=True)
    monkeypatch.setattr("store.export._VECTOR_NUMBERS", 65)
    with Export.open(
        folder.root / "exports" / create_export(folder.store, folder.root / "exports")
    ) as export:
        batches = list(export.item_batches())
        assert [len(batch) for batch in batches] == [6, 6, 6, 2]
        assert pa.Table.from_batches(batches).equals(export.items())
        assert export.items().schema.field("vector").type == pa.list_(pa.float32())
        assert export.items(columns=["title", "item_id"]).equals(export.items().select(["title", "item_id"]))
        some = export.some_items(["i03"]).to_pylist()
        assert some[0]["vector"] == [4.0] * 10
        assert export.item_hashes().equals(folder.store.item_hashes())


class Place:
    """A store with its state and a writer."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(folder / "views.duckdb")
        self.state = UserState.open(folder / "state")
        bring_up_to_date(self.store, self.state)
        self.writer = Writer(self.store, self.state)

    def vectors(self) -> dict[str, list[float] | None]:
        with self.store.snapshot() as cursor:
            return dict(cursor.execute(VECTORS).fetchall())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.state.close()
    place.store.close()


def row(item_id: str, *numbers: float, **others: Any) -> ItemRow:
    return ItemRow(item_id, vector=np.array(numbers, np.float32) if numbers else None, **others)


def put(place: Place, *rows: ItemRow) -> WriteResult:
    (result,), _ = place.writer.write([Request(Items(rows))])
    return result


def test_put_items_sets_and_empties_vectors(place: Place) -> None:
    (result,), change = place.writer.write([Request(Items([row("a", 1, 2), row("b")]))])
    assert (result.inserted, place.vectors()) == (2, {"a": [1.0, 2.0], "b": None})
    assert [item.vector for item in change.items[0][0]] == [array("f", [1, 2]), None]
    assert put(place, row("a", 1, 2), row("b")).unchanged == 2
    assert put(place, row("a", 2, 1), row("b")).updated == 1
    assert put(place, row("a")).updated == 1
    assert place.vectors() == {"a": None, "b": None}
    # Several times in one transaction: the second sees the first.
    puts = [Request(Items([row("a", *numbers)])) for numbers in ((5, 5), (6, 6), (), (7, 7))]
    results, _ = place.writer.write(puts)
    assert [one.updated for one in results] == [1, 1, 1, 1]
    assert place.vectors()["a"] == [7.0, 7.0]
    place.writer.write([Request(Deletion(["a"]))])
    assert place.vectors() == {"a": None, "b": None}


def test_put_items_refuses_another_length_whole_and_names_both(place: Place) -> None:
    put(place, row("a", 1, 2))
    with pytest.raises(ItemVectorLengthError) as caught:
        put(place, row("c"), row("b", 1, 2, 3))
    assert str(caught.value) == (
        "items[1], 'b', has a vector of 3 numbers, and the vectors of the other items have 2"
    )
    assert caught.value.field == "items[1].vector"
    assert place.vectors() == {"a": [1.0, 2.0]}
    with pytest.raises(
        ItemVectorLengthError, match="of 1 numbers, and the vectors of the other items have 2"
    ):
        place.writer.write([Request(Items([row("d", 3, 4)])), Request(Items([row("e", 1)]))])
    assert place.vectors() == {"a": [1.0, 2.0]}
    assert put(place, row("a", 1, 2, 3)).updated == 1  # the only one: it may have another length
    place.writer.write([Request(Deletion(["a"]))])
    assert put(place, row("b", 1)).inserted == 1


def test_of_two_requests_that_meet_one_sets_the_length(place: Place) -> None:
    for attempt in range(12):
        with GroupCommit(place.writer, lambda change: None) as commit, ThreadPoolExecutor(2) as threads:
            ready = threading.Barrier(2)

            def send(length: int, ready: threading.Barrier, commit: GroupCommit) -> Exception | None:
                request = Request(Items([row(f"item-{length}", *[1.0] * length)]))
                ready.wait()
                error = commit.submit(request).exception()
                assert isinstance(error, ItemVectorLengthError | None)
                return error

            sent = {length: threads.submit(send, length, ready, commit) for length in (2, 3)}
            errors = {length: one.result() for length, one in sent.items()}
            state = commit.state()
        (loser,) = [length for length, error in errors.items() if error is not None]
        winner = 5 - loser
        assert place.vectors() == {f"item-{winner}": [1.0] * winner}, attempt
        assert (state.failing, state.failures) == (False, 0)  # the request was at fault
        with place.store.writing(set()) as cursor:
            cursor.execute("DELETE FROM data.items")


def test_items_of_an_export_come_in_the_order_of_their_ids_from_many_row_groups(folder: Folder) -> None:
    count = 300_000  # three row groups of DuckDB, read by as many threads as there are
    with folder.store.writing() as cursor:
        cursor.execute(f"""
            INSERT INTO data.items (item_id, available, vector)
            SELECT lpad(((range * 7919) % {count})::VARCHAR, 7, '0'), range % 3 > 0, [range + 1]
            FROM range({count})""")
    with Export.open(folder.root / create_export(folder.store, folder.root)) as export:
        ids = pa.chunked_array([batch.column("item_id") for batch in export.item_batches(10_000)])
        assert ids.equals(export.items(available_only=True).column("item_id"))
        assert ids.to_pylist() == sorted(ids.to_pylist())
        assert len(ids) == count * 2 / 3
        assert export.item_hashes().column("item_id").equals(ids)
