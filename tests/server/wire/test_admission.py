"""Kinds of calls do not starve each other, and no thread works for a call that has ended."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

from encoder.text.encoder import TextEncoder
from server import app as lifecycle
from server import cancellation as calls
from server.app import running
from server.config import ServerConfig
from server.live import ingest
from server.query import retriever
from server.wire import ingest as ingest_messages
from server.wire.admission import CallPool, kind_of
from server.wire.ingest import export_replies
from store.home import Home
from tests.live_server import copy_home, soon
from triptych_client import Client, Text
from triptych_client.messages import user_export
from triptych_client.pb.v1 import ingest_pb2, triptych_pb2
from triptych_client.pb.v1 import ingest_pb2 as pb_ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

USER = "u00001"
SECONDS = 20.0
WORKERS, QUEUE = 2, 3


@pytest.fixture(scope="module")
def home(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return copy_home(small_home, tmp_path_factory.mktemp("admission") / "home")


@pytest.fixture(scope="module")
def address(home: Home) -> Iterator[str]:
    with running(ServerConfig(home, port=0, workers=WORKERS, queue=QUEUE, grace_seconds=1)) as address:
        yield address


@pytest.fixture
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as channel:
        yield channel


def everything_answers(channel: grpc.Channel) -> None:
    """Queries, health and status are answered, whatever other kinds do."""
    assert rpc.RetrievalStub(channel).Query(pb.QueryRequest(user_id=USER, k=3), timeout=SECONDS).item_ids
    check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    assert check.status == health_pb2.HealthCheckResponse.SERVING
    assert rpc.AdminStub(channel).Status(pb.StatusRequest(), timeout=SECONDS).serving


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str, float]:
    """The code, reason and seconds to wait that a refusal names."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status = rpc_status.from_call(caught.value)
    assert status is not None, caught.value
    info, again = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(again)
    return caught.value.code(), info.reason, again.retry_delay.ToTimedelta().total_seconds()


def error_of(watch: Any) -> grpc.RpcError | None:
    """The error of a watch that was refused."""
    try:
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    except grpc.RpcError as error:
        return error
    return None


def reason_of(error: grpc.RpcError) -> str:
    status, info = rpc_status.from_call(error), error_details_pb2.ErrorInfo()
    return info.reason if status is not None and status.details[0].Unpack(info) else ""


