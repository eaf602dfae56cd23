"""Admission of calls: threads of its own for each kind of call, so that no kind takes those of another."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn, ParamSpec, TypeAlias, TypeVar

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from server import cancellation as calls
from server.access import Grant, granted
from server.query import QueryPriority
from server.status import InvalidRequestError, TooManyCallsError, TooManyStreamsError, status_of_errors
from server.telemetry import Telemetry, hand_over
from server.wire.decoding import decode
from server.wire.micro_batches import CallBatcher, together_of
from server.wire.observed import MethodObserver, observer_of

_INGEST = "triptych.v1.Ingest"
_OWNER = "triptych.internal.v1.Owner"
_KIND_OF_SERVICE = {
    "triptych.v1.Retrieval": "queries",
    _INGEST: "writes",
    "triptych.v1.Admin": "admin calls",
    _OWNER: "reads for query processes",
    "triptych.internal.v1.StoredRows": "reads for query processes",
    health.SERVICE_NAME: "health checks",
    reflection.SERVICE_NAME: "reflection streams",
}
_KIND_OF_METHOD = {  # of methods with another kind than their service
    "triptych.v1.Retrieval/QueryStream": "query streams",
    f"{_INGEST}/ExportUser": "exports of people",
    f"{_INGEST}/FindItems": "reads of items",
    f"{_INGEST}/ListAttributes": "reads of items",
    f"{_INGEST}/EraseUser": "imports and erasures",
    f"{_INGEST}/ImportFolder": "imports and erasures",
    "triptych.v1.Admin/Status": "status calls",
    "triptych.v1.Admin/GetFigures": "status calls",
    "triptych.v1.Admin/QueryIndex": "maps and comparisons",
    "triptych.v1.Admin/ReadMap": "maps and comparisons",
    f"{_OWNER}/Join": "query processes",
    f"{health.SERVICE_NAME}/Watch": "health watches",
}
MOST_PROCESSES = 256
_LONGEST_SECONDS = 600.0  # of calls that a client can prolong by reading slowly or sending nothing

_Result = TypeVar("_Result")
_Parameters = ParamSpec("_Parameters")
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class CallPool(ThreadPoolExecutor):
    """The threads of one kind of call, and the calls that run on them or wait for one.

    Attributes:
        kind: the name of the kind, as in errors.
        most: the number of calls that may run and wait.
    """

    def __init__(
        self,
        kind: str,
        threads: int,
        waiting: int,
        longest: float | None = None,
        priority: QueryPriority | None = None,
    ) -> None:
        """Start a pool for so many running and waiting calls; each is cancelled after `longest` seconds.

        `priority` counts those that are answered together.
        """
        super().__init__(threads, thread_name_prefix=kind)
        self.kind = kind
        self.most = threads + waiting
        self._may_wait = waiting > 0
        self._longest = longest
        self._priority = priority or QueryPriority()
        self._admitted = 0
        self._lock = threading.Lock()
        self._batchers: dict[Any, CallBatcher] = {}  # by the behavior that gRPC would run

    @property
    def admitted(self) -> int:
        """The number of calls that run or wait."""
        return self._admitted

    @property
    def full(self) -> bool:
        """Whether as many calls run and wait as may."""
        return self._admitted >= self.most

    def submit(
        self, fn: Callable[_Parameters, _Result], /, *args: _Parameters.args, **kwargs: _Parameters.kwargs
    ) -> "Future[_Result]":
        """Run a call on a thread of this pool, or with others; it is counted until it has ended."""
        self._enter()
        batcher = self._batchers.get(args[3]) if CallBatcher.takes(args) else None
        result: Any
        if batcher is not None:
            result = batcher.submit(fn, args)
        else:
            result = super().submit(partial(_since, time.perf_counter(), fn), *args, **kwargs)
        result.add_done_callback(lambda _: self._leave())
        return result  # type: ignore[no-any-return]

    def run_apart(self, call: Callable[[], None]) -> "Future[None]":
        """Run a call that is counted already on a thread of this pool."""
        return super().submit(call)

    def admitting(
        self, handler: "_Handler", observer: MethodObserver | None = None, *, together: bool = True
    ) -> "_Handler":
        """Wrap the handler of a method so that it runs on the threads of this pool.

        Each message of a stream counts as a call of its token, which has to hold still.

        Args:
            handler: of the method.
            observer: counts its calls.
            together: whether calls of a method that is `answered_together_by` another run in micro-batches.
        """
        shape = _shape(handler)
        behavior = getattr(handler, shape)
        # A health watch of gRPC's goes on after its thread has returned.
        outlives_thread = getattr(behavior, "experimental_non_blocking", False)

        def answer(request: Any, context: grpc.ServicerContext, *send: Any) -> Any:
            calls.begin(context)
            if self._longest is not None:
                self._end_in_time(context, self._longest)
            if outlives_thread:
                self._enter()
                if not context.add_callback(self._leave):
                    self._leave()
            if handler.request_streaming:
                return behavior(_messages(request, granted()), context, *send)
            if isinstance(request, InvalidRequestError):
                with status_of_errors(context):
                    raise request
            return behavior(request, context, *send)

        call: Callable[..., Any] = answer
        if observer is not None:
            call = observer.observing(answer, streams=handler.response_streaming)
        call.experimental_thread_pool = self  # type: ignore[attr-defined]  # where gRPC looks for it
        call.experimental_non_blocking = outlives_thread  # type: ignore[attr-defined]
        answer_together = together_of(behavior) if together else None
        if answer_together is not None:
            self._batchers[call] = CallBatcher(
                answer_together, self.run_apart, f"{self.kind} together", self._priority, observer
            )
        return _handler(shape, call, handler)

    def refusing(self, handler: "_Handler", observer: MethodObserver | None = None) -> "_Handler":
        """Return a handler that refuses calls because this pool is full, without parsing their requests."""

        def refuse(_: Iterator[Any], context: grpc.ServicerContext) -> NoReturn:
            if observer is not None:
                observer.refused()
            with status_of_errors(context):
                raise (TooManyCallsError if self._may_wait else TooManyStreamsError)(self.kind, self.most)
            raise AssertionError  # `status_of_errors` has raised

        return _handler("stream_stream", refuse, handler)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads when all calls have been answered."""
        for batcher in self._batchers.values():
            batcher.shutdown()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _end_in_time(self, context: grpc.ServicerContext, seconds: float) -> None:
        timer = threading.Timer(seconds, context.cancel)
        timer.daemon = True
        timer.start()
        if not context.add_callback(timer.cancel):
            timer.cancel()

    def _enter(self) -> None:
        with self._lock:
            self._admitted += 1

    def _leave(self) -> None:
        with self._lock:
            self._admitted -= 1


