"""Tokens at a real server: every method by every scope, what is refused and how, and what streams may."""

import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from scripts.home_access import admin, fresh_export, server_of
from server.access import SCOPES, TokenFile, scope_of
from server.app import running
from server.config import ServerConfig
from store.home import Home
from tests.live_server import SOON, copy_home, server, soon
from triptych_client import AsyncClient, Behavior, CallError, Client
from triptych_client.pb.v1 import ingest_pb2, ingest_pb2_grpc, triptych_pb2
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

METHODS = [
    (f"/{service.full_name}/{method.name}", method.client_streaming, method.server_streaming)
    for file in (triptych_pb2, ingest_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
NEVER = ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "UNKNOWN")  # where a call is allowed
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def home(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return copy_home(small_home, tmp_path_factory.mktemp("gate") / "home")


@pytest.fixture(scope="module")
def tokens(home: Home) -> TokenFile:
    file = TokenFile(home.path / "tokens.json")
    file.create(("query",), NOW)
    return file


@pytest.fixture(scope="module")
def address(home: Home, tokens: TokenFile) -> Iterator[str]:
    with running(ServerConfig(home, port=0)) as address:
        yield address


@contextmanager
def stub_of(address: str) -> Iterator[rpc.RetrievalStub]:
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield rpc.RetrievalStub(channel)


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


def outcome(
    channel: grpc.Channel, method: str, streams: tuple[bool, bool], secret: str | None
) -> tuple[str, str]:
    """How an empty call ends: its code, and the reason of its ErrorInfo."""
    shape = "_".join("stream" if one else "unary" for one in streams)
    metadata = None if secret is None else bearer(secret)
    call = getattr(channel, shape)(method)
    try:
        replies = call(iter([b""]) if streams[0] else b"", timeout=SOON, metadata=metadata)
        if streams[1]:
            list(replies)
    except grpc.RpcError as error:
        return error.code().name, reason_of(error)
    return "OK", ""


def reason_of(error: grpc.RpcError) -> str:
    status, info = status_pb2.Status(), error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    return info.reason if status.details and status.details[0].Unpack(info) else ""


def answers(stub: rpc.RetrievalStub, secret: str) -> bool:
    """Whether a query is answered, and not too many of its token."""
    try:
        stub.Query(pb.QueryRequest(user_id="u00001"), metadata=bearer(secret), timeout=SOON)
    except grpc.RpcError as error:
        if reason_of(error) != "RATE_LIMITED":
            raise
        return False
    return True


def test_every_method_by_every_scope(address: str, tokens: TokenFile) -> None:
    """The whole table: without a token, with each scope alone, with all."""
    secrets = {scope: tokens.create((scope,), NOW)[1] for scope in SCOPES}
    every = tokens.create(SCOPES, NOW)[1]
    wrong = []
    with grpc.insecure_channel(address) as channel:
        for method, *streams in METHODS:
            shape = (streams[0], streams[1])
            needed = scope_of(method)
            told = {scope: outcome(channel, method, shape, secret) for scope, secret in secrets.items()}
            told["every"] = outcome(channel, method, shape, every)
            told["none"] = outcome(channel, method, shape, None)
            for who, (code, reason) in told.items():
                if who == "none":
                    expected = (code, reason) == ("UNAUTHENTICATED", "TOKEN_MISSING")
                elif who in (needed, "every"):
                    expected = code not in (
                        "UNAUTHENTICATED",
                        "PERMISSION_DENIED",
                        "UNIMPLEMENTED",
                        "UNKNOWN",
                    )
                else:
                    expected = (code, reason) == ("PERMISSION_DENIED", "SCOPE_MISSING")
                if not expected:
                    wrong.append((method, needed, who, code, reason))
    assert len(METHODS) >= 24
    assert wrong == []


def test_health_answers_anybody_and_reflection_who_has_a_token(address: str, tokens: TokenFile) -> None:
    _, secret = tokens.create(("ingest",), NOW)
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    with grpc.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SOON)
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        (told,) = reflection(iter(asked), timeout=SOON, metadata=bearer(secret))
        assert "triptych.v1.Retrieval" in [one.name for one in told.list_services_response.service]
        with pytest.raises(grpc.RpcError) as caught:
            list(reflection(iter(asked), timeout=SOON))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_clients_send_their_token(address: str, tokens: TokenFile) -> None:
    _, secret = tokens.create(("query", "ingest"), NOW)
    with Client(address, token=secret, timeout=SOON) as client:
        item = client.query(user_id="u00001").item_ids[0]
        assert client.append_behaviors([Behavior("gate", item)]).inserted == 1
        assert len(list(client.query_stream([{"user_id": "u00001"}] * 3))) == 3
        with pytest.raises(CallError) as caught:
            client.status()
        assert (caught.value.code, caught.value.reason) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "SCOPE_MISSING",
        )
    with Client(address, timeout=SOON) as client, pytest.raises(CallError, match="this server wants a token"):
        client.query(user_id="u00001")  # at once: repeating it does not help
    with pytest.raises(ValueError, match="the token is none that") as refused:
        Client(address, token="a\nb")  # noqa: S106
    assert "a\nb" not in str(refused.value)


@pytest.mark.parametrize("scope", ["query"])
def test_the_asyncio_client_sends_its_token(address: str, tokens: TokenFile, scope: str) -> None:
    import asyncio

    _, secret = tokens.create((scope,), NOW)

    async def ask() -> int:
        async with AsyncClient(address, token=secret, timeout=SOON) as client:
            found = [one async for one in client.query_stream([{"user_id": "u00001"}] * 2)]
            return len(found) + len((await client.query(user_id="u00001")).item_ids)

    assert asyncio.run(ask()) == 12


