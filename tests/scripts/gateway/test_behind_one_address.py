"""A real gateway in front of real servers: what it lets through, and what it says itself."""

import base64
import json
import re
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2

from server.access import TokenFile
from store.home import Home
from tests.engines.gateway import JSON, Gateway
from tests.live_server import SOON, Client, copy_home, server, soon, stopped
from tests.scripts.gateway.conftest import Open
from triptych_client import CallError
from triptych_client import Client as ApiClient
from triptych_client.pb.v1 import ingest_pb2 as ig
from triptych_client.pb.v1 import ingest_pb2_grpc as ig_rpc
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

USER = "u00001"
SOMEBODY = "somebody-in-the-log"


def test_rest_answers(quiet: Client, gateway: Gateway) -> None:
    said = gateway.ask("/v1/query", {"user_id": USER, "k": 5}).json
    assert said["item_ids"] == list(quiet.query(user_id=USER, k=5).item_ids)
    assert said["views_used"] == ["VIEW_HISTORY", "VIEW_TEXT", "VIEW_SOCIAL"]
    assert said["explanations"] == []  # fields without a value are there
    assert gateway.call("GET", "/v1/status", headers={}).json["serving"] is True


def test_our_client_and_streams_go_through(quiet: Client, gateway: Gateway) -> None:
    with ApiClient(gateway.address) as client:
        assert client.query(user_id=USER, k=5).item_ids == quiet.query(user_id=USER, k=5).item_ids
        replies = list(client.query_stream({"user_id": USER, "k": k} for k in (1, 2, 5_000, 3)))
        assert [len(one.item_ids) for one in replies if isinstance(one, pb.QueryResponse)] == [1, 2, 3]
        (wrong,) = (one for one in replies if isinstance(one, CallError))
        assert wrong.reason == "INVALID_REQUEST"


def test_errors_by_grpc_have_their_details(gateway: Gateway) -> None:
    with ApiClient(gateway.address) as client, pytest.raises(CallError) as caught:
        client.query(user_id=USER, k=5_000)
    assert (caught.value.reason, list(caught.value.fields)) == ("INVALID_REQUEST", ["k"])


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


@pytest.mark.parametrize("kind", ["application/grpc-web+proto", "application/grpc-web-text+proto"])
def test_a_browser_calls_by_grpc_web(quiet: Client, gateway: Gateway, kind: str) -> None:
    as_text = "text" in kind
    body = framed(pb.QueryRequest(user_id=USER, k=3).SerializeToString())
    sent = base64.b64encode(body) if as_text else body
    headers = {"content-type": kind, "accept": kind, "x-grpc-web": "1"}
    reply = gateway.call("POST", "/triptych.v1.Retrieval/Query", sent, headers)
    assert (reply.status, reply.headers["content-type"]) == (200, kind)
    parts = re.findall(rb"[A-Za-z0-9+/]+=*", reply.body) if as_text else []
    raw = b"".join(map(base64.b64decode, parts)) or reply.body
    size = int.from_bytes(raw[1:5], "big")
    said = pb.QueryResponse.FromString(raw[5 : 5 + size])
    assert said.item_ids == quiet.query(user_id=USER, k=3).item_ids
    assert b"grpc-status:0" in raw[5 + size :].replace(b" ", b"")


def test_pages_of_named_origins_may_call_and_no_others(gateway: Gateway) -> None:
    asks = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,authorization",
    }
    ours, others = ({"origin": origin} | asks for origin in ("https://shop.test", "https://evil.test"))
    for path in ("/v1/query", "/triptych.v1.Retrieval/Query"):
        reply = gateway.call("OPTIONS", path, headers=ours)
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "https://shop.test")
        assert "authorization" in reply.headers["access-control-allow-headers"]
        assert "access-control-allow-origin" not in gateway.call("OPTIONS", path, headers=others).headers
    body = json.dumps({"user_id": USER, "k": 1})
    reply = gateway.call("POST", "/v1/query", body, JSON | {"origin": "https://shop.test"})
    assert reply.headers["access-control-allow-origin"] == "https://shop.test"
    assert "x-request-id" in reply.headers["access-control-expose-headers"]
    wrong = gateway.call("POST", "/v1/query", '{"k": 5000}', JSON | {"origin": "https://shop.test"})
    assert wrong.headers["access-control-allow-origin"] == "https://shop.test"  # a page may read errors, too


