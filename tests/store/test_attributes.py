"""Bad attributes: refused by imports and writes; items of an old store that have them are left out."""

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.files import ItemChange, read_delta, write_delta
from indexer.index import Index
from scripts.doctor.store import attributes_check, served_items_check
from scripts.training import attributes_and_kinds
from store.artifact import artifacts
from store.attributes import (
    MAX_CHARS,
    MAX_LEVELS,
    MAX_NAME_BYTES,
    MAX_VALUES,
    BadAttributesError,
    left_out_message,
    parse_attributes,
)
from store.export import Export
from store.home import Home
from store.imports.run import import_folder
from store.imports.validation import PLAIN_CHECKS
from store.store import Store
from tests.live_server import copy_home, server
from triptych_client import Client, Item
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc
from triptych_client.pb.v1 import triptych_pb2 as pb


def nested(levels: int) -> str:
    return '{"a":' + "[" * (levels - 1) + "1" + "]" * (levels - 1) + "}"


BAD = {
    "400 digits": '{"x": 1%s}' % ("0" * 400),
    "5,000 digits": '{"x": 1%s}' % ("0" * 5_000),
    "beyond a double": '{"x": -1e400}',
    "too deep": nested(MAX_LEVELS + 1),
    "900 deep": nested(900),
    "3,000 deep": nested(3_000),
    "100,000 deep": nested(100_000),
    "half a pair": '{"x": "\\ud800"}',
    "half a pair in a name": '{"\\udc00": "x"}',
    "nul": '{"flag": "\\u0000true"}',
    "nul in a name": '{"a\\u0000b": "c"}',
    "a name twice": '{"a": 1, "a": 2}',
    "a name twice, inside": '{"a": [{"b": 1, "b": 1}]}',
    "long name": json.dumps({"n" * 600: {"m" * 400: 1}}),
    "too many values": json.dumps({"n": [0] * (MAX_VALUES + 1)}),
    "other nan": '{"x": nan}',
    "no object": "[1]",
    "no JSON": "{'a': 1}",
    "blank": "   ",
}
GOOD = {
    "largest": '{"x": 1%s}' % ("0" * 308),
    "2^53 + 1": '{"x": 9007199254740993}',
    "30 digits": '{"x": 123456789012345678901234567890}',
    "deep enough": nested(MAX_LEVELS),
    "whole pair": '{"x": "\\ud83d\\ude00"}',
    "missing number": '{"x": NaN, "y": -Infinity, "z": null}',
    "mixed": '{"m": [1, "1", true, null, {"z": 3}, [4]], "": "x", "a.b": {"c": -0.0}}',
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_no_filter_could_be_right_about_is_refused(text: str) -> None:
    with pytest.raises(BadAttributesError):
        parse_attributes(text)


def test_what_is_usable_is_read_exactly() -> None:
    assert parse_attributes(GOOD["2^53 + 1"]) == {"x": 2**53 + 1}
    assert parse_attributes(GOOD["largest"]) == {"x": 10**308}
    assert parse_attributes(GOOD["missing number"]) == {"x": None, "y": None, "z": None}
    assert parse_attributes(json.dumps({"n" * 599: {"m" * (MAX_NAME_BYTES - 600): 1}}))
    assert parse_attributes(json.dumps({"n": [0] * (MAX_VALUES - 1)}))
    for text in GOOD.values():
        parse_attributes(text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON_VALUES))
def test_any_object_of_python_is_read_as_it_was_or_refused(value: dict[str, object]) -> None:
    try:
        found = parse_attributes(json.dumps(value))
    except BadAttributesError:
        assert "\\u" in json.dumps(value) or str(value) > "9" * 308  # nul, half a pair
        return
    assert parse_attributes(json.dumps(found)) == found


@pytest.fixture(scope="module")
def json_of_duckdb() -> Iterator[duckdb.DuckDBPyConnection]:
    with closing(duckdb.connect()) as connection:
        yield connection


PAIRS = st.lists(st.tuples(st.sampled_from(["a", "b", "", "{", "\n", '"']), JSON_VALUES), max_size=4)


