"""Both clients of the API, from one description of each call.

    with Client("127.0.0.1:50051") as client:
        client.append_behaviors([Behavior("alice", "item-7", action="view")])
        print(client.query(user_id="alice", k=5).item_ids)

    async with AsyncClient("127.0.0.1:50051") as client:
        print((await client.query(user_id="alice", k=5)).item_ids)

Replies are the messages of triptych_client.pb.v1. A call is repeated with growing pauses, until its timeout,
while the server cannot be reached, as during a restart, or says that it is busy. Every write carries a
request id, so it is written once. Streams, and calls that administer the server, are made once.

Where read replicas answer, a query may come before the replica knows of the write before it. A client made
with `read_own_writes` sends the commit of its last write along with each query, and gets no older answer:

    with Client("replicas:50051", read_own_writes=True) as client:
"""

import asyncio
import itertools
import json
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack, overload

import grpc
import grpc.aio

from triptych_client.channel import (
    ADMIN_TIMEOUT,
    CONNECTIONS,
    IMPORT_TIMEOUT,
    TIMEOUT,
    Patience,
    connect,
    connect_async,
    metadata_of,
)
from triptych_client.errors import CallError, answer_of, errors_of_calls
from triptych_client.messages import (
    Behavior,
    Consent,
    Impression,
    Item,
    MapOfItems,
    QueryFields,
    Text,
    Tie,
    UserRows,
    behaviors_message,
    consents_message,
    deletions_message,
    encode_message,
    impressions_message,
    items_message,
    map_of_items,
    predict_message,
    query_message,
    stream_messages,
    texts_message,
    ties_message,
    user_export,
    user_rows,
)
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc
from triptych_client.tls import Tls, TlsFilesError

_WRITTEN = (
    ingest.WriteResponse,
    ingest.StreamResponse,
    ingest.EraseUserResponse,
    ingest.ImportFolderResponse,
)
_Arguments = ParamSpec("_Arguments")
_Channel = TypeVar("_Channel", grpc.Channel, grpc.aio.Channel)
_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")
_Result = TypeVar("_Result")
_Blocking = TypeVar("_Blocking")
_Awaited = TypeVar("_Awaited")


@dataclass(frozen=True)
class RemoteCall(Generic[_Result]):
    """A call that is described, not made yet.

    Attributes:
        method: of the stubs of a connection.
        request: its argument.
        result: makes what the client returns of the reply or, where `streams`, of the list of all replies.
        streams: whether the method replies with a stream.
        timeout: seconds that the call has, repetitions included; None for the client's timeout.
        repeats: whether the call may be made again where the server was not reached.
    """

    method: Callable[["Connection[Any]"], Callable[..., Any]]
    request: Any
    result: Callable[[Any], _Result]
    streams: bool = False
    timeout: float | None = None
    repeats: bool = True


@dataclass(frozen=True)
class RemoteStream(Generic[_Result]):
    """A call whose replies the caller iterates over, not made yet; `result` makes what each reply becomes."""

    method: Callable[["Connection[Any]"], Callable[..., Any]]
    requests: Iterable[Any]
    result: Callable[[Any], _Result]


class RemoteMethod(Generic[_Arguments, _Blocking, _Awaited]):
    """A method that both clients have: the decorated function describes the call, and the client makes it."""

    def __init__(
        self, describe: Callable[Concatenate[Any, _Arguments], RemoteCall[Any] | RemoteStream[Any]]
    ) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[_Arguments, _Blocking]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[_Arguments, _Awaited]: ...
    def __get__(self, client: "Client | AsyncClient | None", owner: type) -> Any:
        if client is None:
            return self

        @wraps(self._describe.__get__(client))
        def make(*args: _Arguments.args, **fields: _Arguments.kwargs) -> Any:
            described = self._describe(client, *args, **fields)
            return (
                client._stream(described) if isinstance(described, RemoteStream) else client._make(described)
            )

        return make


def call(
    describe: Callable[Concatenate[Any, _Arguments], RemoteCall[_Result]],
) -> RemoteMethod[_Arguments, _Result, Coroutine[Any, Any, _Result]]:
    """Decorate the description of a call: a Client returns its result, an AsyncClient a coroutine of it."""
    return RemoteMethod(describe)


