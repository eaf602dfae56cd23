"""Both clients have the same methods, from one description each: every call of the API."""

import asyncio
import inspect
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from triptych_client import AsyncClient, Behavior, Client, Consent, Impression, Item, QueryFields, Text, Tie
from triptych_client.client import Calls, RemoteMethod
from triptych_client.pb.v1 import ingest_pb2, triptych_pb2
from triptych_client.pb.v1 import triptych_pb2 as pb


def remote_methods() -> dict[str, RemoteMethod[Any, Any, Any]]:
    return {name: method for name, method in vars(Calls).items() if isinstance(method, RemoteMethod)}


def test_every_call_of_the_api_is_a_method_of_both_clients() -> None:
    files = (triptych_pb2.DESCRIPTOR, ingest_pb2.DESCRIPTOR)
    services = [service for file in files for service in file.services_by_name.values()]
    calls = {method.name for service in services for method in service.methods}
    names = {name.title().replace("_", "") for name in remote_methods()}
    assert names == calls | {"UserRows"}  # user_rows calls ExportUser for a part
    for client in (Client, AsyncClient):
        assert not {name for name in vars(client) if name in remote_methods()}  # nothing is written twice


def test_methods_keep_their_signature_and_docstring() -> None:
    with Client("127.0.0.1:9") as client:
        for name, described in remote_methods().items():
            method = getattr(client, name)
            assert (method.__name__, method.__doc__) == (name, described.__doc__)
            assert method.__doc__
            assert "self" not in inspect.signature(method).parameters
        assert list(inspect.signature(client.append_texts).parameters) == ["texts", "request_id"]
        with pytest.raises(TypeError, match="unexpected keyword argument 'ids'"):
            client.delete_items(ids=["i"])  # type: ignore[call-arg]
    assert Client.query.__doc__ == AsyncClient.query.__doc__ == client.query.__doc__


def test_what_is_returned_is_for_threads_or_for_an_event_loop() -> None:
    async def kinds() -> None:
        async with AsyncClient("127.0.0.1:9") as client:
            assert isinstance(client.channel, grpc.aio.Channel)
            assert isinstance(client.query_stream([]), AsyncIterator)
            for coroutine in (client.query(user_id="u"), client.export_user("u"), client.status()):
                assert inspect.iscoroutine(coroutine)
                coroutine.close()

    with Client("127.0.0.1:9") as client:
        assert isinstance(client.channel, grpc.Channel)
        assert isinstance(client.query_stream([]), Iterator)
    asyncio.run(kinds())


def test_calls_go_over_the_connections_by_turns() -> None:
    with Client("127.0.0.1:9", connections=3) as client:
        turns = [client._connection() for _ in range(6)]
        assert turns == client.connections * 2
        assert client.channel is client.connections[0].channel
    with pytest.raises(ValueError, match="connections is 0, not 1 or more"):
        Client("127.0.0.1:9", connections=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (QueryFields.__annotations__, pb.QueryRequest),
        (Item.__annotations__, ingest_pb2.ItemRow),
        (Behavior.__annotations__, ingest_pb2.BehaviorRow),
        (Text.__annotations__, ingest_pb2.TextRow),
        (Tie.__annotations__, ingest_pb2.FriendRow),
        (Impression.__annotations__, ingest_pb2.ImpressionRow),
        (Consent.__annotations__, ingest_pb2.ConsentRow),
    ],
)
def test_what_a_message_of_the_api_may_say_the_client_can_say(fields: dict[str, Any], message: Any) -> None:
    assert set(fields) == set(message.DESCRIPTOR.fields_by_name)


def test_server_client_goes_on_working_and_names_the_new_import() -> None:
    code = "from server.client import AsyncClient, Client, Item; print(Client.__module__)"
    warned = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True
    )
    assert warned.stdout == "triptych_client.client\n"
    assert "<string>:1: DeprecationWarning" in warned.stderr  # the line of whoever imports it
    assert "from triptych_client import Client" in warned.stderr


def test_nothing_of_ours_imports_the_old_place() -> None:
    root = Path(__file__).parents[2]
    files = [file for folder in ("server", "scripts", "clients") for file in (root / folder).rglob("*.py")]
    old = ("from server.client", "import server.client")
    assert len(files) > 100
    assert not [str(file) for file in files if any(words in file.read_text("utf-8") for words in old)]