@given(
    PAIRS, st.sampled_from(["1", "1" + "0" * 400, "1e99", "1E400", "nan", "[[{}]]", '"\\ud800"', nested(70)])
)
def test_what_an_import_does_not_look_at_twice_can_be_used(
    json_of_duckdb: duckdb.DuckDBPyConnection, pairs: list[tuple[str, object]], last: str
) -> None:
    members = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs]
    text = f"{{{','.join([*members, f'{chr(34)}c{chr(34)}:{last}'])}}}"
    usable = PLAIN_CHECKS.format("json($1)::VARCHAR")
    sql = f"SELECT CASE WHEN json_valid($1) THEN {usable} END, json($1)::VARCHAR"
    try:
        plain, stored = json_of_duckdb.execute(sql, [text]).fetchall()[0]
    except duckdb.InvalidInputException:  # no JSON to DuckDB either
        return
    if plain:
        parse_attributes(stored)


def test_reasons_name_the_first_ten_items_and_no_value() -> None:
    message = left_out_message({f"i{n}": "a text holds nul" for n in range(1_000)})
    assert "'i0' (a text holds nul)" in message
    assert "'i9'" in message
    assert "'i10'" not in message
    assert "990 more" in message
    for text in BAD.values():
        with pytest.raises(BadAttributesError) as caught:
            parse_attributes(text)
        assert len(str(caught.value)) < 200


def write_csv(folder: Path, rows: dict[str, str]) -> None:
    lines = [f'"{name}","{text.replace(chr(34), chr(34) * 2)}"' for name, text in rows.items()]
    (folder / "items.csv").write_text("\n".join(["item_id,attributes", *lines]) + "\n", "utf-8")


