"""Known personal strings go in by every call and by imports, and come out nowhere but in the store."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import text_format

from store.home import Home
from store.store import Store
from tests.live_server import SOON, copy_home, server
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

# Who they are and what they write; the store holds it.
PERSON, FRIEND, OTHER = "anna.sweep@example.org", "felix-sweep-4711", "otto.sweep"
SAID, ASKED, SENT = (
    "the zanzibar parakeets of sweepstreet 12",
    "quizzical sweepberries",
    "sweepfully sent along",
)
# Masked: nowhere at all.
MASKED = {"email": "secret.sweep@example.net", "phone": "13812345678", "identity": "11010519491231002X"}
TEXT = f"{SAID}, mail {MASKED['email']} 电话{MASKED['phone']}，身份证{MASKED['identity']}"
STORED = (PERSON, FRIEND, OTHER, SAID)
NEVER_STORED = (ASKED, SENT, *MASKED.values())
# The store, with what indexes and exports of it hold; rejects are rows of imports that were refused.
STORE = r"views\.duckdb(\.wal)?|state/.*|exports/.*\.parquet|indexes/.*/users/.*|rejects/.*"


@dataclass
class Sweep:
    """A server, and all that came out of it: messages and details of errors, and what commands printed."""

    home: Home
    channel: grpc.Channel
    log: Path
    items: list[str] = field(default_factory=list)
    called: set[str] = field(default_factory=set)
    said: list[str] = field(default_factory=list)

    def call(self, name: str, *requests: Any, streams: bool = False) -> list[Any]:
        """Make calls of a method, and keep what their errors say."""
        stub = rpc.RetrievalStub(self.channel)
        for one in (ingest_rpc.IngestStub(self.channel), rpc.AdminStub(self.channel)):
            stub = one if hasattr(one, name) else stub
        self.called.add(name)
        replies: list[Any] = []
        for request in requests:
            try:
                reply = getattr(stub, name)(iter([request]) if streams else request, timeout=SOON)
                replies += list(reply) if hasattr(reply, "__next__") else [reply]
            except grpc.RpcError as error:
                if not isinstance(error, grpc.Call) or error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    raise
                self.said += [error.details() or "", repr(error.trailing_metadata()), str(error)]
        return replies

    def run(self, *words: object) -> None:
        """Run a command, and keep what it prints."""
        command = [sys.executable, "-m", "scripts.cli", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False)
        self.said += [done.stdout, done.stderr]
        assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def sweep(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    folder = tmp_path_factory.mktemp("sweep")
    home = copy_home(small_home, folder / "home")
    scratch = folder / "tmp"
    scratch.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scratch))
        with server(home, "--mask", "all", "--log-level", "debug") as live:
            swept = Sweep(home, live.channel, live.log)
            swept.items = list(live.query(user_id="nobody", k=9).item_ids)
            writes(swept)
            asks(swept)
            streams(swept)
            imports(swept, folder)
            with crash(live.process):
                pass
        yield swept


def writes(sweep: Sweep) -> None:
    item, long = sweep.items[0], PERSON * 50
    rows = [(PERSON, item, 1.0), (PERSON, "no such item", 1.0), (PERSON, item, -1.0), (long, item, 1.0)]
    behaviors = [ingest.BehaviorRow(user_id=u, item_id=i, weight=w) for u, i, w in rows]
    texts = [ingest.TextRow(user_id=PERSON, text=TEXT), ingest.TextRow(user_id=long, text=TEXT)]
    friends = [ingest.FriendRow(user_id=PERSON, friend_id=one) for one in (FRIEND, PERSON, long)]
    shown = [ingest.ImpressionRow(user_id=PERSON, item_id=item, query_id="q", position=2**32 - 1)]
    sweep.call(
        "AppendBehaviors",
        ingest.AppendBehaviorsRequest(behaviors=behaviors, request_id="once"),
        ingest.AppendBehaviorsRequest(behaviors=behaviors[:1], request_id="once"),  # another request, same id
    )
    (written, _) = sweep.call(
        "AppendTexts", ingest.AppendTextsRequest(texts=texts), ingest.AppendTextsRequest(texts=texts)
    )
    assert dict(written.masked) == dict.fromkeys(MASKED, 2)
    sweep.call("PutFriends", ingest.PutFriendsRequest(friends=friends))
    sweep.call("AppendImpressions", ingest.AppendImpressionsRequest(impressions=shown))
    consents = [ingest.ConsentRow(user_id=PERSON, view=view, use=True) for view in ("H", PERSON)]
    sweep.call("SetConsent", ingest.SetConsentRequest(consents=consents))
    sweep.call("PutItems", ingest.PutItemsRequest(items=[ingest.ItemRow(item_id="i", attributes="{")]))
    sweep.call("DeleteItems", ingest.DeleteItemsRequest(item_ids=[PERSON]))
    said = ingest.LogEvent(append_texts=ingest.AppendTextsRequest(texts=texts))
    through = ingest.LogPosition(epoch="sweep", sequence=1)
    for event in (said, ingest.LogEvent(append_behaviors=ingest.AppendBehaviorsRequest(behaviors=behaviors))):
        entry = ingest.LogEntry(sequence=through.sequence, event=event)
        batch = ingest.ApplyLogRequest(log="nats/sweep", through=through, entries=[entry])
        sweep.call("ApplyLog", batch, ingest.ApplyLogRequest(log=PERSON * 50))
    sweep.call("StreamItems", ingest.PutItemsRequest(items=[ingest.ItemRow(item_id="i")]), streams=True)
    sweep.call("StreamDeletions", ingest.DeleteItemsRequest(item_ids=["i"]), streams=True)
    sweep.call("StreamBehaviors", ingest.AppendBehaviorsRequest(behaviors=behaviors), streams=True)
    sweep.call("StreamTexts", ingest.AppendTextsRequest(texts=texts), streams=True)
    sweep.call("StreamFriends", ingest.PutFriendsRequest(friends=friends), streams=True)
    sweep.call("StreamImpressions", ingest.AppendImpressionsRequest(impressions=shown), streams=True)


def asks(sweep: Sweep) -> None:
    item, views = sweep.items[0], pb.Views(texts=[SENT], friends=[pb.Friend(friend_id=FRIEND)])
    bad_views = pb.Views(texts=[SENT], friends=[pb.Friend(friend_id=PERSON, weight=-1)])
    queries = [
        pb.QueryRequest(user_id=PERSON, explain=True),
        pb.QueryRequest(user_id=PERSON * 50),
        pb.QueryRequest(user_id=PERSON, text_query=ASKED),
        pb.QueryRequest(user_id=PERSON, k=5_000),
        pb.QueryRequest(text=ASKED, target=pb.TARGET_USERS),
        pb.QueryRequest(text=ASKED * 10_000),
        pb.QueryRequest(views=views),
        pb.QueryRequest(views=bad_views),
        pb.QueryRequest(user_id=PERSON, target=pb.TARGET_USERS),
        pb.QueryRequest(user_id=PERSON, index_id="another"),
        pb.QueryRequest(user_id=PERSON, text_query=ASKED, text_query_weight=7),
    ]
    sweep.call("Query", *queries)
    sweep.call("QueryBatch", *(pb.QueryBatchRequest(requests=[queries[0], one]) for one in queries))
    for one in queries:
        for reply in sweep.call("QueryStream", one, streams=True):
            sweep.said.append(text_format.MessageToString(reply.error))
    sweep.call("EncodeUser", pb.EncodeUserRequest(user_id=PERSON), pb.EncodeUserRequest(views=bad_views))
    sweep.call("Predict", pb.PredictRequest(user_id=PERSON, item_ids=[item]), pb.PredictRequest(views=views))
    sweep.call(
        "FindItems", ingest.FindItemsRequest(contains=PERSON), ingest.FindItemsRequest(contains="x" * 257)
    )
    sweep.call("ListAttributes", ingest.ListAttributesRequest())
    for wrong in ({"table": PERSON}, {"limit": 2_000}, {"offset": 1}):
        sweep.call("ExportUser", ingest.ExportUserRequest(user_id=PERSON, **wrong))
    parts = sweep.call("ExportUser", ingest.ExportUserRequest(user_id=PERSON))
    rows = [json.loads(row) for part in parts for row in part.rows if part.table == "texts"]
    assert rows
    assert {row["text"] for row in rows} == {f"{SAID}, mail [email] 电话[phone]，身份证[identity]"}


def streams(sweep: Sweep) -> None:
    """Make the calls that concern the whole server."""
    sweep.said += [str(one) for one in sweep.call("Status", pb.StatusRequest())]
    sweep.said += [str(one) for one in sweep.call("GetFigures", pb.GetFiguresRequest())]
    index_id = sweep.call("ListIndexes", pb.ListIndexesRequest())[0].indexes[0].index_id
    asked = pb.QueryRequest(user_id=PERSON, k=5_000), pb.QueryRequest(text=ASKED, offset=1)
    sweep.call("QueryIndex", *(pb.QueryIndexRequest(index_id=index_id, query=one) for one in asked))
    sweep.call(
        "QueryIndex", pb.QueryIndexRequest(index_id="no such index", query=pb.QueryRequest(user_id=PERSON))
    )
    sweep.call("ReadMap", pb.ReadMapRequest(), pb.ReadMapRequest(colour_by=SAID))
    sweep.call("CreateExport", pb.CreateExportRequest())
    sweep.call("PublishIndex", pb.PublishIndexRequest(index_id="no such index"))
    sweep.call("RollbackIndex", pb.RollbackIndexRequest())
    sweep.call("ListIndexes", pb.ListIndexesRequest())
    sweep.call("ListModels", pb.ListModelsRequest())
    sweep.call("ListReports", pb.ListReportsRequest())
    sweep.call("GetReport", pb.GetReportRequest(report_id="no such report"))


def imports(sweep: Sweep, folder: Path) -> None:
    """Import good rows and refused ones, by the call and by the command, also strictly; erase somebody."""
    place = folder / "tables"
    place.mkdir()
    lines = [{"user_id": OTHER, "text": TEXT}, {"user_id": OTHER, "text": TEXT, "item_id": "no such item"}]
    (place / "texts.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in lines) + f"{{{OTHER} {SAID}\n"
    )
    (place / "social.csv").write_text(f"user_id,friend_id\n{OTHER},{PERSON}\n{OTHER},{OTHER}\n")
    wanted = [ingest.ImportFolderRequest(path=str(place), strict=strict) for strict in (True, False)]
    for reply in sweep.call("ImportFolder", *wanted):
        sweep.said.append(str(reply))
    sweep.run("import", place, "--home", sweep.home.path, "--strict")
    sweep.run("import", place, "--home", sweep.home.path)
    sweep.run("doctor", "--home", sweep.home.path)
    sweep.run("backup", "--home", sweep.home.path, "--to", folder / "backups", "--without-index")
    sweep.call("EraseUser", ingest.EraseUserRequest(user_id=FRIEND), ingest.EraseUserRequest(user_id=""))


@contextmanager
def crash(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """End the server by a signal that leaves a trace where something does."""
    yield
    process.send_signal(signal.SIGABRT)
    process.wait(SOON)


def test_every_call_was_made(sweep: Sweep) -> None:
    services = [*pb.DESCRIPTOR.services_by_name.values(), *ingest.DESCRIPTOR.services_by_name.values()]
    assert sweep.called == {method.name for service in services for method in service.methods}


def test_no_error_report_or_output_names_anybody(sweep: Sweep) -> None:
    assert len([one for one in sweep.said if one]) > 50
    for said in sweep.said:
        assert named_in(said) == [], said[:2_000]


def test_no_log_names_anybody(sweep: Sweep) -> None:
    log = sweep.log.read_text("utf-8", errors="replace")
    assert "import" in log
    for line in log.splitlines():
        assert named_in(line) == [], line


def test_no_file_outside_the_store_holds_anybody_and_none_what_was_masked(sweep: Sweep) -> None:
    folder = sweep.home.path.parent
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "tables"]
    assert len(files) > 40
    for path in files:
        place = path.relative_to(folder).as_posix()
        assert named_in(place) == []
        raw = path.read_bytes()
        inside = re.sub(r"^(home|backups/[^/]*)/", "", place)
        in_store = re.fullmatch(STORE, inside) is not None
        wanted = NEVER_STORED if in_store else (*STORED, *NEVER_STORED)
        assert [one for one in wanted if one.encode() in raw] == [], place
    with Store.open(sweep.home.database) as store, store.snapshot() as cursor:
        for masked in MASKED.values():
            found = cursor.execute("SELECT count(*) FROM data.texts WHERE contains(text, $1)", [masked])
            assert found.fetchall() == [(0,)]
        found = cursor.execute("SELECT count(*) FROM data.texts WHERE contains(text, $1)", [SAID])
        assert found.fetchall() == [(2,)]  # what is not masked is there


def named_in(text: str) -> list[str]:
    """Return the personal strings in a text, as they are, or as an escaped or encoded form shows them."""
    plain = text.encode("utf-8", "replace").decode("unicode_escape", "replace") if "\\" in text else text
    return [one for one in (*STORED, *NEVER_STORED) if one in text or one in plain]