def stream(
    describe: Callable[Concatenate[Any, _Arguments], RemoteStream[_Result]],
) -> RemoteMethod[_Arguments, Iterator[_Result], AsyncIterator[_Result]]:
    """Decorate the description of a stream: a Client returns an iterator, an AsyncClient an async one."""
    return RemoteMethod(describe)


def unary(
    method: "Callable[[Connection[Any]], grpc.UnaryUnaryMultiCallable[_Request, _Reply]]",
    request: _Request,
    timeout: float | None = None,
    *,
    repeats: bool = True,
) -> RemoteCall[_Reply]:
    """Describe a call with one reply, which the client returns as it is."""
    return RemoteCall(method, request, lambda reply: reply, timeout=timeout, repeats=repeats)


def upload(
    method: "Callable[[Connection[Any]], grpc.StreamUnaryMultiCallable[_Request, _Reply]]",
    requests: Iterator[_Request],
) -> RemoteCall[_Reply]:
    """Describe a call with a stream of requests and one reply; it has no timeout, and is made once."""
    return RemoteCall(method, requests, lambda reply: reply, timeout=math.inf, repeats=False)


class Connection(Generic[_Channel]):
    """One connection, and the stubs of the services over it.

    Attributes:
        channel: made at once, connected by its first call.
        retrieval, admin, ingest: stubs.
    """

    channel: _Channel

    def __init__(self, channel: _Channel) -> None:
        self.channel = channel
        self.retrieval: rpc.RetrievalStub = rpc.RetrievalStub(channel)
        self.admin: rpc.AdminStub = rpc.AdminStub(channel)
        self.ingest: ingest_rpc.IngestStub = ingest_rpc.IngestStub(channel)