@pytest.mark.parametrize(
    ("verb", "path", "kind", "status", "reason"),
    [
        ("POST", "/v1/nothing", "application/json", 404, "UNKNOWN_METHOD"),
        ("POST", "/v1/folders:import", "application/json", 404, "UNKNOWN_METHOD"),
        ("POST", "/triptych.v1.Retrieval/Query", "application/json", 404, "UNKNOWN_METHOD"),
        ("GET", "/v1/query", "application/json", 405, "WRONG_VERB"),
        ("POST", "/v1/items", "application/json", 405, "WRONG_VERB"),
        ("POST", "/v1/query", "text/plain", 415, "NOT_JSON"),
        ("POST", "/v1/query", "application/x-www-form-urlencoded", 415, "NOT_JSON"),
        ("POST", "/v1/query?user=x", "application/json", 400, "INVALID_REQUEST"),
    ],
)
def test_what_the_gateway_refuses_is_said_as_the_server_says_it(
    gateway: Gateway, verb: str, path: str, kind: str, status: int, reason: str
) -> None:
    reply = gateway.call(verb, path, '{"user_id": "x"}', {"content-type": kind})
    assert (reply.status, reply.reason) == (status, reason)
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json) == {"code", "message", "details"}
    assert reply.json["details"][0]["domain"] == "triptych"


def test_methods_that_are_not_offered_are_none(gateway: Gateway) -> None:
    request = ig.ImportFolderRequest(path="/")
    with pytest.raises(grpc.RpcError) as caught:
        ig_rpc.IngestStub(gateway.channel).ImportFolder(request, timeout=SOON)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.RpcError) as caught:
        gateway.channel.unary_unary("/triptych.internal.v1.Owner/Repair")(b"", timeout=SOON)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_what_is_too_large_is_refused(gateway: Gateway) -> None:
    body = json.dumps({"text": "a" * (33 << 20)})
    reply = gateway.call("POST", "/v1/query", body)
    assert (reply.status, reply.reason, reply.json["code"]) == (413, "TOO_LARGE", code_pb2.RESOURCE_EXHAUSTED)
    reply = gateway.call("GET", "/v1/status", headers={"x-long": "a" * (17 << 10)})
    assert (reply.status, reply.reason) == (431, "TOO_LARGE")


def test_json_as_deep_as_it_is_long_is_refused(gateway: Gateway) -> None:
    for body in ('{"filter":' * 100_000, '{"x":' + "[" * 100_000, "[" * 1_000_000):
        assert gateway.call("POST", "/v1/query", body).status == 400
    assert gateway.running.process.poll() is None


def test_a_deadline_holds(quiet: Client, gateway: Gateway) -> None:
    with stopped(quiet.process.pid):
        reply = gateway.ask("/v1/query", {"user_id": USER}, **{"grpc-timeout": "50m"})
    assert (reply.status, reply.reason, reply.json["code"]) == (504, "TOO_LATE", code_pb2.DEADLINE_EXCEEDED)


def test_the_description_is_shown(gateway: Gateway) -> None:
    reply = gateway.call("GET", "/v1/openapi.json", headers={})
    assert reply.status == 200
    assert "/v1/query" in reply.json["paths"]
    soon(lambda: gateway.call("GET", "/healthz", headers={}).status == 200)


def test_the_access_log_has_each_call_and_nobody_in_it(gateway: Gateway) -> None:
    asked = {"user_id": SOMEBODY, "k": 3}
    reply = gateway.ask("/v1/query", asked, **{"x-request-id": SOMEBODY, "user-agent": SOMEBODY})
    assert reply.status == 200
    for path in (f"/v1/users/{SOMEBODY}", f"/v1/query?user_id={SOMEBODY}"):
        gateway.call("POST", path, "{}")
    gateway.call("POST", "/v1/query", '{"user_id": {"' + SOMEBODY + '": 1}}')
    request_id = reply.headers["x-request-id"]
    soon(lambda: any(line["request_id"] == request_id for line in gateway.lines()))
    (line,) = (line for line in gateway.lines() if line["request_id"] == request_id)
    assert line["method"] == "triptych.v1.Retrieval/Query"
    assert (line["status"], line["grpc_status"]) == (200, "0")
    assert line["bytes_in"] > 0 < line["bytes_out"]
    assert re.fullmatch(r"[0-9a-f-]{36}", request_id)  # one's own would be logged
    soon(lambda: {"unknown", "triptych.v1.Retrieval/Query"} <= {line["method"] for line in gateway.lines()})
    assert SOMEBODY not in gateway.log.read_text("utf-8")
    assert "127.0.0.1" not in {line.get("client") for line in gateway.lines()}


def test_a_caller_cannot_pass_for_a_process_of_the_server(
    small_home: Home, tmp_path: Path, open_gateway: Open
) -> None:
    """Behind a unix socket a server believes who says that a process has passed a call on."""
    home = copy_home(small_home, tmp_path / "home")
    with server(home, "--host", f"unix:{tmp_path}/s") as behind, open_gateway(behind.address) as gateway:
        assert gateway.ask("/v1/query", {"user_id": USER}, **{"triptych-peer": "ipv4:1.2.3.4"}).status == 200
        stub = rpc.RetrievalStub(gateway.channel)
        assert stub.Query(pb.QueryRequest(user_id=USER), timeout=SOON).item_ids


