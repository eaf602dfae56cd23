"""Why a call failed, in words and apart: code, reason, message, fields."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import grpc
from google.rpc import error_details_pb2, status_pb2

from server.pb.triptych.v1 import triptych_pb2 as pb

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class CallError(RuntimeError):
    """A call failed.

    Attributes:
        code: of gRPC.
        reason: the server's word for it, such as NOT_READY or REQUEST_ID_REUSED; "" where it said none.
        message: the server's sentence.
        fields: what is wrong with which field of the request.
    """

    def __init__(self, code: grpc.StatusCode, reason: str, message: str, fields: dict[str, str]) -> None:
        hint = " (is `triptych serve` running there?)" if code is grpc.StatusCode.UNAVAILABLE else ""
        super().__init__(f"the server says {code.name}: {message}{hint}")
        self.code = code
        self.reason = reason
        self.message = message
        self.fields = fields


@contextmanager
def errors_of_calls() -> Iterator[None]:
    """Turn the gRPC error that the block raises into a CallError."""
    try:
        yield
    except grpc.RpcError as error:
        raise _call_error(error) from error


def answer_of(reply: pb.QueryStreamResponse) -> pb.QueryResponse | CallError:
    """Return the candidates that a reply of a stream carries, or its error."""
    if reply.WhichOneof("outcome") == "response":
        return reply.response
    error = reply.error
    return CallError(_CODES[error.code], error.reason, error.message, {})


def _call_error(error: grpc.RpcError) -> CallError:
    reason, fields = "", dict[str, str]()
    status = status_pb2.Status()
    for key, value in cast("Iterable[tuple[str, bytes]]", error.trailing_metadata() or ()):
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            fields = {one.field: one.description for one in bad.field_violations}
    return CallError(error.code(), reason, error.details() or "", fields)