class Calls(ABC, Generic[_Channel]):
    """The calls of the API, which both clients have.  Each raises CallError where the server refuses it.

    Calls go over several connections by turns: where a server runs several processes, each connection
    reaches one of them. A call is repeated over the next connection, so that it finds another process where
    its own has died.

    Attributes:
        address: as given.
        connections: in the order of their turns.
        commit: the greatest that a write of this client has returned, 0 before the first one.
    """

    def __init__(
        self,
        address: str,
        *,
        tls_ca: Path | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        token: str | None = None,
        timeout: float = TIMEOUT,
        connections: int = CONNECTIONS,
        read_own_writes: bool = False,
    ) -> None:
        """Prepare to call host:port, with TLS where a PEM root certificate is given.

        Args:
            address: host:port, [IPv6]:port or unix:/path.
            tls_ca: file of the root certificate.
            tls_cert: file of the client's own certificate, where the server asks for one.
            tls_key: file of its key.
            token: as `triptych token create` prints it, where the server asks for one.
            timeout: seconds that a call has, repetitions included.
            connections: at most so many are opened, each by its first call.
            read_own_writes: queries get no answer that is older than this client's last write, whichever
                replica they reach.

        Raises:
            ValueError: fewer than one connection, or something that is no token.
            BadAddressError, TlsFilesError, OSError: as `connect`.
        """
        if connections < 1:
            raise ValueError(f"connections is {connections}, not 1 or more")
        self.address = address
        self._metadata = metadata_of(token)
        if tls_ca is None and (tls_cert or tls_key):
            raise TlsFilesError("a client's certificate goes with the root certificate of the server's")
        tls = None if tls_ca is None else Tls(tls_ca, tls_cert, tls_key)
        self.connections: list[Connection[_Channel]] = [
            Connection(self._connect(address, tls)) for _ in range(connections)
        ]
        self._turns = itertools.count()
        self.commit = 0
        self._read_own_writes = read_own_writes
        self._noting = threading.Lock()
        self._timeout = timeout

    @property
    def channel(self) -> _Channel:
        """The first connection, for stubs of one's own; these have to send the token themselves."""
        first: _Channel = self.connections[0].channel
        return first

    def _connection(self) -> Connection[_Channel]:
        """Return the connection whose turn it is."""
        return self.connections[next(self._turns) % len(self.connections)]

    def _since(self, min_commit: int = 0) -> int:
        """Return the commit that an answer must know of at least."""
        return max(min_commit, self.commit) if self._read_own_writes else min_commit

    def _query(self, fields: QueryFields) -> pb.QueryRequest:
        request = query_message(fields)
        request.min_commit = self._since(request.min_commit)
        return request

    def _note(self, reply: Any) -> None:
        """Remember the commit of a write."""
        if isinstance(reply, _WRITTEN):
            with self._noting:
                self.commit = max(self.commit, reply.commit)

    @staticmethod
    @abstractmethod
    def _connect(address: str, tls: Tls | None) -> _Channel:
        """Return a channel."""

    @call
    def query(self, **fields: Unpack[QueryFields]) -> RemoteCall[pb.QueryResponse]:
        """Return the candidates of one subject; the fields are those of QueryRequest."""
        return unary(lambda on: on.retrieval.Query, self._query(fields))

    @call
    def query_batch(self, queries: Sequence[QueryFields]) -> RemoteCall[list[pb.QueryResponse]]:
        """Return the candidates of several subjects, in order."""
        request = pb.QueryBatchRequest(requests=[self._query(fields) for fields in queries])
        return RemoteCall(lambda on: on.retrieval.QueryBatch, request, lambda reply: list(reply.responses))

    @stream
    def query_stream(self, queries: Iterable[QueryFields]) -> RemoteStream[pb.QueryResponse | CallError]:
        """Yield for each of any number of subjects, in order, its candidates or the error of that one alone.

        Queries are drawn as fast as the connection takes them, so a reader who pauses holds the stream up.
        There is no timeout, and a stream that breaks after its first reply is not repeated.
        """
        return RemoteStream(lambda on: on.retrieval.QueryStream, map(self._query, queries), answer_of)

    @call
    def encode_user(
        self, subject: str | pb.Views, *, min_commit: int = 0
    ) -> RemoteCall[pb.EncodeUserResponse]:
        """Return the vector of a stored user, or of views sent along, and the part of each view in it."""
        request = encode_message(subject)
        request.min_commit = self._since(min_commit)
        return unary(lambda on: on.retrieval.EncodeUser, request)

    @call
    def predict(
        self,
        subject: str | pb.Views,
        item_ids: Sequence[str] = (),
        head: "pb.Head.ValueType" = pb.HEAD_UNSPECIFIED,
        *,
        positions: Sequence[int] = (),
        k: int = 0,
        min_commit: int = 0,
    ) -> RemoteCall[pb.PredictResponse]:
        """Return what a head says of a stored user, or of views sent along.

        By default clicks of the items or, without items, the k most probable categories.
        """
        request = predict_message(subject, item_ids, head, positions, k)
        request.min_commit = self._since(min_commit)
        return unary(lambda on: on.retrieval.Predict, request)

    @call
    def put_items(self, items: Iterable[Item], request_id: str = "") -> RemoteCall[ingest.WriteResponse]:
        """Write items, each in the place of the stored item of its id."""
        return unary(lambda on: on.ingest.PutItems, items_message(items, request_id))

    @call
    def delete_items(self, item_ids: Iterable[str], request_id: str = "") -> RemoteCall[ingest.WriteResponse]:
        """Empty items and make them unavailable."""
        return unary(lambda on: on.ingest.DeleteItems, deletions_message(item_ids, request_id))

    @call
    def find_items(
        self,
        item_ids: Iterable[str] = (),
        *,
        contains: str = "",
        kinds: Iterable[str] = (),
        after: str = "",
        limit: int = 0,
        brief: bool = False,
    ) -> RemoteCall[ingest.FindItemsResponse]:
        """Return items as they are stored, in the order of their ids.

        Args:
            item_ids: only these, at most 1,000, where any are named.
            contains: only items whose id or title contains this, in any case.
            kinds: only items of one of these.
            after: only items whose id comes after this one: the next page, where the reply says `more`.
            limit: at most so many, up to 1,000; 0 means 100.
            brief: without text and attributes.
        """
        request = ingest.FindItemsRequest(
            item_ids=item_ids, contains=contains, kinds=kinds, after=after, limit=limit, brief=brief
        )
        return unary(lambda on: on.ingest.FindItems, request)

    @call
    def list_attributes(self) -> RemoteCall[ingest.ListAttributesResponse]:
        """Return which kinds and attributes the available items have, with frequent values or ranges."""
        return unary(lambda on: on.ingest.ListAttributes, ingest.ListAttributesRequest())

    @call
    def append_behaviors(
        self, behaviors: Iterable[Behavior], request_id: str = ""
    ) -> RemoteCall[ingest.WriteResponse]:
        """Write behaviours."""
        return unary(lambda on: on.ingest.AppendBehaviors, behaviors_message(behaviors, request_id))

    @call
    def append_texts(self, texts: Iterable[Text], request_id: str = "") -> RemoteCall[ingest.WriteResponse]:
        """Write texts; queries use each as soon as the server has encoded it."""
        return unary(lambda on: on.ingest.AppendTexts, texts_message(texts, request_id))

    @call
    def put_friends(self, ties: Iterable[Tie], request_id: str = "") -> RemoteCall[ingest.WriteResponse]:
        """Write ties, each in the place of the stored tie between the same two users."""
        return unary(lambda on: on.ingest.PutFriends, ties_message(ties, request_id))

    @call
    def append_impressions(
        self, impressions: Iterable[Impression], request_id: str = ""
    ) -> RemoteCall[ingest.WriteResponse]:
        """Write what was shown to people, and what of it they clicked; a click may come later."""
        return unary(lambda on: on.ingest.AppendImpressions, impressions_message(impressions, request_id))

    @call
    def set_consent(
        self, consents: Iterable[Consent], request_id: str = ""
    ) -> RemoteCall[ingest.WriteResponse]:
        """Write what people allow to be done with their views; the next query follows it."""
        return unary(lambda on: on.ingest.SetConsent, consents_message(consents, request_id))

    @call
    def apply_log(
        self,
        log: str,
        after: ingest.LogPosition | None = None,
        through: ingest.LogPosition | None = None,
        entries: Iterable[ingest.LogEntry] = (),
    ) -> RemoteCall[ingest.ApplyLogResponse]:
        """Write events of a log where the server stands at `after`, and let it stand at `through`.

        Without `through` nothing is written. The reply says where the server stands: at `through`, if this
        call wrote the entries, or one that was made before.
        """
        request = ingest.ApplyLogRequest(log=log, after=after, through=through, entries=entries)
        return unary(lambda on: on.ingest.ApplyLog, request)

    @call
    def stream_items(
        self, batches: Iterable[Iterable[Item]], request_id: str = ""
    ) -> RemoteCall[ingest.StreamResponse]:
        """Write batches of items, each item in the place of the stored one of its id.

        The stream has no timeout and is made once. After an error give the same batches again under the same
        request_id: those that were written are not written twice.
        """
        requests = stream_messages(items_message, batches, request_id)
        return upload(lambda on: on.ingest.StreamItems, requests)

    @call
    def stream_deletions(
        self, batches: Iterable[Iterable[str]], request_id: str = ""
    ) -> RemoteCall[ingest.StreamResponse]:
        """Empty items and make them unavailable, by batches of their ids.

        Made once, without a timeout, as `stream_items`.
        """
        requests = stream_messages(deletions_message, batches, request_id)
        return upload(lambda on: on.ingest.StreamDeletions, requests)

    @call
    def stream_behaviors(
        self, batches: Iterable[Iterable[Behavior]], request_id: str = ""
    ) -> RemoteCall[ingest.StreamResponse]:
        """Write batches of behaviours.

        Made once, without a timeout, as `stream_items`.
        """
        requests = stream_messages(behaviors_message, batches, request_id)
        return upload(lambda on: on.ingest.StreamBehaviors, requests)

    @call
    def stream_texts(
        self, batches: Iterable[Iterable[Text]], request_id: str = ""
    ) -> RemoteCall[ingest.StreamResponse]:
        """Write batches of texts; queries use each as soon as the server has encoded it.

        Made once, without a timeout, as `stream_items`.
        """
        requests = stream_messages(texts_message, batches, request_id)
        return upload(lambda on: on.ingest.StreamTexts, requests)

    @call
    def stream_friends(
        self, batches: Iterable[Iterable[Tie]], request_id: str = ""
    ) -> RemoteCall[ingest.StreamResponse]:
        """Write batches of ties, each tie in the place of the stored one between the same two users.

        Made once, without a timeout, as `stream_items`.
        """
        requests = stream_messages(ties_message, batches, request_id)
        return upload(lambda on: on.ingest.StreamFriends, requests)

    @call
    def stream_impressions(
        self, batches: Iterable[Iterable[Impression]], request_id: str = ""
    ) -> RemoteCall[ingest.StreamResponse]:
        """Write batches of what was shown to people.

        Made once, without a timeout, as `stream_items`.
        """
        requests = stream_messages(impressions_message, batches, request_id)
        return upload(lambda on: on.ingest.StreamImpressions, requests)

    @call
    def erase_user(self, user_id: str) -> RemoteCall[ingest.EraseUserResponse]:
        """Erase all that is stored about a user; return what was removed, by kind."""
        return unary(lambda on: on.ingest.EraseUser, ingest.EraseUserRequest(user_id=user_id))

    @call
    def export_user(self, user_id: str) -> RemoteCall[dict[str, list[Mapping[str, object]]]]:
        """Return all that is stored about a user, rows by table."""
        request = ingest.ExportUserRequest(user_id=user_id)
        return RemoteCall(lambda on: on.ingest.ExportUser, request, user_export, streams=True)

    @call
    def user_rows(
        self, user_id: str, *, limit: int = 100, table: str = "", offset: int = 0
    ) -> RemoteCall[dict[str, UserRows]]:
        """Return a part of what is stored about a user, by table, for people to look at.

        Args:
            user_id: of the user.
            limit: rows of each table, 1 to 1,000.
            table: only this one; "" for all that have rows.
            offset: rows of it that are left out: those of the pages before.
        """
        request = ingest.ExportUserRequest(user_id=user_id, limit=limit, table=table, offset=offset)
        return RemoteCall(lambda on: on.ingest.ExportUser, request, user_rows, streams=True)

    @call
    def import_folder(
        self,
        path: Path,
        file_format: str = "auto",
        *,
        strict: bool = False,
        encoding: str = "utf-8",
        times: str = "auto",
        create_items: bool = False,
        mask: Sequence[str] = (),
    ) -> RemoteCall[ingest.ImportFolderResponse]:
        """Import a folder of the server's own machine; return a report by table."""
        request = ingest.ImportFolderRequest(
            path=str(path.absolute()),
            format=file_format,
            strict=strict,
            encoding=encoding,
            times=times,
            create_items=create_items,
            mask=mask,
        )
        return unary(lambda on: on.ingest.ImportFolder, request, IMPORT_TIMEOUT)

    @call
    def status(self) -> RemoteCall[pb.StatusResponse]:
        """Return which index and model serve, how the background workers do, and how much is stored."""
        return unary(lambda on: on.admin.Status, pb.StatusRequest())

    @call
    def get_figures(self, minutes: int = 0) -> RemoteCall[pb.GetFiguresResponse]:
        """Return the last minutes, at most and by default 60: calls, latency, what waits, and alerts."""
        return unary(lambda on: on.admin.GetFigures, pb.GetFiguresRequest(minutes=minutes))

    @call
    def query_index(self, index_id: str, /, **fields: Unpack[QueryFields]) -> RemoteCall[pb.QueryResponse]:
        """Return the candidates of one subject from an index that need not serve; fields as of `query`."""
        request = pb.QueryIndexRequest(index_id=index_id, query=query_message(fields))
        return unary(lambda on: on.admin.QueryIndex, request, ADMIN_TIMEOUT)

    @call
    def read_map(self, colour_by: str = "", limit: int = 0) -> RemoteCall[MapOfItems]:
        """Return the items of the index that serves as points in two dimensions.

        Args:
            colour_by: an attribute; "" for the kind.
            limit: points, at most; 0 means 100,000.
        """
        request = pb.ReadMapRequest(colour_by=colour_by, limit=limit)
        return RemoteCall(lambda on: on.admin.ReadMap, request, map_of_items, streams=True)

    @call
    def create_export(self) -> RemoteCall[str]:
        """Write an immutable copy of the store below exports/ of the home; return its id.  Made once."""
        request = pb.CreateExportRequest()
        return RemoteCall(
            lambda on: on.admin.CreateExport,
            request,
            lambda reply: str(reply.export_id),
            timeout=ADMIN_TIMEOUT,
            repeats=False,
        )

    @call
    def list_indexes(self, limit: int = 0) -> RemoteCall[list[pb.IndexSummary]]:
        """Return the newest indexes of the home, newest first; 50 where no limit is named, up to 1,000."""
        request = pb.ListIndexesRequest(limit=limit)
        return RemoteCall(lambda on: on.admin.ListIndexes, request, lambda reply: list(reply.indexes))

    @call
    def publish_index(self, index_id: str) -> RemoteCall[pb.PublishIndexResponse]:
        """Make an index of the home the one that serves.  Made once."""
        request = pb.PublishIndexRequest(index_id=index_id)
        return unary(lambda on: on.admin.PublishIndex, request, ADMIN_TIMEOUT, repeats=False)

    @call
    def rollback_index(self) -> RemoteCall[pb.PublishIndexResponse]:
        """Make the newest index that is older than the one that serves the one that serves.  Made once."""
        request = pb.RollbackIndexRequest()
        return unary(lambda on: on.admin.RollbackIndex, request, ADMIN_TIMEOUT, repeats=False)

    @call
    def list_models(self, limit: int = 0) -> RemoteCall[list[pb.ModelSummary]]:
        """Return the newest models of the home, newest first; 50 where no limit is named, up to 1,000."""
        request = pb.ListModelsRequest(limit=limit)
        return RemoteCall(lambda on: on.admin.ListModels, request, lambda reply: list(reply.models))

    @call
    def list_reports(self, limit: int = 0) -> RemoteCall[list[pb.ReportSummary]]:
        """Return the newest evaluation reports, newest first; 50 where no limit is named, up to 1,000."""
        request = pb.ListReportsRequest(limit=limit)
        return RemoteCall(lambda on: on.admin.ListReports, request, lambda reply: list(reply.reports))

    @call
    def get_report(self, report_id: str) -> RemoteCall[dict[str, Any]]:
        """Return an evaluation report, as `triptych evaluate --json` writes it."""
        request = pb.GetReportRequest(report_id=report_id)
        return RemoteCall(lambda on: on.admin.GetReport, request, lambda reply: json.loads(reply.json))


