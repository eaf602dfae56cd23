"""A typed client of a Triptych server, to be called from threads or from asyncio.

    with Client("127.0.0.1:50051") as client:
        client.append_behaviors([Behavior("alice", "item-7", action="view")])
        print(client.query(user_id="alice", k=5).item_ids)

Replies are the messages of proto/triptych/v1. A call is repeated with back-off, until its timeout, while the
server cannot be reached, as during a restart, or says that it is busy. Every write carries a request id, so
it is written once.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc

from server.client.aio import AsyncClient
from server.client.channel import IMPORT_TIMEOUT, TIMEOUT, Patience, connect
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

__all__ = ["AsyncClient", "Behavior", "CallError", "Client", "Item", "QueryFields", "Text", "Tie"]

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


class Client:
    """Calls a server; threads may share it.  Every method raises CallError where the server refuses.

    `timeout`, in seconds, holds for a call with all its repetitions; writes without a `request_id` get one.
    """

    def __init__(self, address: str, *, tls_ca: Path | None = None, timeout: float = TIMEOUT) -> None:
        """Take host:port, and a PEM root certificate where the server has TLS."""
        self.address = address
        self.channel = connect(address, tls_ca)
        self._timeout = timeout
        self._retrieval = rpc.RetrievalStub(self.channel)
        self._admin = rpc.AdminStub(self.channel)
        self._ingest = ingest_rpc.IngestStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.channel.close()

    def query(self, **fields: Unpack[QueryFields]) -> pb.QueryResponse:
        """Return the candidates of one subject; the fields are those of QueryRequest."""
        return self._call(self._retrieval.Query, query_message(fields))

    def query_batch(self, queries: Sequence[QueryFields]) -> list[pb.QueryResponse]:
        """Return the candidates of several subjects, in order."""
        request = pb.QueryBatchRequest(requests=[query_message(fields) for fields in queries])
        return list(self._call(self._retrieval.QueryBatch, request).responses)

    def query_stream(self, queries: Iterable[QueryFields]) -> Iterator[pb.QueryResponse | CallError]:
        """Yield for each of any number of subjects, in order, its candidates or the error of that one alone.

        Queries are taken as the connection takes them, so a reader who pauses holds the stream up. There is
        no timeout, and a stream that breaks after its first reply is not repeated.
        """
        with errors_of_calls():
            for reply in self._retrieval.QueryStream(map(query_message, queries)):
                yield answer_of(reply)

    def encode_user(self, subject: str | pb.Views) -> pb.EncodeUserResponse:
        """Return the vector, and the part of each view in it, of a stored user or of views sent along."""
        return self._call(self._retrieval.EncodeUser, person_message(subject))

    def put_items(self, items: Iterable[Item], request_id: str = "") -> ingest.WriteResponse:
        """Return what became of some items; each replaces what was known of it."""
        return self._call(self._ingest.PutItems, items_message(items, request_id))

    def delete_items(self, item_ids: Iterable[str], request_id: str = "") -> ingest.WriteResponse:
        """Return what became of items that are to be emptied and made unavailable."""
        return self._call(self._ingest.DeleteItems, deletions_message(item_ids, request_id))

    def append_behaviors(self, behaviors: Iterable[Behavior], request_id: str = "") -> ingest.WriteResponse:
        """Return what became of some behaviours."""
        return self._call(self._ingest.AppendBehaviors, behaviors_message(behaviors, request_id))

    def append_texts(self, texts: Iterable[Text], request_id: str = "") -> ingest.WriteResponse:
        """Return what became of some texts."""
        return self._call(self._ingest.AppendTexts, texts_message(texts, request_id))

    def put_friends(self, ties: Iterable[Tie], request_id: str = "") -> ingest.WriteResponse:
        """Return what became of some ties."""
        return self._call(self._ingest.PutFriends, ties_message(ties, request_id))

    def erase_user(self, user_id: str) -> ingest.EraseUserResponse:
        """Return what was removed of a person."""
        return self._call(self._ingest.EraseUser, ingest.EraseUserRequest(user_id=user_id))

    def export_user(self, user_id: str) -> dict[str, list[Mapping[str, object]]]:
        """Return all that is stored about a person, rows by table."""
        request = ingest.ExportUserRequest(user_id=user_id)
        return _repeated(
            lambda left: user_export(self._ingest.ExportUser(request, timeout=left)), self._timeout
        )

    def import_folder(
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
        return self._call(self._ingest.ImportFolder, request, IMPORT_TIMEOUT)

    def status(self) -> pb.StatusResponse:
        """Return what serves, and how much is stored."""
        return self._call(self._admin.Status, pb.StatusRequest())

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_Request, _Reply]",
        request: _Request,
        timeout: float | None = None,
    ) -> _Reply:
        return _repeated(lambda left: method(request, timeout=left), timeout or self._timeout)


def _repeated(call: Callable[[float], _Reply], seconds: float) -> _Reply:
    """Return what a call, which takes a timeout, returns within some seconds, repeated where that helps."""
    patience = Patience(seconds)
    while True:
        try:
            with errors_of_calls():
                return call(patience.left)
        except CallError as error:
            time.sleep(patience.pause(error))