def test_a_stream_ends_when_its_token_is_revoked(address: str, tokens: TokenFile) -> None:
    token, secret = tokens.create(("query",), NOW)
    go_on = threading.Event()

    def requests() -> Iterator[pb.QueryRequest]:
        yield pb.QueryRequest(user_id="u00001")
        go_on.wait(SOON)
        yield pb.QueryRequest(user_id="u00001")

    with stub_of(address) as stub:
        replies = stub.QueryStream(requests(), timeout=SOON, metadata=bearer(secret))
        assert next(replies).response.item_ids
        tokens.revoke(token.id, NOW)
        go_on.set()
        with pytest.raises(grpc.RpcError) as caught:
            next(replies)
    assert (caught.value.code(), reason_of(caught.value)) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "TOKEN_REVOKED",
    )


def test_a_batch_and_a_stream_count_each_query(address: str, tokens: TokenFile) -> None:
    request = pb.QueryRequest(user_id="u00001")
    with stub_of(address) as stub:
        _, secret = tokens.create(("query",), NOW, limit="5/hour")
        stub.QueryBatch(pb.QueryBatchRequest(requests=[request] * 5), metadata=bearer(secret), timeout=SOON)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Query(request, metadata=bearer(secret), timeout=SOON)
        assert reason_of(caught.value) == "RATE_LIMITED"
        _, secret = tokens.create(("query",), NOW, limit="5/hour")
        replies = stub.QueryStream(iter([request] * 9), metadata=bearer(secret), timeout=SOON)
        assert all(next(replies).response.item_ids for _ in range(5))
        with pytest.raises(grpc.RpcError) as caught:
            next(replies)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(caught.value) == "RATE_LIMITED"


def test_a_client_waits_as_long_as_it_is_told(address: str, tokens: TokenFile) -> None:
    _, secret = tokens.create(("query",), NOW, limit="3/second")
    with Client(address, token=secret, timeout=SOON) as client:
        assert all(client.query(user_id="u00001").item_ids for _ in range(7))
    _, secret = tokens.create(("query",), NOW, limit="1/hour")
    with Client(address, token=secret, timeout=1.0) as client:
        client.query(user_id="u00001")
        with pytest.raises(CallError) as caught:
            client.query(user_id="u00001")
        assert caught.value.reason == "RATE_LIMITED"
        assert caught.value.retry_after is not None
        assert 3000 < caught.value.retry_after <= 3600


def test_those_who_call_at_once_share_one_limit(address: str, tokens: TokenFile) -> None:
    _, secret = tokens.create(("query",), NOW, limit="40/hour")
    meet = threading.Barrier(8)

    def ask(_: int) -> int:
        with stub_of(address) as stub:
            meet.wait(SOON)
            return sum(answers(stub, secret) for _ in range(10))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 40


def test_commands_beside_the_server_need_no_token(home: Home, address: str) -> None:
    local = server_of(home)
    assert local is not None
    assert local.startswith("unix:")
    with fresh_export(home) as export:
        assert export.manifest["kind"] == "export"


def test_with_processes_tokens_limits_and_streams_hold_in_each(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    file = TokenFile(home.path / "tokens.json")
    token, secret = file.create(("query", "ingest"), NOW)
    _, limited = file.create(("query",), NOW, limit="20/hour")
    with server(home, "--processes", "2", "--no-spare") as live:
        soon(lambda: "with 2 query processes" in live.log.read_text())
        channels = [
            grpc.insecure_channel(live.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(8)
        ]
        stubs = [rpc.RetrievalStub(channel) for channel in channels]
        socket = Path((server_of(home) or "").removeprefix("unix:"))  # the owner's
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        request = pb.QueryRequest(user_id="u00001")
        item = stubs[0].Query(request, metadata=bearer(secret), timeout=SOON).item_ids[0]
        assert sum(answers(stubs[number % 8], limited) for number in range(48)) == 20  # counted together
        with Client(live.address, token=secret, timeout=SOON, connections=8) as client:
            for number in range(8):  # forwarded to the owner
                assert client.append_behaviors([Behavior(f"p{number}", item)]).inserted == 1
            with pytest.raises(CallError, match="needs admin"):
                client.erase_user("p1")
        with admin(server_of(home) or "") as beside:
            rows = beside.Status(pb.StatusRequest()).rows["behaviors"]
        go_on = threading.Event()

        def messages() -> Iterator[ingest_pb2.AppendBehaviorsRequest]:
            for user_id in ("before", "after"):
                behavior = ingest_pb2.BehaviorRow(user_id=user_id, item_id=item)
                yield ingest_pb2.AppendBehaviorsRequest(behaviors=[behavior])
                go_on.wait(SOON)

        stream = ingest_pb2_grpc.IngestStub(channels[0]).StreamBehaviors
        future = stream.future(messages(), metadata=bearer(secret), timeout=SOON)
        with admin(server_of(home) or "") as beside:
            soon(lambda: beside.Status(pb.StatusRequest()).rows["behaviors"] == rows + 1)
        file.revoke(token.id, NOW)
        go_on.set()
        with pytest.raises(grpc.RpcError) as caught:
            future.result(SOON)
        assert reason_of(caught.value) == "TOKEN_REVOKED"
        for stub in stubs:
            with pytest.raises(grpc.RpcError) as caught:
                stub.Query(request, metadata=bearer(secret), timeout=SOON)
            assert reason_of(caught.value) == "TOKEN_REVOKED"
        for channel in channels:
            channel.close()
        log = live.log.read_text()
    assert secret not in log
    assert "Traceback" not in log