class Client(Calls[grpc.Channel]):
    """Makes calls and waits for them; threads may share one.  `with` closes its connections."""

    _connect = staticmethod(connect)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for connection in self.connections:
            connection.channel.close()

    def _make(self, described: RemoteCall[_Result]) -> _Result:
        patience = Patience(described.timeout or self._timeout, repeats=described.repeats)
        while True:
            try:
                with errors_of_calls():
                    method = described.method(self._connection())
                    reply = method(described.request, timeout=patience.timeout, metadata=self._metadata)
                    self._note(reply)
                    return described.result(list(reply) if described.streams else reply)
            except CallError as error:
                time.sleep(patience.pause(error))

    def _stream(self, described: RemoteStream[_Result]) -> Iterator[_Result]:
        with errors_of_calls():
            for reply in described.method(self._connection())(described.requests, metadata=self._metadata):
                yield described.result(reply)


class AsyncClient(Calls[grpc.aio.Channel]):
    """Makes calls that an event loop awaits, or iterates over with `async for`; otherwise as Client."""

    _connect = staticmethod(connect_async)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        for connection in self.connections:
            await connection.channel.close(None)

    async def _make(self, described: RemoteCall[_Result]) -> _Result:
        patience = Patience(described.timeout or self._timeout, repeats=described.repeats)
        while True:
            try:
                with errors_of_calls():
                    method = described.method(self._connection())
                    reply = method(described.request, timeout=patience.timeout, metadata=self._metadata)
                    answer = [part async for part in reply] if described.streams else await reply
                    self._note(answer)
                    return described.result(answer)
            except CallError as error:
                await asyncio.sleep(patience.pause(error))

    async def _stream(self, described: RemoteStream[_Result]) -> AsyncIterator[_Result]:
        with errors_of_calls():
            async for reply in described.method(self._connection())(
                described.requests, metadata=self._metadata
            ):
                yield described.result(reply)
