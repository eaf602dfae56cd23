"""A room for each kind of call: threads of its own, so that no kind takes those of another."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn, ParamSpec, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from server import cancellation as calls
from server.cancellation import TooManyCallsError, TooManyStreamsError
from server.status import status_of_errors
from server.wire.bounds import InvalidRequestError

_INGEST = "triptych.v1.Ingest"
_KIND_OF_SERVICE = {
    "triptych.v1.Retrieval": "queries",
    _INGEST: "writes",
    "triptych.v1.Admin": "admin calls",
    health.SERVICE_NAME: "health checks",
    reflection.SERVICE_NAME: "reflection streams",
}
_KIND_OF_METHOD = {  # where it is not that of the service
    "triptych.v1.Retrieval/QueryStream": "query streams",
    f"{_INGEST}/ExportUser": "exports of people",
    f"{_INGEST}/EraseUser": "imports and erasures",
    f"{_INGEST}/ImportFolder": "imports and erasures",
    "triptych.v1.Admin/Status": "status calls",
    f"{health.SERVICE_NAME}/Watch": "health watches",
}
_LONGEST_SECONDS = 600.0  # of calls that a client can draw out by reading slowly or saying nothing

_Result = TypeVar("_Result")
_Parameters = ParamSpec("_Parameters")
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class CallPool(ThreadPoolExecutor):
    """The threads of one kind of call, and the calls that run on them or wait for one.

    Attributes:
        kind: what the calls are, in words.
        most: calls that may run and wait.
    """

    def __init__(self, kind: str, threads: int, waiting: int, longest: float | None = None) -> None:
        """Take how many calls run at once, how many may wait, and the seconds after which one is ended."""
        super().__init__(threads, thread_name_prefix=kind)
        self.kind = kind
        self.most = threads + waiting
        self._may_wait = waiting > 0
        self._longest = longest
        self._inside = 0
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
        """Whether no more calls may come in."""
        return self._inside >= self.most

    def submit(
        self, fn: Callable[_Parameters, _Result], /, *args: _Parameters.args, **kwargs: _Parameters.kwargs
    ) -> "Future[_Result]":
        """Run a call on a thread of this room; it is inside until it has ended."""
        self._enter()
        result = super().submit(fn, *args, **kwargs)
        result.add_done_callback(lambda _: self._leave())
        return result

    def housing(self, handler: "_Handler") -> "_Handler":
        """Return the handler of a method that does what the given one does, on the threads of this room."""
        shape = _shape(handler)
        behavior = getattr(handler, shape)
        # Of a call that goes on without its thread, as gRPC's own health service does.
        leaves_its_thread = getattr(behavior, "experimental_non_blocking", False)

        def call(request: Any, context: grpc.ServicerContext, *send: Any) -> Any:
            calls.begin(context)
            if self._longest is not None:
                self._end_in_time(context, self._longest)
            if leaves_its_thread:
                self._enter()
                if not context.add_callback(self._leave):
                    self._leave()
            if handler.request_streaming:
                return behavior(_messages(request), context, *send)
            if isinstance(request, InvalidRequestError):
                with status_of_errors(context):
                    raise request
            return behavior(request, context, *send)

        call.experimental_thread_pool = self  # type: ignore[attr-defined]  # where gRPC looks for it
        call.experimental_non_blocking = leaves_its_thread  # type: ignore[attr-defined]
        return _handler(shape, call, handler)

    def refusing(self, handler: "_Handler") -> "_Handler":
        """Return a handler that refuses calls because this room is full, without reading what they ask."""

        def refuse(_: Iterator[Any], context: grpc.ServicerContext) -> NoReturn:
            with status_of_errors(context):
                raise (TooManyCallsError if self._may_wait else TooManyStreamsError)(self.kind, self.most)
            raise AssertionError  # `status_of_errors` has raised

        return _handler("stream_stream", refuse, handler)

    def _end_in_time(self, context: grpc.ServicerContext, seconds: float) -> None:
        timer = threading.Timer(seconds, context.cancel)
        timer.daemon = True
        timer.start()
        if not context.add_callback(timer.cancel):
            timer.cancel()

    def _enter(self) -> None:
        with self._lock:
            self._inside += 1

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1


class Admission(grpc.ServerInterceptor):  # type: ignore[type-arg]  # which it takes in its stubs alone
    """The rooms of a server: each call goes into that of its kind, or is refused at once where it is full.

    gRPC asks for the handlers of all calls on one thread and submits each call there, too, so that a call
    which is let in here still finds its place.
    """

    def __init__(self, workers: int, queue: int) -> None:
        """Take how many calls of one kind are answered at once, and how many more may wait."""
        admission = (
            CallPool("queries", workers, queue),
            CallPool("query streams", workers, 0),
            CallPool("writes", workers, queue),
            CallPool("write streams", workers, 0),
            CallPool("imports and erasures", 4, 16),
            CallPool("exports of people", 4, 16, _LONGEST_SECONDS),
            CallPool("admin calls", 4, 16),
            CallPool("status calls", 4, 64),
            CallPool("health checks", 4, 1024),
            CallPool("health watches", 2, 254),
            CallPool("reflection streams", 8, 0, _LONGEST_SECONDS),
        )
        self._rooms = {room.kind: room for room in admission}
        self._housed: dict[str, tuple[CallPool, _Handler, _Handler]] = {}
        self.refusals = ThreadPoolExecutor(
            1, thread_name_prefix="refusals"
        )  # none of which waits for anything

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], _Handler | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        """Return the handler of a call: in its room, or to refuse it; None where there is no such method."""
        method = handler_call_details.method
        if method not in self._housed:
            handler = continuation(handler_call_details)
            if handler is None:
                return None
            room = self._rooms[kind_of(method, handler)]
            self._housed[method] = room, room.housing(handler), room.refusing(handler)
        room, housed, refusing = self._housed[method]
        return refusing if room.full else housed

    def shutdown(self) -> None:
        """Wait until no call runs; called when the server lets no more in."""
        for room in (*self._rooms.values(), self.refusals):
            room.shutdown()


def kind_of(method: str, handler: "_Handler") -> str:
    """Return the kind of the calls of a method such as /triptych.v1.Admin/Status.

    Raises:
        KeyError: its service is none that this server has.
    """
    name = method.removeprefix("/")
    if name in _KIND_OF_METHOD:
        return _KIND_OF_METHOD[name]
    service = name.partition("/")[0]
    if service == _INGEST and handler.request_streaming:
        return "write streams"
    return _KIND_OF_SERVICE[service]


def _shape(handler: "_Handler") -> str:
    directions = (handler.request_streaming, handler.response_streaming)
    return "_".join("stream" if streaming else "unary" for streaming in directions)


def _handler(shape: str, behavior: Callable[..., Any], like: "_Handler") -> "_Handler":
    parse = like.request_deserializer

    def read(raw: bytes) -> Any:
        """Return a message, or the error of bytes that are none, which gRPC would call INTERNAL."""
        try:
            return parse(raw) if parse else raw
        except DecodeError:
            return InvalidRequestError(
                "the request is no message of this method, or a text in it is not UTF-8"
            )

    make: Callable[..., _Handler] = getattr(grpc, f"{shape}_rpc_method_handler")
    return make(behavior, read, like.response_serializer)


def _messages(requests: Iterator[Any]) -> Iterator[Any]:
    """Yield the messages of a stream.  Raises: InvalidRequestError, at bytes that are none."""
    for request in requests:
        if isinstance(request, InvalidRequestError):
            raise request
        yield request
