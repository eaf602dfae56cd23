"""Traces reach a collector, lie below the caller's, and carry nothing personal."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collected
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collector_rpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from server.app import running
from server.config import ServerConfig
from server.telemetry import STAGES
from store.home import Home
from tests.live_server import copy_home, server
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

SECONDS = 60.0
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = [[("traceparent", f"00-{TRACE}-{SPAN}-{flags}")] for flags in ("01", "00")]


class Collector(collector_rpc.TraceServiceServicer):
    """An OTLP collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._lock = threading.Lock()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        with self._lock:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        return collected.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@contextmanager
def collector() -> Iterator[tuple[Collector, str]]:
    kept, listening = Collector(), grpc.server(ThreadPoolExecutor(4))
    collector_rpc.add_TraceServiceServicer_to_server(kept, listening)
    port = listening.add_insecure_port("127.0.0.1:0")
    listening.start()
    yield kept, f"127.0.0.1:{port}"
    listening.stop(None).wait()


def attributes(span: Span) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def children(kept: Collector, parent: Span) -> list[Span]:
    return [span for span in kept.spans if span.parent_span_id == parent.span_id]


@pytest.fixture
def home(small_home: Home, tmp_path: Path) -> Home:
    return copy_home(small_home, tmp_path / "home")


def traced(home: Home, endpoint: str, ratio: float) -> ServerConfig:
    return ServerConfig(home, port=0, traces_endpoint=endpoint, traces_ratio=ratio, grace_seconds=5)


def test_a_query_is_traced_below_its_caller_and_through_its_stages(home: Home) -> None:
    with collector() as (kept, endpoint):
        with running(traced(home, endpoint, 0.0)) as address, grpc.insecure_channel(address) as channel:
            query = rpc.RetrievalStub(channel).Query
            query(pb.QueryRequest(user_id="u00001"), timeout=SECONDS)  # the ratio
            query(pb.QueryRequest(user_id="u00001"), timeout=SECONDS, metadata=UNSAMPLED)
            query(pb.QueryRequest(user_id="u00001"), timeout=SECONDS, metadata=SAMPLED)
            query(pb.QueryRequest(user_id="u00001", explain=True), timeout=SECONDS, metadata=SAMPLED)  # apart
        spans = kept.named("Retrieval/Query")
    assert len(spans) == 2
    for span in spans:
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
        assert span.kind == Span.SPAN_KIND_SERVER
        assert attributes(span) == {
            "rpc.system": "grpc",
            "rpc.service": "Retrieval",
            "rpc.method": "Query",
            "rpc.grpc.status_code": 0,
        }
        stages = children(kept, span)
        assert [stage.name for stage in stages] == list(STAGES)
        for before, after in pairwise(stages):
            assert abs(after.start_time_unix_nano - before.end_time_unix_nano) < 1e6
        assert span.start_time_unix_nano <= stages[0].start_time_unix_nano + 1e6
        assert stages[-1].end_time_unix_nano <= span.end_time_unix_nano + 1e6


def test_queries_that_are_answered_together_are_linked_with_their_micro_batch(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.server.wire.test_micro_batches import Held, count_arrivals, soon

    with collector() as (kept, endpoint):
        with running(traced(home, endpoint, 1.0)) as address, grpc.insecure_channel(address) as channel:
            held, stub = Held(monkeypatch), rpc.RetrievalStub(channel)
            first = stub.Query.future(pb.QueryRequest(user_id="u00001"), timeout=SECONDS)
            assert held.began.wait(SECONDS)
            arrived = count_arrivals(monkeypatch)
            waiting = [
                stub.Query.future(pb.QueryRequest(user_id=f"u{n:05d}"), timeout=SECONDS) for n in range(5)
            ]
            soon(lambda: len(arrived) == 5)
            held.go_on.set()
            assert all(call.result().item_ids for call in [first, *waiting])
        (batch,) = kept.named("micro-batch")
        alone, *together = sorted(kept.named("Retrieval/Query"), key=lambda span: len(span.links))
        assert (len(together), len(alone.links)) == (5, 0)
        assert attributes(batch) == {"triptych.calls": 5}
        assert [stage.name for stage in children(kept, batch)] == list(STAGES)
        assert {link.span_id for link in batch.links} == {span.span_id for span in together}
        assert {link.span_id for span in together for link in span.links} == {batch.span_id}
        assert not any(children(kept, span) for span in together)


def test_no_id_and_no_text_is_in_a_trace(home: Home) -> None:
    with collector() as (kept, endpoint):
        with running(traced(home, endpoint, 1.0)) as address, grpc.insecure_channel(address) as channel:
            stub, writes = rpc.RetrievalStub(channel), ingest_rpc.IngestStub(channel)
            stub.Query(pb.QueryRequest(user_id="u00001"), timeout=SECONDS)
            stub.Query(pb.QueryRequest(text="xylophone lessons"), timeout=SECONDS)
            with pytest.raises(grpc.RpcError):
                stub.Query(pb.QueryRequest(item_id="xylophone"), timeout=SECONDS)
            text = ingest.TextRow(user_id="u00001", text="xylophone lessons")
            writes.AppendTexts(ingest.AppendTextsRequest(request_id="r", texts=[text]), timeout=SECONDS)
            list(writes.ExportUser(ingest.ExportUserRequest(user_id="u00001"), timeout=SECONDS))
        raw = b"".join(span.SerializeToString() for span in kept.spans)
    names = {span.name for span in kept.spans}
    assert names >= {"Retrieval/Query", "Ingest/AppendTexts", "Ingest/ExportUser"}
    assert b"u00001" not in raw
    assert b"xylophone" not in raw


def test_query_processes_and_their_owner_send_traces(home: Home) -> None:
    with collector() as (kept, endpoint):
        options = ("--processes", "2", "--traces-endpoint", endpoint, "--traces-ratio", "0")
        with server(home, *options) as client:
            query = pb.QueryRequest(user_id="u00001")
            client.retrieval.Query(query, timeout=SECONDS, metadata=SAMPLED, wait_for_ready=True)
            client.admin.Status(pb.StatusRequest(), timeout=SECONDS, metadata=SAMPLED)
            client.process.terminate()
            client.process.wait(SECONDS)
        assert {span.trace_id.hex() for span in kept.spans} == {TRACE}
        assert len(kept.named("Retrieval/Query")) == 1
        assert len(kept.named("Admin/Status")) == 2  # of the process that passes it on, and of the owner