def test_tokens_are_passed_on(small_home: Home, tmp_path: Path, open_gateway: Open) -> None:
    home = copy_home(small_home, tmp_path / "home")
    _, secret = TokenFile(home.path / "tokens.json").create(("query",), datetime.now(UTC))
    with server(home) as behind, open_gateway(behind.address) as gateway:
        missing = gateway.ask("/v1/query", {"user_id": USER})
        assert (missing.status, missing.reason) == (401, "TOKEN_MISSING")
        wrong = gateway.ask("/v1/query", {"user_id": USER}, authorization="Bearer nonsense")
        assert (wrong.status, wrong.reason) == (401, "TOKEN_UNKNOWN")
        right = {"authorization": f"Bearer {secret}"}
        assert gateway.ask("/v1/query", {"user_id": USER}, **right).status == 200
        refused = gateway.call("GET", "/v1/status", headers=right)
        assert (refused.status, refused.reason) == (403, "SCOPE_MISSING")
        soon(lambda: len(gateway.lines()) >= 4)
        assert secret not in gateway.log.read_text("utf-8")


def test_a_server_that_is_gone_is_said_to_be(small_home: Home, tmp_path: Path, open_gateway: Open) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home) as behind, open_gateway(behind.address) as gateway:
        assert gateway.ask("/v1/query", {"user_id": USER}).status == 200
        behind.process.kill()
        behind.process.wait()
        reply = gateway.ask("/v1/query", {"user_id": USER})
        assert (reply.status, reply.reason) == (503, "SERVER_UNREACHABLE")
        assert reply.json["code"] == code_pb2.UNAVAILABLE
        soon(lambda: gateway.call("GET", "/healthz", headers={}).status == 503)


def test_replicas_stand_in_for_one_that_dies(twice: tuple[Home, Home], open_gateway: Open) -> None:
    one, other = twice
    with (
        server(one) as first,
        server(other) as second,
        open_gateway(first.address, second.address) as gateway,
    ):
        both = {gateway.ask("/v1/query", {"user_id": USER}).status for _ in range(20)}
        soon(lambda: len({line["server"] for line in gateway.lines()}) == 2)
        first.process.kill()
        first.process.wait()
        after = [gateway.ask("/v1/query", {"user_id": USER}).status for _ in range(50)]
        assert both == set(after) == {200}


def test_running_calls_end_before_the_gateway_does(quiet: Client, open_gateway: Open) -> None:
    more = threading.Event()

    def requests() -> object:
        yield pb.QueryRequest(user_id=USER, k=1)
        more.wait(SOON)
        yield pb.QueryRequest(user_id=USER, k=2)

    with open_gateway(quiet.address, grace=SOON) as gateway:
        replies = rpc.RetrievalStub(gateway.channel).QueryStream(requests(), timeout=SOON)
        assert len(next(replies).response.item_ids) == 1
        ending = threading.Thread(target=gateway.running.stop, args=(SOON,))
        ending.start()
        soon(lambda: gateway.call("GET", "/healthz", headers={}).status == 503)
        assert gateway.running.process.poll() is None
        more.set()
        assert [len(reply.response.item_ids) for reply in replies] == [2]
        ending.join(SOON)
        assert gateway.running.process.poll() is not None


def command(*options: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "scripts.cli", "gateway", *options]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_says_where_it_is_and_ends_by_a_signal(quiet: Client) -> None:
    running = command("--address", quiet.address, "--port", "0")
    assert running.stderr is not None
    line = running.stderr.readline()
    found = re.search(r"gateway on http://(\S+) for", line)
    assert found, line + running.stderr.read()
    with grpc.insecure_channel(found[1]) as channel:
        assert rpc.RetrievalStub(channel).Query(pb.QueryRequest(user_id=USER, k=2), timeout=SOON).item_ids
    taken = command("--address", quiet.address, "--port", found[1].rpartition(":")[2])
    assert "already in use" in taken.communicate(timeout=SOON)[1]
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=SOON)
    assert running.returncode == 0, err
    assert "stopping" in err
    assert '"triptych.v1.Retrieval/Query"' in out


def test_envoy_does_not_outlive_a_command_that_is_killed(quiet: Client) -> None:
    running = command("--address", quiet.address, "--port", "0")
    assert running.stderr is not None
    found = re.search(r"gateway on http://(\S+) for", running.stderr.readline())
    assert found
    running.kill()
    running.communicate()

    def gone() -> bool:
        with grpc.insecure_channel(found[1]) as channel:
            try:
                rpc.RetrievalStub(channel).Query(pb.QueryRequest(user_id=USER), timeout=1)
            except grpc.RpcError as error:
                return error.code() is grpc.StatusCode.UNAVAILABLE
        return False

    soon(gone)
