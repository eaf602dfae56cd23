"""What a running server tells Prometheus is what was asked of it."""

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from server.access import TokenFile
from server.app import running
from server.config import ServerConfig
from server.telemetry.families import FAMILIES
from store.home import Home
from tests.live_server import copy_home, server, soon
from tests.server.telemetry.scrape import Scrape, scrape
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

SECONDS = 60.0
RETRIEVAL, INGEST, ADMIN = "Retrieval", "Ingest", "Admin"


def code_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except grpc.RpcError as error:
        return str(error.code().name)  # type: ignore[attr-defined]
    return "OK"


def load(channel: grpc.Channel) -> Counter[tuple[str, str]]:
    """Ask for something of every kind, much of it at once; return how many calls ended how, by method."""
    retrieval, admin = rpc.RetrievalStub(channel), rpc.AdminStub(channel)
    writes = ingest_rpc.IngestStub(channel)
    user = pb.QueryRequest(user_id="u00003")
    queries = [
        *(pb.QueryRequest(user_id=f"u{number:05d}") for number in range(40)),
        pb.QueryRequest(user_id="u00001", k=5_000),
        pb.QueryRequest(),
        pb.QueryRequest(item_id="no such item"),
        pb.QueryRequest(user_id="u00001", index_id="another"),
        pb.QueryRequest(text="a garden"),
        pb.QueryRequest(user_id="u00001", exact=True),
        pb.QueryRequest(user_id="nobody"),
    ]
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("Retrieval/Query", partial(retrieval.Query, one, timeout=SECONDS)) for one in queries
    ]
    batch = pb.QueryBatchRequest(requests=[user] * 5)
    stream = [user, pb.QueryRequest(user_id="u00004"), pb.QueryRequest()]
    item = ingest.ItemRow(item_id="new", title="A new one")
    behavior = ingest.BehaviorRow(user_id="somebody", item_id="no such item")
    calls += [
        ("Retrieval/QueryBatch", lambda: retrieval.QueryBatch(batch, timeout=SECONDS)),
        ("Retrieval/QueryBatch", lambda: retrieval.QueryBatch(pb.QueryBatchRequest(), timeout=SECONDS)),
        ("Retrieval/QueryStream", lambda: list(retrieval.QueryStream(iter(stream), timeout=SECONDS))),
        ("Retrieval/EncodeUser", lambda: retrieval.EncodeUser(pb.EncodeUserRequest(user_id="u00001"))),
        ("Admin/Status", lambda: admin.Status(pb.StatusRequest(), timeout=SECONDS)),
        ("Admin/PublishIndex", lambda: admin.PublishIndex(pb.PublishIndexRequest(index_id="none"))),
        (
            "Ingest/PutItems",
            lambda: writes.PutItems(ingest.PutItemsRequest(request_id="r1", items=[item]), timeout=SECONDS),
        ),
        (
            "Ingest/AppendBehaviors",
            lambda: writes.AppendBehaviors(
                ingest.AppendBehaviorsRequest(request_id="r2", behaviors=[behavior]), timeout=SECONDS
            ),
        ),
        (
            "Ingest/ExportUser",
            lambda: list(writes.ExportUser(ingest.ExportUserRequest(user_id="u00001"), timeout=SECONDS)),
        ),
    ]
    with ThreadPoolExecutor(12) as pool:
        codes = list(pool.map(lambda call: code_of(call[1]), calls))
    return Counter((method, code) for (method, _), code in zip(calls, codes, strict=True))


def counted(found: Scrape) -> Counter[tuple[str, str]]:
    return Counter(
        {
            (sample.labels["method"], sample.labels["code"]): int(sample.value)
            for sample in found.samples()
            if sample.name == "triptych_calls_total" and sample.value
        }
    )