def write_jsonl(folder: Path, rows: dict[str, str]) -> None:
    lines = [json.dumps({"item_id": name, "attributes": text}) for name, text in rows.items()]
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def write_parquet(folder: Path, rows: dict[str, str]) -> None:
    pq.write_table(
        pa.table({"item_id": list(rows), "attributes": list(rows.values())}), folder / "items.parquet"
    )


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
def test_an_import_refuses_them_whatever_the_format(write: object, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in", BAD | GOOD)  # type: ignore[operator]
    with Store.open(tmp_path / "views.duckdb") as store:
        report = import_folder(store, tmp_path / "in", rejects=tmp_path / "rejects").tables["items"]
        assert (report.rejected, report.inserted) == ({"bad_attributes": len(BAD)}, len(GOOD))
        assert store.item("2^53 + 1").attributes == {"x": 2**53 + 1}
        assert store.bad_attributes() == {}


def test_an_import_refuses_what_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    just = json.dumps({"x": "n" * (MAX_CHARS - len('{"x":""}'))}, separators=(",", ":"))
    write_parquet(tmp_path / "in", {"just": just, "over": just.replace("n", "nn", 1)})
    with Store.open(tmp_path / "views.duckdb") as store:
        report = import_folder(store, tmp_path / "in", rejects=tmp_path / "rejects").tables["items"]
        assert (report.rejected, report.inserted) == ({"bad_attributes": 1}, 1)


def test_nested_json_lines_are_refused_like_text(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    lines = [
        f'{{"item_id": "bad", "attributes": {BAD["400 digits"]}}}',
        '{"item_id": "i", "attributes": {"a": 1}}',
    ]
    (tmp_path / "in" / "items.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    with Store.open(tmp_path / "views.duckdb") as store:
        report = import_folder(store, tmp_path / "in", rejects=tmp_path / "rejects").tables["items"]
        assert (report.rejected, report.inserted) == ({"bad_attributes": 1}, 1)


IN_THE_STORE = {name: BAD[name] for name in ("400 digits", "3,000 deep", "nul", "a name twice")}


def from_before(home: Home) -> None:
    """Write into a store what earlier versions let in."""
    with Store.open(home.database) as store, store.writing() as cursor:
        for name, text in IN_THE_STORE.items():
            cursor.execute(
                "INSERT INTO data.items BY NAME SELECT $1 AS item_id, 'stars' AS text, 'film' AS kind, "
                "$2::JSON AS attributes, true AS available",
                [name, text],
            )


def found_once_encoded(client: Client, wanted: set[str]) -> list[str]:
    """Return what a search finds as soon as that is all of some items, or half a minute later."""
    deadline = time.monotonic() + 30
    while True:
        found = list(client.query(text="stars", k=1000).item_ids)
        if wanted <= set(found) or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


@contextmanager
def client_of(home: Home, *options: str) -> Iterator[tuple[Client, Path]]:
    with server(home, *options) as live, Client(live.address) as client:
        yield client, live.log


def test_a_home_that_holds_some_serves_and_is_reindexed_without_them(
    small_home: Home, tmp_path: Path, run: object
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    from_before(home)
    check = attributes_check(home)
    assert check.state == "warning"
    assert all(repr(name) in check.found for name in IN_THE_STORE)
    with client_of(home) as (client, log):
        status = client.status()
        assert status.items_left_out == len(IN_THE_STORE)
        assert served_items_check(status).state == "warning"
        found = client.query(text="stars", k=1000).item_ids
        assert len(found) == status.indexed_items
        assert not set(IN_THE_STORE) & set(found)
        message = log.read_text()
        assert "Traceback" not in message
        assert all(repr(name) in message for name in IN_THE_STORE)
        assert client.query(item_id="nul", k=3).item_ids  # its words can be used
        client.put_items(
            [Item("nul", None, "stars", "film", {"flag": "true"}, available=True, updated_at=None)]
        )
        client.delete_items(["400 digits"])
        assert client.status().items_left_out == len(IN_THE_STORE) - 2
    for options in (["--full"], []):
        code, _, error = run("reindex", "--home", home.path, *options)  # type: ignore[operator]
        assert (code, "Traceback" in error) == (0, False)
        index = Index.load(home.indexes / artifacts(home.indexes)[-1])
        assert index.manifest["items_left_out"] == 2
        assert index.rows(["3,000 deep", "a name twice", "nul"]).tolist()[:2] == [-1, -1]
        assert index.rows(["nul"])[0] >= 0
    with Export.latest(home.exports) as export:
        attributes, _ = attributes_and_kinds(export)
    assert attributes.count(None) == 2


def test_ingest_refuses_them_and_writes_the_rest_of_the_request(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home) as live, Client(live.address) as client:
        known = client.query(text="stars", k=1).item_ids[0]
        rows = [ingest.ItemRow(item_id=known, text="stars")]
        rows += [
            ingest.ItemRow(item_id=name, text="stars", attributes=text) for name, text in (BAD | GOOD).items()
        ]
        rows += [ingest.ItemRow(item_id="i\0d", title="t\0i", text="stars\0night", kind="k\0d")]
        reply = ingest_rpc.IngestStub(live.channel).PutItems(ingest.PutItemsRequest(items=rows))
        assert {one.position: one.reason for one in reply.rejected} == {
            1 + i: "bad_attributes" for i in range(len(BAD))
        }
        assert reply.inserted == len(GOOD) + 1
        wanted = pb.Filter(allow=pb.ItemIds(item_ids=[*GOOD, "i\0d", known]))
        found = found_once_encoded(client, {*GOOD, "i\0d"})
        assert found.count(known) == 1
        assert set(client.query(text="stars", k=100, filter=wanted).item_ids) == {*GOOD, "i\0d", known}
        client.delete_items([known])
        assert known not in client.query(text="stars", k=1000).item_ids
        live.process.terminate()
        assert live.process.wait(timeout=60) == 0
        assert "Traceback" not in live.log.read_text()
    with client_of(home) as (client, _):
        assert set(GOOD) <= set(client.query(text="stars", k=1000).item_ids)


def test_an_index_that_holds_some_is_opened_without_them(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    source = home.indexes / home.current_index.read_text().strip()
    index = Index.load(source)
    vector = index.main.vectors[0]
    changes = [
        ItemChange(name, vector, 1.0, bytes(16), bytes(16), "film", text)
        for name, text in {"bad": BAD["nul"], "good": GOOD["mixed"]}.items()
    ]
    for name in ("delta.arrow", "delta.safetensors"):
        (source / name).unlink()
    write_delta(source, changes, index.dim, index.delta.main_removed())
    assert len(read_delta(source)[0]) == 2
    opened = Index(source, index.manifest | {"changes": 2})
    assert (opened.rows(["bad"])[0], len(opened)) == (-1, len(index) + 1)
    assert opened.rows(["good"])[0] >= 0