class Admission(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """The pools of a server: a call runs in that of its kind, or is refused at once where the pool is full.

    gRPC asks for the handler of each call and submits the call on one and the same thread, so that a pool
    which is not full here has a place when the call is submitted.

    Attributes:
        pools: by kind.
        refusals: the thread on which calls are refused.
    """

    def __init__(
        self,
        workers: int,
        queue: int,
        priority: QueryPriority | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        """Make the pools.

        Args:
            workers: calls of most kinds that run at once.
            queue: further ones that may wait.
            priority: counts the queries that are answered together.
            telemetry: what is noted of calls; None for nothing.
        """
        pools = (
            CallPool("queries", workers, queue, priority=priority),
            CallPool("query streams", workers, 0),
            CallPool("writes", workers, queue),
            CallPool("write streams", workers, 0),
            CallPool("imports and erasures", 4, 16),
            CallPool("exports of people", 4, 16, _LONGEST_SECONDS),
            CallPool("reads of items", 4, 64),
            CallPool("admin calls", 4, 16),
            CallPool("maps and comparisons", 2, 16, _LONGEST_SECONDS),
            CallPool("status calls", 4, 64),
            CallPool("reads for query processes", workers, queue),
            CallPool("query processes", MOST_PROCESSES, 0),
            CallPool("health checks", 4, 1024),
            CallPool("health watches", 2, 254),
            CallPool("reflection streams", 8, 0, _LONGEST_SECONDS),
        )
        self.pools = {pool.kind: pool for pool in pools}
        self._telemetry = telemetry
        self._handlers: dict[tuple[str, bool], tuple[CallPool, _Handler, _Handler]] = {}
        self.refusals = ThreadPoolExecutor(1, thread_name_prefix="refusals")  # a refusal never waits

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], _Handler | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        """Return a handler that runs the call in its pool or refuses it; None for an unknown method."""
        return self.admit(continuation, handler_call_details)

    def admit(
        self,
        find: "Callable[[grpc.HandlerCallDetails], _Handler | None]",
        details: grpc.HandlerCallDetails,
        *,
        apart: bool = False,
    ) -> "_Handler | None":
        """Return a handler that runs a call in its pool or refuses it; None for an unknown method.

        Args:
            find: finds the handler of the method.
            details: of the call.
            apart: whether it must not be answered together with others.
        """
        key = details.method, apart
        if key not in self._handlers:
            handler = find(details)
            if handler is None:
                return None
            pool = self.pools[kind_of(details.method, handler)]
            observer = observer_of(self._telemetry, details.method, pool.kind)
            admitting = pool.admitting(handler, observer, together=not apart)
            self._handlers[key] = pool, admitting, pool.refusing(handler, observer)
        pool, admitting, refusing = self._handlers[key]
        return refusing if pool.full else admitting

    def shutdown(self) -> None:
        """Wait until no call runs; to be called when the server accepts no more."""
        for pool in (*self.pools.values(), self.refusals):
            pool.shutdown()


def _since(moment: float, run: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
    """Run a call on the thread of a pool that was handed over at a moment of `time.perf_counter`."""
    hand_over(moment)
    return run(*args, **kwargs)


def kind_of(method: str, handler: "_Handler") -> str:
    """Return the kind of the calls of a method such as /triptych.v1.Admin/Status.

    Raises:
        KeyError: the server has no such service.
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
    make: Callable[..., _Handler] = getattr(grpc, f"{shape}_rpc_method_handler")
    return make(behavior, partial(decode, parse), like.response_serializer)


def _messages(requests: Iterator[Any], grant: Grant | None) -> Iterator[Any]:
    """Yield the messages of a stream.

    Raises:
        InvalidRequestError: at malformed bytes.
        AccessError: the token of the call holds no more, or was used too often.
    """
    for number, request in enumerate(requests):
        if grant is not None:
            grant.use(calls=min(1, number))  # the first was counted with the call
        if isinstance(request, InvalidRequestError):
            raise request
        yield request
