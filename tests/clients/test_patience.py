"""What clients repeat while a server restarts or is busy, and when they give up."""

import asyncio
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from server.cancellation import NoTurnError
from server.live.writer import StoppingError
from server.status import status_of_errors
from store.home import Home
from tests.live_server import copy_home, server
from triptych_client import AsyncClient, Behavior, CallError, Client
from triptych_client import channel as client_channel
from triptych_client.channel import Patience
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

USER = "u00001"


class Refusing(rpc.RetrievalServicer):
    """Refuses so many calls with an error, then answers."""

    def __init__(self, errors: list[Exception]) -> None:
        self.errors = errors
        self.asked = 0

    def Query(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked += 1
        with status_of_errors(context):
            if self.errors:
                raise self.errors.pop()
        return pb.QueryResponse(item_ids=["i"])


@contextmanager
def refusing(errors: list[Exception]) -> Iterator[tuple[Refusing, str]]:
    servicer, bare = Refusing(errors), grpc.server(ThreadPoolExecutor(2))
    rpc.add_RetrievalServicer_to_server(servicer, bare)
    port = bare.add_insecure_port("127.0.0.1:0")
    bare.start()
    try:
        yield servicer, f"127.0.0.1:{port}"
    finally:
        bare.stop(None).wait()


def error(code: grpc.StatusCode, message: str = "", after: float | None = None) -> CallError:
    return CallError(code, "", message, {}, after)


def test_clients_go_on_through_a_restart_of_the_server(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home) as live:
        port = live.address.rpartition(":")[2]
        item = live.query(user_id=USER).item_ids[0]
        with Client(live.address, timeout=60) as client, ThreadPoolExecutor(3) as pool:
            assert client.query(user_id=USER).item_ids
            live.process.terminate()
            assert live.process.wait(30) == 0
            query = pool.submit(client.query, user_id=USER)
            write = pool.submit(client.append_behaviors, [Behavior("ann", item)])
            aio = pool.submit(asyncio.run, _ask(live.address))
            time.sleep(2.5)  # longer than gRPC's own five attempts take
            assert not query.done()
            with server(home, "--port", port):
                assert query.result(60).item_ids
                assert aio.result(60).item_ids
                assert write.result(60).inserted == 1
                assert len(client.export_user("ann")["behaviors"]) == 1


async def _ask(address: str) -> pb.QueryResponse:
    async with AsyncClient(address, timeout=60) as client:
        return await client.query(user_id=USER)


def test_a_client_gives_up_when_its_time_is_over_and_says_why() -> None:
    began = time.monotonic()
    with Client("127.0.0.1:9", timeout=2.0) as client, pytest.raises(CallError) as caught:
        client.query(user_id=USER)
    assert time.monotonic() - began >= 1.0
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert "is `triptych serve` running there?" in str(caught.value)

    async def ask() -> None:
        async with AsyncClient("127.0.0.1:9", timeout=0.3) as aio:
            await aio.query(user_id=USER)

    with pytest.raises(CallError, match="UNAVAILABLE"):
        asyncio.run(ask())


def test_a_busy_or_stopping_server_is_asked_again() -> None:
    errors: list[Exception] = [NoTurnError(60.0), *(StoppingError() for _ in range(7))]
    with refusing(errors) as (servicer, address), Client(address, timeout=60) as client:
        assert client.query(user_id=USER).item_ids == ["i"]
        assert servicer.asked == 9


def test_what_would_fail_again_is_not_repeated() -> None:
    with refusing([ZeroDivisionError()]) as (servicer, address), Client(address, timeout=60) as client:
        with pytest.raises(CallError, match="INTERNAL"):
            client.query(user_id=USER)
        assert servicer.asked == 1


def test_pauses_grow_to_a_second_and_never_outlast_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_channel.random, "uniform", lambda _, most: most)
    patience, gone = Patience(60.0), error(grpc.StatusCode.UNAVAILABLE)
    assert [patience.pause(gone) for _ in range(7)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert patience.pause(error(grpc.StatusCode.RESOURCE_EXHAUSTED, after=7.0)) == 7.0
    assert patience.pause(error(grpc.StatusCode.CANCELLED)) == 1.0  # it reached a server that was ending
    for final in (
        CallError(grpc.StatusCode.CANCELLED, "ABANDONED", "nobody waits", {}),
        error(grpc.StatusCode.RESOURCE_EXHAUSTED),
        error(grpc.StatusCode.INTERNAL),
        error(grpc.StatusCode.DEADLINE_EXCEEDED),
        error(grpc.StatusCode.UNAVAILABLE, "Tls handshake failed: CERTIFICATE_VERIFY_FAILED"),
        error(grpc.StatusCode.RESOURCE_EXHAUSTED, after=70.0),
    ):
        with pytest.raises(CallError) as caught:
            patience.pause(final)
        assert caught.value is final
    with pytest.raises(CallError):
        Patience(0.01).pause(gone)


def test_what_may_do_harm_twice_is_made_once() -> None:
    with pytest.raises(CallError):
        Patience(60.0, repeats=False).pause(error(grpc.StatusCode.UNAVAILABLE))
    assert Patience(math.inf).timeout is None
    assert 59.0 < (Patience(60.0).timeout or 0.0) <= 60.0
    with Client("127.0.0.1:9", timeout=60) as client:
        for call in (
            client.rollback_index,
            client.create_export,
            lambda: client.publish_index("i"),
            lambda: client.stream_deletions([["i"]]),
        ):
            began = time.monotonic()
            with pytest.raises(CallError, match="UNAVAILABLE"):
                call()
            assert time.monotonic() - began < 20


class Noting(ingest_rpc.IngestServicer):
    """Notes the requests of streams."""

    def __init__(self) -> None:
        self.requests: list[ingest.AppendBehaviorsRequest] = []

    def StreamBehaviors(self, requests: Any, context: Any) -> ingest.StreamResponse:  # noqa: N802
        found = list(requests)
        self.requests.extend(found)
        return ingest.StreamResponse(requests=len(found))


def test_batches_of_a_stream_have_ids_of_their_own_that_can_be_given_again() -> None:
    servicer, bare = Noting(), grpc.server(ThreadPoolExecutor(2))
    ingest_rpc.add_IngestServicer_to_server(servicer, bare)
    address = f"127.0.0.1:{bare.add_insecure_port('127.0.0.1:0')}"
    bare.start()
    batches = [[Behavior("ann", "i1"), Behavior("ann", "i2")], [Behavior("bob", "i1")]]

    async def stream() -> int:
        async with AsyncClient(address) as client:
            return (await client.stream_behaviors(iter(batches))).requests

    try:
        with Client(address) as client:
            assert client.stream_behaviors(batches, request_id="night").requests == 2
        assert asyncio.run(stream()) == 2
    finally:
        bare.stop(None).wait()
    ids = [request.request_id for request in servicer.requests]
    assert ids[:2] == ["night-0", "night-1"]
    assert len(set(ids)) == 4
    assert [len(request.behaviors) for request in servicer.requests] == [2, 1, 2, 1]
