"""Both clients have the same methods, from one description each: every call of the API but those below."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from server.client import AsyncClient, Client
from server.client.client import Calls, RemoteMethod
from triptych_client.pb.v1 import ingest_pb2, triptych_pb2

WITHOUT_METHOD = {  # commands call the first three; a stream of writes is many calls of a write
    *("CreateExport", "PublishIndex", "RollbackIndex"),
    *("StreamItems", "StreamDeletions", "StreamBehaviors", "StreamTexts", "StreamFriends"),
    "StreamImpressions",
}


def remote_methods() -> dict[str, RemoteMethod[Any, Any, Any]]:
    return {name: method for name, method in vars(Calls).items() if isinstance(method, RemoteMethod)}


def test_every_call_of_the_api_is_a_method_of_both_clients() -> None:
    files = (triptych_pb2.DESCRIPTOR, ingest_pb2.DESCRIPTOR)
    services = [service for file in files for service in file.services_by_name.values()]
    calls = {method.name for service in services for method in service.methods}
    names = {name.title().replace("_", "") for name in remote_methods()}
    assert names == calls - WITHOUT_METHOD
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