def test_every_method_has_a_kind() -> None:
    kinds = {}
    for file in (triptych_pb2, ingest_pb2, health_pb2, reflection_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                handler = grpc.RpcMethodHandler()
                handler.request_streaming = method.client_streaming  # type: ignore[misc]
                kinds[method.name] = kind_of(f"/{service.full_name}/{method.name}", handler)
    assert kinds["Query"] == kinds["QueryBatch"] == kinds["EncodeUser"] == "queries"
    assert kinds["PutItems"] == kinds["AppendTexts"] == "writes"
    assert kinds["StreamItems"] == kinds["StreamFriends"] == "write streams"
    alone = (
        "QueryStream",
        "ExportUser",
        "FindItems",
        "Status",
        "Check",
        "Watch",
        "ServerReflectionInfo",
        "CreateExport",
        "ReadMap",
    )
    assert len({kinds[name] for name in alone} | {"queries", "writes", "write streams"}) == len(alone) + 3


def test_a_pool_counts_the_calls_that_run_and_wait() -> None:
    go_on = threading.Event()
    with CallPool("tests", 1, 1) as pool:
        assert pool.most == 2
        running_one = pool.submit(go_on.wait, SECONDS)
        assert not pool.full
        waiting = pool.submit(go_on.wait, SECONDS)
        assert pool.full
        assert waiting.cancel()
        assert not pool.full
        go_on.set()
        assert running_one.result(SECONDS)


def test_idle_streams_of_reflection_hold_nobody_else(channel: grpc.Channel) -> None:
    stub, over = reflection_pb2_grpc.ServerReflectionStub(channel), threading.Event()

    def idle() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        over.wait(SECONDS)

    streams = [stub.ServerReflectionInfo(idle()) for _ in range(8)]
    for stream in streams:
        assert next(stream).list_services_response.service
    everything_answers(channel)
    said = refused(lambda: next(stub.ServerReflectionInfo(idle())))
    assert said == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", 1.0)
    over.set()
    for stream in streams:
        assert list(stream) == []
    soon(lambda: _answers(stub))


def _answers(stub: reflection_pb2_grpc.ServerReflectionStub) -> bool:
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    try:
        return len(list(stub.ServerReflectionInfo(asked))) == 1
    except grpc.RpcError:
        return False


def test_health_watches_are_bounded_and_hold_no_check(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(300)]
    refusals = [error for watch in watches if (error := error_of(watch))]
    assert {reason_of(error) for error in refusals} == {"TOO_MANY_CALLS"}
    assert 300 - 256 <= len(refusals) < 60  # one that begins is counted on its thread, too
    everything_answers(channel)
    for watch in watches:
        watch.cancel()

    def let_in() -> bool:
        again = stub.Watch(health_pb2.HealthCheckRequest())
        refusal = error_of(again)
        again.cancel()
        return refusal is None

    soon(let_in)


def test_slow_readers_of_exports_hold_nobody_else(channel: grpc.Channel, address: str) -> None:
    heavy = "x" * 90_000
    asked = pb_ingest.ExportUserRequest(user_id="heavy")
    with Client(address) as client, ExitStack() as stack:
        for start in range(0, 120, 30):
            client.append_texts([Text("heavy", f"{start + n} {heavy}") for n in range(30)])
        # Connections of their own: what is not read of a stream takes up the window of its whole connection.
        alone = [("grpc.use_local_subchannel_pool", 1)]
        channels = [stack.enter_context(grpc.insecure_channel(address, alone)) for _ in range(8)]
        readers = [ingest_rpc.IngestStub(channels[0]).ExportUser(asked)]
        assert next(readers[0]).rows  # and no further
        readers += [ingest_rpc.IngestStub(own).ExportUser(asked) for own in channels[1:]]
        everything_answers(channel)
        for reader in readers:
            reader.cancel()
        # A client without limits of its own takes 4 MiB.
        parts = list(ingest_rpc.IngestStub(channel).ExportUser(asked, timeout=60))
        assert max(part.ByteSize() for part in parts) < 4 << 20
        assert len(user_export(parts)["texts"]) == len(client.export_user("heavy")["texts"]) == 120


@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=8),
    st.integers(min_value=40, max_value=80),
)
def test_rows_of_any_length_are_sent_in_parts_and_put_together(texts: list[str], most: int) -> None:
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest_messages, "MAX_PART_BYTES", most)
        parts = list(export_replies("texts", rows))
    assert all(sum(len(row.encode()) for row in part.rows) <= most for part in parts)
    found = user_export(parts)
    assert found.get("texts", []) == [{"text": text} for text in texts]


class Held:
    """An import that holds the writer until it is let go."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self, *_: object, **__: object) -> Any:
        self.began.set()
        assert self.go_on.wait(SECONDS)
        raise NotADirectoryError("held for long enough")


def append(user_id: str) -> pb_ingest.AppendTextsRequest:
    return pb_ingest.AppendTextsRequest(texts=[pb_ingest.TextRow(user_id=user_id, text="a text")])


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, channel: grpc.Channel, tmp_path: Path) -> Iterator[Held]:
    held = Held()
    monkeypatch.setattr(ingest, "import_folder", held)
    stub = ingest_rpc.IngestStub(channel)
    importing = stub.ImportFolder.future(pb_ingest.ImportFolderRequest(path=str(tmp_path)))
    assert held.began.wait(SECONDS)
    yield held
    held.go_on.set()
    assert importing.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_writes_behind_an_import_hold_nobody_else_and_end_with_their_deadline(
    channel: grpc.Channel, address: str, held: Held
) -> None:
    stub = ingest_rpc.IngestStub(channel)
    waiting = [stub.AppendTexts.future(append(f"waits{n}")) for n in range(WORKERS + QUEUE)]
    soon(lambda: full(stub))
    assert refused(lambda: stub.AppendTexts(append("refused"))) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_CALLS",
        1.0,
    )
    everything_answers(channel)
    waiting[0].cancel()
    waiting[-1].cancel()
    late = stub.AppendTexts.future(append("late"), timeout=0.2)
    soon(late.done)
    assert late.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
    everything_answers(channel)
    held.go_on.set()
    assert [call.result(SECONDS).inserted for call in waiting[1:-1]] == [1] * (WORKERS + QUEUE - 2)
    with Client(address) as client:  # only those whose callers still waited
        assert [bool(client.export_user(f"waits{n}").get("texts")) for n in range(WORKERS + QUEUE)] == [
            False,
            *[True] * (WORKERS + QUEUE - 2),
            False,
        ]
        assert not client.export_user("late").get("texts")


def full(stub: ingest_rpc.IngestStub) -> bool:
    """Whether the pool of writes is full: a probe that finds a place gives it back by its deadline."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.AppendTexts(append("probe"), timeout=0.05)
    return reason_of(caught.value) == "TOO_MANY_CALLS"


