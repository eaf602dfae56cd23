"""The client for an event loop; see server/client/client.py."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc.aio

from server.client.channel import IMPORT_TIMEOUT, TIMEOUT, Patience, connect_async
from server.client.errors import CallError, answer_of, errors_of_calls
from server.client.messages import (
    Behavior,
    QueryFields,
    Text,
    Tie,
    behaviors_message,
    deletions_message,
    items_message,
    person_message,
    query_message,
    texts_message,
    ties_message,
    user_export,
)
from server.pb.triptych.v1 import ingest_pb2 as ingest
from server.pb.triptych.v1 import ingest_pb2_grpc as ingest_rpc
from server.pb.triptych.v1 import triptych_pb2 as pb
from server.pb.triptych.v1 import triptych_pb2_grpc as rpc
from store.records import Item

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


class AsyncClient:
    """As Client, from an event loop: `async with AsyncClient(address) as client: await client.query(…)`."""

    def __init__(self, address: str, *, tls_ca: Path | None = None, timeout: float = TIMEOUT) -> None:
        """Take host:port, and a PEM root certificate where the server has TLS."""
        self.address = address
        self.channel = connect_async(address, tls_ca)
        self._timeout = timeout
        self._retrieval = rpc.RetrievalStub(self.channel)
        self._admin = rpc.AdminStub(self.channel)
        self._ingest = ingest_rpc.IngestStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self.channel.close(None)

    async def query(self, **fields: Unpack[QueryFields]) -> pb.QueryResponse:
        """Return the candidates of one subject; the fields are those of QueryRequest."""
        return await self._call(self._retrieval.Query, query_message(fields))

    async def query_batch(self, queries: Sequence[QueryFields]) -> list[pb.QueryResponse]:
        """Return the candidates of several subjects, in order."""
        request = pb.QueryBatchRequest(requests=[query_message(fields) for fields in queries])
        return list((await self._call(self._retrieval.QueryBatch, request)).responses)

    async def query_stream(
        self, queries: Iterable[QueryFields]
    ) -> AsyncIterator[pb.QueryResponse | CallError]:
        """Yield for each subject, in order, its candidates or the error of that one alone; as Client's."""
        with errors_of_calls():
            async for reply in self._retrieval.QueryStream(map(query_message, queries)):
                yield answer_of(reply)

    async def encode_user(self, subject: str | pb.Views) -> pb.EncodeUserResponse:
        """Return the vector, and the part of each view in it, of a stored user or of views sent along."""
        return await self._call(self._retrieval.EncodeUser, person_message(subject))

    async def put_items(self, items: Iterable[Item], request_id: str = "") -> ingest.WriteResponse:
        """Return what became of some items; each replaces what was known of it."""
        return await self._call(self._ingest.PutItems, items_message(items, request_id))

    async def delete_items(self, item_ids: Iterable[str], request_id: str = "") -> ingest.WriteResponse:
        """Return what became of items that are to be emptied and made unavailable."""
        return await self._call(self._ingest.DeleteItems, deletions_message(item_ids, request_id))

    async def append_behaviors(
        self, behaviors: Iterable[Behavior], request_id: str = ""
    ) -> ingest.WriteResponse:
        """Return what became of some behaviours."""
        return await self._call(self._ingest.AppendBehaviors, behaviors_message(behaviors, request_id))

    async def append_texts(self, texts: Iterable[Text], request_id: str = "") -> ingest.WriteResponse:
        """Return what became of some texts."""
        return await self._call(self._ingest.AppendTexts, texts_message(texts, request_id))

    async def put_friends(self, ties: Iterable[Tie], request_id: str = "") -> ingest.WriteResponse:
        """Return what became of some ties."""
        return await self._call(self._ingest.PutFriends, ties_message(ties, request_id))

    async def erase_user(self, user_id: str) -> ingest.EraseUserResponse:
        """Return what was removed of a person."""
        return await self._call(self._ingest.EraseUser, ingest.EraseUserRequest(user_id=user_id))

    async def export_user(self, user_id: str) -> dict[str, list[Mapping[str, object]]]:
        """Return all that is stored about a person, rows by table."""
        request = ingest.ExportUserRequest(user_id=user_id)

        async def collect(left: float) -> dict[str, list[Mapping[str, object]]]:
            return user_export([part async for part in self._ingest.ExportUser(request, timeout=left)])

        return await _repeated(collect, self._timeout)

    async def import_folder(
        self,
        path: Path,
        file_format: str = "auto",
        *,
        strict: bool = False,
        encoding: str = "utf-8",
        times: str = "auto",
        create_items: bool = False,
    ) -> ingest.ImportFolderResponse:
        """Import a folder of the server's own machine; return what became of its tables."""
        request = ingest.ImportFolderRequest(
            path=str(path.absolute()),
            format=file_format,
            strict=strict,
            encoding=encoding,
            times=times,
            create_items=create_items,
        )
        return await self._call(self._ingest.ImportFolder, request, IMPORT_TIMEOUT)

    async def status(self) -> pb.StatusResponse:
        """Return what serves, and how much is stored."""
        return await self._call(self._admin.Status, pb.StatusRequest())

    async def _call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Reply]",
        request: _Request,
        timeout: float | None = None,
    ) -> _Reply:
        return await _repeated(lambda left: method(request, timeout=left), timeout or self._timeout)


async def _repeated(call: Callable[[float], Awaitable[_Reply]], seconds: float) -> _Reply:
    """Return what a call, which takes a timeout, returns within some seconds, repeated where that helps."""
    patience = Patience(seconds)
    while True:
        try:
            with errors_of_calls():
                return await call(patience.left)
        except CallError as error:
            await asyncio.sleep(patience.pause(error))
