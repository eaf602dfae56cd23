"""Why a call failed: gRPC's code, the server's reason and message, and the fields at fault."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import grpc

from triptych_client.details import KEY, ErrorDetails, parse_details
from triptych_client.pb.v1 import triptych_pb2 as pb

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class CallError(RuntimeError):
    """A call failed.

    Attributes:
        code: gRPC's status code.
        reason: such as NOT_READY or REQUEST_ID_REUSED; "" where the server gave none.
        message: the server's sentence.
        fields: what is wrong, by field of the request.
        retry_after: seconds after which the server asks for the call again, None where it does not ask.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        fields: dict[str, str],
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"the server says {code.name}: {message}{hint_of(code, reason, message)}")
        self.code = code
        self.reason = reason
        self.message = message
        self.fields = fields
        self.retry_after = retry_after

    @property
    def not_reached(self) -> bool:
        """Whether no server has answered, or not yet one that serves, so that a repetition may help.

        gRPC itself says CANCELLED of a call that reaches a server while it ends; our servers give a reason.
        """
        ended = self.code is grpc.StatusCode.CANCELLED and not self.reason
        return (self.code is grpc.StatusCode.UNAVAILABLE or ended) and not self.about_tls

    @property
    def about_tls(self) -> bool:
        """Whether the TLS handshake failed, which a repetition does not mend."""
        return _about_tls(self.message)


def hint_of(code: grpc.StatusCode, reason: str, message: str) -> str:
    """Return advice in brackets where gRPC says only that there was no connection, else ""."""
    if code is not grpc.StatusCode.UNAVAILABLE or reason:
        return ""
    if "certificate has expired" in message:
        return " (its certificate is past its time)"
    if "CERTIFICATE_VERIFY_FAILED" in message:
        return " (its certificate is not vouched for by the root certificate that was given)"
    if "WRONG_VERSION_NUMBER" in message:
        return " (it speaks without TLS there: leave the root certificate out)"
    if "Socket closed" in message or "connection reset" in message.lower():
        return " (does it want TLS? then give its root certificate, and one of your own if it asks for that)"
    return " (is `triptych serve` running there?)"


def _about_tls(message: str) -> bool:
    return "handshake failed" in message or "security handshaker" in message


@contextmanager
def errors_of_calls() -> Iterator[None]:
    """Raise the gRPC error of the block as a CallError."""
    try:
        yield
    except grpc.RpcError as error:
        raise _call_error(error) from error


def answer_of(reply: pb.QueryStreamResponse) -> pb.QueryResponse | CallError:
    """Return the candidates in a reply of QueryStream, or the error in it."""
    if reply.WhichOneof("outcome") == "response":
        return reply.response
    error = reply.error
    fields = {error.field: error.message} if error.field else {}
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    return CallError(code, error.reason, error.message, fields)


def _call_error(error: Any) -> CallError:
    sent = dict(cast("Iterable[tuple[str, bytes]]", error.trailing_metadata() or ()))
    details = parse_details(sent[KEY]) if KEY in sent else ErrorDetails()
    message = error.details() or ""
    return CallError(error.code(), details.reason, message, details.fields, details.retry_after)