def test_a_write_without_a_deadline_is_told_that_its_turn_does_not_come(
    channel: grpc.Channel, address: str, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "LONGEST_WAIT_SECONDS", 0.2)
    stub = ingest_rpc.IngestStub(channel)
    assert refused(lambda: stub.AppendTexts(append("patient"))) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "NO_TURN",
        1.0,
    )
    held.go_on.set()
    with Client(address) as client:
        assert not client.export_user("patient").get("texts")


def test_a_stream_that_is_cut_has_written_its_beginning(
    channel: grpc.Channel, address: str, held: Held
) -> None:
    stub, sent, cut = ingest_rpc.IngestStub(channel), threading.Event(), threading.Event()

    def some() -> Iterator[pb_ingest.AppendTextsRequest]:
        for n in range(5):
            yield append(f"cut{n}")
        sent.set()
        cut.wait(SECONDS)

    call = stub.StreamTexts.future(some())
    assert sent.wait(SECONDS)
    call.cancel()
    cut.set()
    held.go_on.set()
    stub.AppendTexts(append("after"), timeout=SECONDS)  # written behind whatever of the stream is
    with Client(address) as client:
        written = [bool(client.export_user(f"cut{n}").get("texts")) for n in range(5)]
    assert written == sorted(written, reverse=True)