@pytest.fixture(scope="module")
def home(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = copy_home(small_home, tmp_path_factory.mktemp("metrics") / "home")
    with running(ServerConfig(home, port=0, metrics_port=0, grace_seconds=1)):
        yield home


@pytest.fixture
def channel(home: Home) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(json.loads(home.server_file.read_text())["address"]) as channel:
        yield channel


def test_rate_and_errors_are_those_of_the_load(home: Home, channel: grpc.Channel) -> None:
    before = counted(scrape(home))
    sent = load(channel)
    after = scrape(home)
    assert counted(after) - before == sent
    assert {code for _, code in sent} == {
        "OK",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "FAILED_PRECONDITION",
    }
    for method in {method for method, _ in sent}:
        total = after.value("triptych_calls_total", method=method)
        assert after.value("triptych_call_seconds_count", method=method) == total
        assert after.value("triptych_call_seconds_sum", method=method) > 0


def test_answers_are_counted_by_what_they_are_made_of(home: Home, channel: grpc.Channel) -> None:
    stub, before = rpc.RetrievalStub(channel), scrape(home)
    replies = [stub.Query(pb.QueryRequest(user_id=f"u{n:05d}"), timeout=SECONDS) for n in range(10)]
    replies.append(stub.Query(pb.QueryRequest(user_id="nobody"), timeout=SECONDS))
    after = scrape(home)

    def more(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert more("triptych_queries_total", answer="popularity") == 1
    assert more("triptych_queries_total", answer="personal") == 10
    for view, number in zip("HTS", (pb.VIEW_HISTORY, pb.VIEW_TEXT, pb.VIEW_SOCIAL), strict=True):
        used = sum(number in reply.views_used for reply in replies)
        assert more("triptych_views_used_total", view=view) == used > 0
    for stage in ("views", "encode", "search", "page", "reply"):
        assert more("triptych_stage_seconds_count", stage=stage) == 11
    assert more("triptych_micro_batch_calls_count") == more("triptych_micro_batch_calls_sum") == 11
    assert more("triptych_user_vector_lookups_total") == 11


def test_what_serves_and_what_the_process_takes_is_told(home: Home, channel: grpc.Channel) -> None:
    status = rpc.AdminStub(channel).Status(pb.StatusRequest(), timeout=SECONDS)
    found = scrape(home)
    assert found.label("triptych_serving_info", "index_id") == [status.index_id]
    assert found.value("triptych_index_items") == status.indexed_items
    assert found.value("triptych_index_generation") == 1
    assert found.value("triptych_index_bytes") > 10_000
    assert found.value("triptych_index_built_timestamp_seconds") > 1.7e9
    assert found.value("triptych_process_resident_memory_bytes", process="server") > 1e7
    assert found.value("triptych_process_serving", process="server") == 1
    assert found.value("triptych_calls_admitted_most", kind="queries") == 8 + 256
    assert found.value("triptych_worker_failing") == 0


def test_every_metric_of_the_table_is_told(home: Home) -> None:
    told = {family.name for family in scrape(home).families}
    table = {f"triptych_{family.name}" for family in FAMILIES if not family.hidden}
    assert told == table | {"triptych_serving_info", "triptych_drift_psi", "triptych_drift_samples"}


def test_refused_calls_are_counted(small_home: Home, tmp_path: Path) -> None:
    home, never = copy_home(small_home, tmp_path / "home"), threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(SECONDS)
        yield b""

    config = ServerConfig(home, port=0, metrics_port=0, workers=1, queue=1, grace_seconds=1)
    with running(config) as address, grpc.insecure_channel(address) as channel:
        method = "/triptych.v1.Retrieval/Query"
        waiting = [channel.stream_unary(method).future(nothing()) for _ in range(2)]
        soon(lambda: scrape(home).value("triptych_calls_admitted", kind="queries") == 2)
        stub = rpc.RetrievalStub(channel)
        refused = Counter(code_of(lambda: stub.Query(pb.QueryRequest(user_id="a"))) for _ in range(3))
        found = scrape(home)
        for call in waiting:
            call.cancel()
        never.set()
        assert refused == {"RESOURCE_EXHAUSTED": 3}
        assert found.value("triptych_calls_refused_total", kind="queries") == 3
        assert counted(found) == {("Retrieval/Query", "RESOURCE_EXHAUSTED"): 3}


def test_tenants_have_series_of_their_own_and_denials_none(small_home: Home, tmp_path: Path) -> None:
    folder, tenants = tmp_path / "homes", ("shop", "zoo")
    folder.mkdir()
    homes = {name: copy_home(small_home, folder / name) for name in tenants}
    tokens = TokenFile(folder / "tokens.json")
    secrets = {name: tokens.create(("query",), datetime.now(UTC), tenant=name)[1] for name in tenants}
    config = ServerConfig(Home(folder), tenants=tenants, port=0, metrics_port=0, grace_seconds=1)
    with running(config) as address, grpc.insecure_channel(address) as channel:
        stub, admin = rpc.RetrievalStub(channel), rpc.AdminStub(channel)
        query = pb.QueryRequest(user_id="u00001")
        for name, number in (("shop", 3), ("zoo", 2)):
            token = [("authorization", f"Bearer {secrets[name]}")]
            for _ in range(number):
                assert stub.Query(query, timeout=SECONDS, metadata=token).item_ids
            assert (
                code_of(lambda t=token: admin.Status(pb.StatusRequest(), metadata=t)) == "PERMISSION_DENIED"
            )
        assert code_of(lambda: stub.Query(query, timeout=SECONDS)) == "UNAUTHENTICATED"
        found = scrape(homes["shop"])
    for name, number in (("shop", 3), ("zoo", 2)):
        ours = {
            (sample.labels["method"], sample.labels["code"]): sample.value
            for sample in found.samples()
            if sample.name == "triptych_calls_total" and sample.labels["tenant"] == name and sample.value
        }
        assert ours == {("Retrieval/Query", "OK"): number}
        assert found.value("triptych_call_seconds_count", tenant=name) == number
        assert found.value("triptych_process_serving", tenant=name, process="server") == 1
    assert found.label("triptych_serving_info", "tenant") == ["shop", "zoo"]
    assert found.value("triptych_calls_denied_total", code="UNAUTHENTICATED") == 1
    assert found.value("triptych_calls_denied_total", code="PERMISSION_DENIED") == 2
    # What is about the process and not about a home has no tenant.
    for name in ("triptych_calls_denied_total", "triptych_process_resident_memory_bytes"):
        assert not any("tenant" in sample.labels for sample in found.samples() if sample.name == name)


def test_two_processes_are_one_target(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home, "--processes", "2", "--metrics-port", "0") as client:
        options = [("grpc.use_local_subchannel_pool", 1)]
        soon(lambda: len(_query_pids(home)) == 2)
        sent: Counter[tuple[str, str]] = Counter()
        for _ in range(4):  # connections, which the kernel spreads
            with grpc.insecure_channel(client.address, options) as channel:
                sent += load(channel)
        soon(lambda: counted(scrape(home)) == sent)
        soon(lambda: scrape(home).value("triptych_index_generation") == 1)
        processes = {"owner", "query-0", "query-1", "query-2", "parent"}
        memory = "triptych_process_resident_memory_bytes"
        soon(lambda: set(scrape(home).label(memory, "process")) == processes)
        soon(lambda: all(scrape(home).value(memory, process=one) > 1e7 for one in processes))
        found = scrape(home)
        assert found.value("triptych_process_restarts_total") == 0

        pids = _query_pids(home)
        os.kill(pids[0], signal.SIGKILL)
        soon(lambda: scrape(home).value("triptych_process_restarts_total", role="query") == 1)
        assert counted(scrape(home)) == sent  # what a killed process has counted stays counted
        with grpc.insecure_channel(client.address, options) as channel:
            rpc.RetrievalStub(channel).Query(
                pb.QueryRequest(user_id="u00001"), timeout=SECONDS, wait_for_ready=True
            )
        sent["Retrieval/Query", "OK"] += 1
        assert counted(scrape(home)) == sent


def _query_pids(home: Home) -> list[int]:
    return list(json.loads(home.server_file.read_text())["query_pids"])
