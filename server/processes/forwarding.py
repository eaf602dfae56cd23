"""Calls that a query process passes on to the owner, as bytes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import grpc

from server.access import AccessError, granted
from server.peer import AVAILABLE_KEY, PEER_KEY, sees_available_alone
from server.query import OwnerUnreachableError
from server.status import status_of_errors
from triptych_client.pb.v1 import ingest_pb2, triptych_pb2

_SERVICES = (
    ingest_pb2.DESCRIPTOR.services_by_name["Ingest"],
    triptych_pb2.DESCRIPTOR.services_by_name["Admin"],
)
# Metadata that each connection has of its own, and the token: this process has asked for it.
_DROPPED = ("grpc-", "user-agent", "content-type", "te", ":", "authorization")
_NO_DEADLINE_SECONDS = 1e9  # gRPC gives more than this as the remaining time without a deadline
_Handler = Any  # grpc.RpcMethodHandler of bytes


def add_forwarding(
    server: grpc.Server,
    channel: grpc.Channel,
    amend: Mapping[str, Callable[[bytes], bytes]] | None = None,
    *,
    remote: str = "",
) -> None:
    """Pass every call of Ingest and Admin on to the owner.

    Deadline, metadata, the caller's address and cancellation go along; status and details come back as the
    owner sets them. Where the owner is gone, a call ends with UNAVAILABLE; it may have been carried out, and
    clients repeat it under the same request id.

    Args:
        server: that takes the calls.
        channel: to the owner.
        amend: what is done to the reply of a unary method, by its name, before it is sent.
        remote: the owner's address where it runs on another machine; it asks for the token itself then.
    """
    for service in _SERVICES:
        handlers = {}
        for method in service.methods:
            shape = "_".join(
                "stream" if streams else "unary"
                for streams in (method.client_streaming, method.server_streaming)
            )
            call = getattr(channel, shape)(f"/{service.full_name}/{method.name}")
            make: Callable[..., _Handler] = getattr(grpc, f"{shape}_rpc_method_handler")
            if method.server_streaming:
                handlers[method.name] = make(_stream(call, remote))
            else:
                handlers[method.name] = make(_unary(call, (amend or {}).get(method.name), remote))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


class _Requests:
    """The messages of a stream, which gRPC takes on a thread of its own.

    Attributes:
        error: why they end early: the caller is not allowed any more of them. Those before count.
    """

    def __init__(self, requests: Iterable[bytes]) -> None:
        self._requests = iter(requests)
        self.error: AccessError | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._requests)
        except AccessError as error:
            self.error = error  # gRPC would log it, and say UNKNOWN
            raise StopIteration from error


def _unary(
    call: Any, amend: Callable[[bytes], bytes] | None, remote: str
) -> Callable[[Any, grpc.ServicerContext], bytes]:
    def forward(request: bytes | Iterable[bytes], context: grpc.ServicerContext) -> bytes:
        requests = request if isinstance(request, bytes) else _Requests(request)
        passed = call.future(requests, timeout=_seconds(context), metadata=_metadata(context, remote))
        if not context.add_callback(passed.cancel):
            passed.cancel()
        try:
            reply: bytes = passed.result()
        except grpc.FutureCancelledError:
            context.abort(grpc.StatusCode.CANCELLED, "the caller has cancelled")
        except grpc.RpcError as error:
            _abort(context, error, remote)
        if isinstance(requests, _Requests) and requests.error is not None:
            with status_of_errors(context):
                raise requests.error
        return amend(reply) if amend is not None else reply

    return forward


def _stream(call: Any, remote: str) -> Callable[[Any, grpc.ServicerContext], Iterator[bytes]]:
    def forward(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        passed = call(request, timeout=_seconds(context), metadata=_metadata(context, remote))
        if not context.add_callback(passed.cancel):
            passed.cancel()
        try:
            yield from passed
        except grpc.RpcError as error:
            _abort(context, error, remote)

    return forward


def _abort(context: grpc.ServicerContext, error: grpc.RpcError, remote: str) -> NoReturn:
    """End a call with the status of the owner's, details included."""
    if isinstance(error, grpc.Call):
        trailing = tuple(error.trailing_metadata() or ())
        if error.code() is not grpc.StatusCode.UNAVAILABLE or trailing:
            context.set_trailing_metadata(trailing)
            context.abort(error.code(), error.details() or "")
    with status_of_errors(context):
        raise OwnerUnreachableError("this call", f"the owner {remote}" if remote else "") from error
    raise AssertionError  # `status_of_errors` has raised


def _seconds(context: grpc.ServicerContext) -> float | None:
    """Return the time that a call has left."""
    left = context.time_remaining()
    return left if left is not None and left < _NO_DEADLINE_SECONDS else None


def _metadata(context: grpc.ServicerContext, remote: str) -> list[tuple[str, str | bytes]]:
    """Return the caller's metadata and address, and whether it is told of available items alone.

    A remote owner asks for the token itself, and believes nothing else of what another machine says.
    """
    given = context.invocation_metadata() or ()
    passed = [
        (key, value)
        for key, value in given
        if not key.startswith(_DROPPED) and key not in (PEER_KEY, AVAILABLE_KEY)
    ]
    if remote:
        return [*passed, *((key, value) for key, value in given if key == "authorization")]
    grant = granted()
    if grant is not None and sees_available_alone(context, grant.token.scopes):
        passed.append((AVAILABLE_KEY, "1"))
    return [*passed, (PEER_KEY, context.peer())]
