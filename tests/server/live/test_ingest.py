"""Ingest through a real server and the client: read your writes, ids, streams, erasure, export, import."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from encoder.text.cache import TextCache
from scripts.backups import back_up, ledgers_of, restore
from scripts.exchange import import_through
from scripts.home_access import fresh_export
from server.app import running
from server.config import ServerConfig
from server.live.commits import CommitListener
from server.live.writer import GroupCommit, StoppingError
from server.query.retriever import Retriever
from server.wire.ingest import MAX_ROWS, MAX_TEXT_ROWS
from server.wire.ingest_servicer import IngestServicer
from store.artifact import DamagedArtifactError, artifacts
from store.export import Export
from store.home import Home
from store.imports.run import ImportOptions
from store.ledger import Erasure, erased_users, erasures_since, read_ledger, user_hash, write_ledger
from store.privacy.audit import append_audit_line, pseudonym
from store.privacy.erase import erase_user, list_erasures, unfinished_erasures
from store.state.state import UserState
from store.store import Store
from store.writes.request import BehaviorRow, Behaviors, Request
from store.writes.writer import Writer
from tests.live_server import SOON, copy_home, refusal, server, soon
from triptych_client import AsyncClient, Behavior, CallError, Client, Impression, Item, Text, Tie
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc
from triptych_client.pb.v1 import triptych_pb2 as pb

WHEN = datetime(2026, 11, 20, 12, tzinfo=UTC)
USED = {pb.VIEW_HISTORY: "H", pb.VIEW_TEXT: "T", pb.VIEW_SOCIAL: "S"}


@pytest.fixture(scope="module")
def home(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return copy_home(small_home, tmp_path_factory.mktemp("ingest") / "home")


@pytest.fixture(scope="module")
def address(home: Home) -> Iterator[str]:
    with running(ServerConfig(home, port=0)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture(scope="module")
def items(home: Home) -> list[str]:
    with Export.latest(home.exports) as export:
        return list(export.items(available_only=True).column("item_id").to_pylist())


def used(reply: pb.QueryResponse) -> str:
    return "".join(USED[view] for view in reply.views_used)


def test_the_next_query_sees_what_was_acknowledged(client: Client, items: list[str]) -> None:
    assert used(client.query(user_id="new-1")) == ""
    done = client.append_behaviors([Behavior("new-1", item, ts=WHEN) for item in items[:3]])
    assert (done.inserted, done.updated, len(done.rejected)) == (3, 0, 0)
    reply = client.query(user_id="new-1", k=1000)
    assert used(reply) == "H"
    assert not set(items[:3]) & set(reply.item_ids)
    inline = pb.Views(events=[pb.Event(item_id=item) for item in items[:3]])
    assert client.query(views=inline, k=1000).item_ids == reply.item_ids
    client.put_friends([Tie("new-2", "new-1", weight=2.0)])
    before = client.query(user_id="new-2", k=5)
    assert used(before) == "S"
    client.append_behaviors([Behavior("new-1", items[20])])  # reaches the follower
    assert client.query(user_id="new-2", k=5).scores != before.scores


def test_a_text_counts_once_it_is_encoded(client: Client) -> None:
    text = "galaxies and telescopes, seen from a quiet garden"
    client.append_texts([Text("new-3", text, ts=WHEN)])
    soon(lambda: used(client.query(user_id="new-3")) == "T")
    theirs = client.encode_user("new-3").vector.values
    assert list(theirs) == pytest.approx(
        list(client.encode_user(pb.Views(texts=[text])).vector.values), abs=1e-6
    )


def test_rows_are_refused_one_by_one_and_requests_as_a_whole(client: Client, items: list[str]) -> None:
    done = client.append_behaviors(
        [Behavior("a", items[0]), Behavior("", items[0]), Behavior("a", "nothing")]
    )
    assert [(row.position, row.reason) for row in done.rejected] == [
        (1, "empty_user_id"),
        (2, "unknown_item"),
    ]
    bad_time = ingest.BehaviorRow(user_id="a", item_id=items[0])
    bad_time.ts.nanos = -1
    with grpc.insecure_channel(client.address) as channel:
        stub = ingest_rpc.IngestStub(channel)
        reply = stub.AppendBehaviors(ingest.AppendBehaviorsRequest(behaviors=[bad_time]))
        assert reply.rejected[0].reason == "unparsable_time"
    for call, field in (
        (lambda: client.append_behaviors([]), "behaviors"),
        (lambda: client.append_behaviors([Behavior("a", "b")] * (MAX_ROWS + 1)), "behaviors"),
        (lambda: client.append_texts([Text("a", "b")] * (MAX_TEXT_ROWS + 1)), "texts"),
        (lambda: client.put_friends([]), "friends"),
        (lambda: client.put_items([]), "items"),
        (lambda: client.delete_items([]), "item_ids"),
        (lambda: client.append_behaviors([Behavior("a", "b")], request_id="x" * 65), "request_id"),
        (lambda: client.erase_user(""), "user_id"),
        (lambda: client.export_user("x" * 257), "user_id"),
        (lambda: client.import_folder(Path("/nonexistent/folder"), "xml"), "format"),
    ):
        with pytest.raises(CallError) as caught:
            call()  # type: ignore[no-untyped-call]
        assert (caught.value.code, caught.value.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
        )
        assert list(caught.value.fields) == [field]
        assert caught.value.fields[field] == caught.value.message


def test_a_request_id_writes_once(client: Client, items: list[str]) -> None:
    rows = [Behavior("twice", items[0], ts=WHEN), Behavior("", items[0])]
    first = client.append_behaviors(rows, request_id="r-1")
    again = client.append_behaviors(rows, request_id="r-1")
    assert (first.repeated_request, again.repeated_request) == (False, True)
    assert (again.inserted, again.rejected) == (first.inserted, first.rejected)
    with pytest.raises(CallError) as caught:
        client.append_behaviors(rows[:1], request_id="r-1")
    assert (caught.value.code, caught.value.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "REQUEST_ID_REUSED",
    )


def test_items_are_put_and_deleted(client: Client) -> None:
    item = Item(
        "fresh", "A fresh title", "Its text", "product", {"color": "red"}, available=True, updated_at=WHEN
    )
    assert client.put_items([item]).inserted == 1
    assert client.append_behaviors([Behavior("new-4", "fresh")]).inserted == 1
    assert client.query(item_id="fresh").item_ids
    assert client.delete_items(["fresh", "never"]).updated == 1
    assert client.append_behaviors([Behavior("new-5", "fresh")]).inserted == 1


def test_streams_add_up_and_name_the_request(address: str, items: list[str]) -> None:
    def batches() -> Iterator[ingest.AppendBehaviorsRequest]:
        for number in range(20):
            rows = [ingest.BehaviorRow(user_id=f"s{number}", item_id=item) for item in items[:5]]
            yield ingest.AppendBehaviorsRequest(
                behaviors=[*rows, ingest.BehaviorRow(user_id="s", item_id="nothing")],
                request_id=f"s-{number}",
            )

    with grpc.insecure_channel(address) as channel:
        stub = ingest_rpc.IngestStub(channel)
        done = stub.StreamBehaviors(batches())
        assert (done.requests, done.inserted, done.rejected_rows) == (20, 100, 20)
        assert [(r.request, r.position, r.reason) for r in done.rejected] == [
            (i, 5, "unknown_item") for i in range(20)
        ]
        assert stub.StreamBehaviors(batches()).repeated_requests == 20
        row = {"user_id": "streamed"}
        assert (
            stub.StreamTexts(
                iter([ingest.AppendTextsRequest(texts=[ingest.TextRow(text="hello", **row)])])
            ).inserted
            == 1
        )
        assert (
            stub.StreamFriends(
                iter([ingest.PutFriendsRequest(friends=[ingest.FriendRow(friend_id="s1", **row)])])
            ).inserted
            == 1
        )
        assert (
            stub.StreamItems(iter([ingest.PutItemsRequest(items=[ingest.ItemRow(item_id="st")])])).inserted
            == 1
        )
        assert stub.StreamDeletions(iter([ingest.DeleteItemsRequest(item_ids=["st"])])).updated == 1
        refused = refusal(lambda: stub.StreamItems(iter([ingest.PutItemsRequest(request_id="x" * 65)])))
        assert refused.code == grpc.StatusCode.INVALID_ARGUMENT


def test_no_more_streams_than_threads(address: str, client: Client, items: list[str]) -> None:
    go_on = threading.Event()

    def slow(user_id: str) -> Iterator[ingest.AppendBehaviorsRequest]:
        row = ingest.BehaviorRow(user_id=user_id, item_id=items[0])
        yield ingest.AppendBehaviorsRequest(behaviors=[row])
        go_on.wait(SOON)

    with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(8) as pool:
        stub = ingest_rpc.IngestStub(channel)
        held = [pool.submit(stub.StreamBehaviors, slow(f"slow-{n}")) for n in range(8)]
        for n in range(8):  # the first row of a stream is written while it runs
            soon(lambda n=n: bool(client.export_user(f"slow-{n}").get("behaviors")))
        with pytest.raises(grpc.RpcError) as caught:
            stub.StreamBehaviors(slow("slow"))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "8 write streams are running" in caught.value.details()
        go_on.set()
        assert sum(one.result().requests for one in held) == 8


def test_the_async_client_does_the_same(address: str, items: list[str]) -> None:
    async def talk() -> None:
        async with AsyncClient(address) as client:
            assert (
                await client.put_items([Item("as", None, None, None, {}, available=True, updated_at=None)])
            ).inserted == 1
            assert (await client.delete_items(["as"])).updated == 1
            done = await asyncio.gather(
                *(client.append_behaviors([Behavior("async", item)]) for item in items[:5])
            )
            assert sum(one.inserted for one in done) == 5
            assert (await client.put_friends([Tie("async", "new-1")])).inserted == 1
            assert (await client.append_texts([Text("async", "words")])).inserted == 1
            assert "H" in used(await client.query(user_id="async"))
            assert len(await client.query_batch([{"user_id": "async"}, {"text": "words", "k": 3}])) == 2
            assert (await client.encode_user("async")).vector.values
            assert len((await client.export_user("async"))["behaviors"]) == 5
            assert (await client.erase_user("async")).removed["behaviors"] == 5
            assert (await client.status()).serving
            with pytest.raises(CallError, match="INVALID_ARGUMENT"):
                await client.query(user_id="x", k=5000)
            with pytest.raises(CallError, match="/nonexistent/folder is no folder"):
                await client.import_folder(Path("/nonexistent/folder"))

    asyncio.run(talk())


def test_an_erased_person_is_gone_everywhere(client: Client, home: Home, items: list[str]) -> None:
    person, shared, own = "erase-me", "a text of two people", "a text of one person"
    client.append_behaviors([Behavior(person, items[0]), Behavior("friend-of", items[1])])
    client.append_texts([Text(person, shared), Text(person, own), Text("friend-of", shared)])
    client.put_friends([Tie("friend-of", person), Tie(person, "friend-of"), Tie("friend-of", "new-1")])
    client.append_impressions(
        [Impression(person, items[2], ts=WHEN), Impression("friend-of", items[2], WHEN)]
    )
    rejects = home.rejects / "some-import"
    rejects.mkdir(parents=True)
    lines = [
        {"row": 1, "reason": "unknown_item", "line": None, "values": {"user_id": person}},
        {"row": 2, "reason": "malformed_row", "line": f"{person},x,y", "values": {}},
        {"row": 3, "reason": "malformed_row", "line": f"not-{person}2,x,y", "values": {}},
    ]
    (rejects / "behaviors.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    soon(lambda: "T" in used(client.query(user_id=person)))
    exported = fresh_export(home)  # through the server
    exported.close()
    said = client.export_user(person)
    assert {table: len(rows) for table, rows in said.items()} == {
        "behaviors": 1,
        "texts": 2,
        "social": 1,
        "impressions": 1,
        "named_by": 1,
        "rejects": 2,
    }
    assert {row["text"] for row in said["texts"]} == {shared, own}
    encoder = next(one for one in artifacts(home.text_models) if one != "cache")

    done = client.erase_user(person)
    assert dict(done.removed) == {
        **{"behaviors": 1, "texts": 2, "social": 2, "impressions": 1, "consents": 0},
        **{"text_vectors": 1, "rejects": 2},
    }
    assert not done.models
    assert client.export_user(person) == {}
    assert client.query(user_id=person).fallback == pb.FALLBACK_POPULARITY
    assert len((rejects / "behaviors.jsonl").read_text().splitlines()) == 1
    with Export.open(exported.path) as old:  # made before, and hides the person now
        assert not old.mentions(person)
        assert old.mentions("friend-of")
        assert person not in old.users().to_pylist()
    files = (home.erasures, home.audit_log)
    assert not any(person in file.read_text() or own in file.read_text() for file in files)
    (entry,) = [one for one in read_ledger(home.erasures) if one.user_hash == user_hash(one.salt, person)]
    audit = [json.loads(line) for line in home.audit_log.read_text().splitlines()]
    mine = [one for one in audit if one["user"] == entry.user_hash]
    assert [one["action"] for one in mine] == ["export_user", "erase_user", "export_user"]
    assert mine[1]["removed"]["texts"] == 2
    assert mine[1]["peer"].startswith("ipv")
    assert client.erase_user(person).removed["behaviors"] == 0  # nobody is no error
    assert encoder


def test_models_trained_on_a_person_are_named(client: Client, home: Home) -> None:
    (model,) = artifacts(home.models)
    assert client.export_user("u00003")["models"] == [{"model_id": model, "trained_on": True}]
    (index_id,) = artifacts(home.indexes)
    assert client.export_user("u00003")["indexes"] == [{"index_id": index_id}]
    erased = client.erase_user("u00003")
    assert (erased.models, erased.indexes) == ([model], [index_id])
    assert client.erase_user("never seen").indexes == []
    (home.exports / "hidden").mkdir(exist_ok=True)
    export_id = json.loads((home.models / model / "manifest.json").read_text())["export_id"]
    (home.exports / export_id).rename(home.path / "away")
    try:
        assert client.export_user("u00004")["models"] == [{"model_id": model, "trained_on": None}]
        assert client.erase_user("u00005").unknown_models == [model]
    finally:
        (home.path / "away").rename(home.exports / export_id)
        (home.exports / "hidden").rmdir()


def test_import_goes_through_the_server(
    client: Client, address: str, tmp_path: Path, items: list[str]
) -> None:
    pq.write_table(
        pa.table({"user_id": ["imported"] * 2, "item_id": [items[0], "nothing"]}),
        tmp_path / "behaviors.parquet",
    )
    pq.write_table(
        pa.table({"user_id": ["imported"], "text": ["imported words"]}), tmp_path / "texts.parquet"
    )
    report = import_through(address, tmp_path, ImportOptions())
    table = report.tables["behaviors"]
    assert (table.read, table.inserted, table.rejected) == (2, 1, {"unknown_item": 1})
    assert table.rejects_file is not None
    assert table.rejects_file.exists()
    assert "H" in used(client.query(user_id="imported"))
    soon(lambda: "T" in used(client.query(user_id="imported")))
    with pytest.raises(CallError) as caught:
        import_through(address, tmp_path, ImportOptions(strict=True))
    assert (caught.value.reason, "unknown_item" in caught.value.message) == ("IMPORT_REFUSED", True)


def test_the_options_of_an_import_go_through_the_server(
    address: str, client: Client, home: Home, tmp_path: Path
) -> None:
    rows = "user_id,item_id,ts\nlatin,Café,5000000000\nlatin,Noël,6000000000\n"
    (tmp_path / "behaviors.csv").write_bytes(rows.encode("latin-1"))
    (model_id,) = [one for one in artifacts(home.text_models) if one != home.text_cache.name]
    vector = {"user_id": "latin", "text": "t", "vector": [1.0, 2.0], "text_model_id": model_id}
    (tmp_path / "texts.jsonl").write_text(json.dumps(vector))
    with pytest.raises(CallError, match="--times s or --times ms") as caught:
        client.import_folder(tmp_path, encoding="latin-1", create_items=True)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(CallError, match="encoding 'klingon' is unknown"):
        client.import_folder(tmp_path, encoding="klingon")
    with pytest.raises(CallError, match="times 'minutes' is none of"):
        client.import_folder(tmp_path, times="minutes")
    options = ImportOptions(encoding="latin-1", times="ms", create_items=True)
    report = import_through(address, tmp_path, options)
    assert (report.tables["behaviors"].inserted, report.tables["behaviors"].items_made) == (2, 2)
    assert report.tables["texts"].rejected == {"vector_dimension": 1}
    (remark,) = report.tables["texts"].remarks
    assert f"a vector of 2 numbers, and text model {model_id} has" in remark
    report = import_through(address, tmp_path, ImportOptions(times="ms"))
    assert report.tables["behaviors"].rejected == {"not_utf8": 2}
    assert "not UTF-8: byte 0xE9 in row 1 of behaviors.csv" in report.tables["behaviors"].remarks[-1]


def test_only_callers_on_the_machine_import() -> None:
    class Elsewhere:
        def peer(self) -> str:
            return "ipv4:10.0.0.1:5"

        def abort_with_status(self, status: grpc.Status) -> None:
            raise RuntimeError(status.details)

    servicer = IngestServicer(None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="only callers on the server's own machine"):
        servicer.ImportFolder(ingest.ImportFolderRequest(path="/nonexistent"), Elsewhere())  # type: ignore[arg-type]


def test_a_killed_server_comes_back_with_all_it_acknowledged(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home) as live, Client(live.address) as client:
        item = client.query(user_id="nobody").item_ids[0]
        client.append_behaviors([Behavior("kept", item)], request_id="k-1")
        client.append_texts([Text("kept", "words that were not encoded yet")])
        live.process.kill()
        live.process.wait()
        with pytest.raises(CallError, match=r"UNAVAILABLE.*is `triptych serve` running") as caught:
            Client(live.address, timeout=0.5).query(user_id="kept")
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    port = live.address.rpartition(":")[2]
    with Client(live.address) as client, ThreadPoolExecutor(1) as pool:
        early = pool.submit(client.append_behaviors, [Behavior("kept", item)], "k-1")  # before it is there
        home.server_file.unlink()
        with server(home, "--port", port):
            assert used(client.query(user_id="kept")) == "HT"
            assert client.append_behaviors([Behavior("kept", item)], request_id="k-1").repeated_request
            assert early.exception() is None or isinstance(early.exception(), CallError)


def test_an_interrupted_erasure_is_finished_at_the_next_start(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with running(ServerConfig(home, port=0)) as address, Client(address) as client:
        client.append_texts([Text("gone", "only mine")])
        soon(lambda: "T" in used(client.query(user_id="gone")))
    with Store.open(home.database) as store, UserState.open(home.state) as state:
        erase_user(store, state, "gone", [], [])  # and then the process dies
        assert len(unfinished_erasures(store)) == 1
    with running(ServerConfig(home, port=0)):
        pass
    with Store.open(home.database) as store:
        assert unfinished_erasures(store) == []
        (one,) = list_erasures(store)
        assert read_ledger(home.erasures) == (one,)
        assert one.user_hash == pseudonym(store, "gone")
        assert "gone" not in (store.last_commit.users or ())
    assert json.loads(home.audit_log.read_text())["resumed"]
    encoder = next(one for one in artifacts(home.text_models) if one != "cache")
    with closing(TextCache.open(home.text_cache)) as cache:
        assert not cache.get(encoder, ["only mine"], 384)[1][0]


def test_a_restored_backup_does_not_bring_anybody_back(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    export = fresh_export(home)
    backup = back_up(home, export.export_id, tmp_path / "backups", with_index=False)
    assert export.mentions("u00001")
    export.close()
    with running(ServerConfig(home, port=0)) as address, Client(address) as client:
        client.erase_user("u00001")
    later = fresh_export(home)
    later.close()
    back_up(home, later.export_id, tmp_path / "backups", with_index=False)
    restore(backup, Home(tmp_path / "beside"), ledgers_of(backup))
    alone = tmp_path / "alone"
    alone.mkdir()
    backup.rename(alone / backup.name)
    moved = alone / backup.name
    restore(moved, Home(tmp_path / "given"), ledgers_of(moved, home.erasures))
    restore(moved, Home(tmp_path / "without"), ledgers_of(moved))
    for name, known in (("beside", False), ("given", False), ("without", True)):
        place = Home(tmp_path / name)
        with Store.open(place.database) as store:
            assert ("u00001" in store.user_ids()) is known
            assert len(list_erasures(store)) == len(read_ledger(place.erasures)) == (not known)
        with Export.open(place.exports / export.export_id) as copied:
            assert copied.mentions("u00001") is known
    with pytest.raises(FileNotFoundError, match="no ledger"):
        ledgers_of(moved, tmp_path / "nothing.json")


def test_an_audit_line_that_was_cut_off_does_not_swallow_the_next(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    append_audit_line(log, "erase_user", user="h1")
    with log.open("a") as cut:
        cut.write('{"at": "20')
    append_audit_line(log, "export_user", user="h2", peer="p")
    first, cut_off, second = log.read_text().splitlines()
    assert (json.loads(first)["user"], cut_off, json.loads(second)["user"]) == ("h1", '{"at": "20', "h2")
    assert json.loads(second)["action"] == "export_user"


def test_the_ledger_knows_people_by_salted_hash_and_time(tmp_path: Path) -> None:
    early, late = datetime(2026, 1, 1), datetime(2026, 6, 1)
    ledger = (
        Erasure(early, "s1", user_hash("s1", "ann")),
        Erasure(late, "s2", user_hash("s2", "bob"), ("m1",)),
    )
    write_ledger(tmp_path / "erasures.json", ledger)
    assert read_ledger(tmp_path / "erasures.json") == ledger
    assert erased_users(["ann", "bob", "eve"], ledger) == {"ann", "bob"}
    assert erased_users(["ann", "bob", "eve"], erasures_since(datetime(2026, 3, 1), ledger)) == {"bob"}
    assert erased_users(["ann"], erasures_since(datetime(2027, 1, 1), ledger)) == set()
    assert erasures_since(early + timedelta(minutes=59), ledger) == list(ledger)  # clocks may have disagreed
    (tmp_path / "erasures.json").write_text("{}")
    with pytest.raises(DamagedArtifactError, match="no ledger of erasures"):
        read_ledger(tmp_path / "erasures.json")


def test_a_stopping_server_takes_no_more_writes_and_one_failure_is_alone(tmp_path: Path) -> None:
    with Store.open(tmp_path / "views.duckdb") as store, UserState.open(tmp_path / "state") as state:
        with store.writing() as cursor:
            cursor.execute("INSERT INTO data.items (item_id) VALUES ('i1')")
        request = Request(Behaviors([BehaviorRow("ann", "i1")]), "r", "d")
        with CommitListener(store, state, Retriever(store, state)) as listener:
            with GroupCommit(Writer(store, state), listener.committed) as commit:
                began, waiting = threading.Event(), threading.Event()

                def hold() -> bool:
                    began.set()
                    return waiting.wait(SOON)

                with ThreadPoolExecutor(1) as pool:
                    blocked = pool.submit(commit.alone, hold)
                    assert began.wait(SOON)
                    futures = [commit.submit(request), commit.submit(Request(request.content, "r", "other"))]
                    futures.append(commit.submit(Request(Behaviors([BehaviorRow("bob", "i1")]))))
                    waiting.set()
                    assert blocked.result()
                assert futures[0].result(SOON).inserted == futures[2].result(SOON).inserted == 1
                with pytest.raises(ValueError, match="was used before"):
                    futures[1].result(SOON)
                with pytest.raises(ZeroDivisionError):
                    commit.alone(lambda: 1 // 0)
            with pytest.raises(StoppingError, match="stopping"):
                commit.submit(request)


def test_a_time_beyond_all_calendars_is_a_rejected_row(address: str, items: list[str]) -> None:
    far = Timestamp(seconds=2**53 + 1)
    with grpc.insecure_channel(address) as channel:
        stub = ingest_rpc.IngestStub(channel)
        put = stub.PutItems(ingest.PutItemsRequest(items=[ingest.ItemRow(item_id="far", updated_at=far)]))
        row = ingest.BehaviorRow(user_id="far", item_id=items[0], ts=far)
        appended = stub.AppendBehaviors(ingest.AppendBehaviorsRequest(behaviors=[row]))
    for reply in (put, appended):
        assert [one.reason for one in reply.rejected] == ["unparsable_time"]