def test_work_for_a_cancelled_call_ends(
    channel: grpc.Channel, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, retrieve, began = TextEncoder._run, retriever.Retriever.retrieve, threading.Event()
    runs, inside, dead = 0, set[int](), True

    def slow(self: TextEncoder, batch: Any) -> Any:
        nonlocal runs
        call = calls._current.get()
        if call is not None and dead:
            runs += 1
            began.set()
            soon(lambda: not call.wanted)
        return run(self, batch)

    def counted(self: retriever.Retriever, queries: Any) -> Any:
        inside.add(threading.get_ident())
        try:
            return retrieve(self, queries)
        finally:
            inside.remove(threading.get_ident())

    monkeypatch.setattr(TextEncoder, "_run", slow)
    monkeypatch.setattr(retriever.Retriever, "retrieve", counted)
    stub = rpc.RetrievalStub(channel)
    batch = pb.QueryBatchRequest(requests=[pb.QueryRequest(text=f"dead {n}", k=1) for n in range(20)])
    views = pb.Views(texts=[f"dead {n}" for n in range(40)])
    for ask in (
        lambda: stub.QueryBatch.future(batch),
        lambda: stub.Query.future(pb.QueryRequest(views=views)),
        lambda: stub.Query.future(pb.QueryRequest(text="dead " * 6_000)),  # of many pieces
    ):
        began.clear()
        call = ask()
        assert began.wait(SECONDS)
        call.cancel()
        soon(lambda: not inside)
    assert runs == 3  # of the model, one for each call
    dead = False
    everything_answers(channel)


def test_a_call_that_ends_while_it_waits_is_never_begun(
    channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrieve, go_on, asked = retriever.Retriever.retrieve, threading.Event(), list[str]()

    def held(self: retriever.Retriever, queries: Any) -> Any:
        asked.extend(query.subject.user_id for query in queries)
        if queries[0].subject.user_id.startswith("held"):
            assert go_on.wait(SECONDS)
        return retrieve(self, queries)

    monkeypatch.setattr(retriever.Retriever, "retrieve", held)
    monkeypatch.setattr(retriever.Retriever, "retrieve_together", held)
    stub = rpc.RetrievalStub(channel)
    # Those that would hold others run on the threads of their kind, the others together on one.
    explained = [pb.QueryRequest(user_id=f"held{n}", explain=True) for n in range(WORKERS - 1)]
    holding = [stub.Query.future(one) for one in explained]
    soon(lambda: len(asked) == WORKERS - 1)  # else they may wait for a micro-batch that is held
    holding.append(stub.Query.future(pb.QueryRequest(user_id="held")))
    soon(lambda: len(asked) == WORKERS)
    expired = stub.Query.future(pb.QueryRequest(user_id="expired"), timeout=0.2)
    cancelled = stub.Query.future(pb.QueryRequest(user_id="cancelled"))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stub.Query, pb.QueryRequest(user_id="waits"))
        cancelled.cancel()
        assert expired.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        go_on.set()
        assert waiting.result(SECONDS).item_ids
    assert all(call.result(SECONDS).item_ids for call in holding)
    assert "waits" in asked
    assert not {"expired", "cancelled"} & set(asked)


def test_four_hundred_queries_do_not_keep_health_from_answering(
    channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, retrieve = threading.Event(), retriever.Retriever.retrieve_together

    def held(self: retriever.Retriever, queries: Any) -> Any:
        assert go_on.wait(SECONDS)
        return retrieve(self, queries)

    monkeypatch.setattr(retriever.Retriever, "retrieve_together", held)
    stub = rpc.RetrievalStub(channel)
    asked = [stub.Query.future(pb.QueryRequest(user_id=USER)) for _ in range(400)]
    soon(lambda: sum(call.done() for call in asked) == 400 - WORKERS - QUEUE)
    check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    assert check.status == health_pb2.HealthCheckResponse.SERVING
    assert rpc.AdminStub(channel).Status(pb.StatusRequest(), timeout=SECONDS).serving
    go_on.set()
    codes = [call.code() for call in asked]
    assert codes.count(grpc.StatusCode.OK) == WORKERS + QUEUE
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 400 - WORKERS - QUEUE


@pytest.mark.parametrize("least_ms", [100, 60_000])
def test_pings_of_an_idle_stream_are_allowed_as_often_as_the_option_says(
    small_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least_ms: int
) -> None:
    name = "grpc.http2.min_ping_interval_without_data_ms"
    assert dict(lifecycle.OPTIONS)[name] < 10_000  # what ordinary proxies and clients send
    assert dict(lifecycle.OPTIONS)["grpc.keepalive_permit_without_calls"] == 1
    monkeypatch.setattr(lifecycle, "OPTIONS", [*dict(lifecycle.OPTIONS, **{name: least_ms}).items()])
    home, over = copy_home(small_home, tmp_path / "home"), threading.Event()

    def idle() -> Iterator[pb.QueryRequest]:
        yield pb.QueryRequest(user_id=USER)
        over.wait(7)  # gRPC pings once a second at most, and four that come too early are too many
        yield pb.QueryRequest(user_id=USER)

    pings = [("grpc.keepalive_time_ms", 400), ("grpc.http2.max_pings_without_data", 0)]
    with (
        running(ServerConfig(home, port=0, grace_seconds=0)) as address,
        grpc.insecure_channel(address, pings) as channel,
    ):
        answers = rpc.RetrievalStub(channel).QueryStream(idle())
        assert next(answers).response.item_ids
        if least_ms < 400:
            assert next(answers).response.item_ids
        else:  # and that it is this option which lets them through
            with pytest.raises(grpc.RpcError, match="oo many pings"):
                next(answers)
            over.set()
