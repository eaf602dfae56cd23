"""Errors to gRPC status codes, in one place; the only caller of `context.abort`.

The errors of server.wire are here, too: it imports this module, not the other way round.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from encoder.heads import NoHeadError
from encoder.text import DamagedTextCacheError, NotATextModelError
from indexer.filters import ReindexNeededError
from indexer.index import VectorDimError
from indexer.milvus import MilvusUnreachableError
from indexer.publish import IndexNotFoundError, NoOlderIndexError
from server.access import (
    ItemsHiddenError,
    NoTokenError,
    RateLimitedError,
    ScopeMissingError,
    TenantUnknownError,
    TokenExpiredError,
    TokenRevokedError,
    TokenUnknownError,
)
from server.cancellation import AbandonedError, NoTurnError
from server.live import IMPORT_ERRORS, NotPreparedError, StoppingError
from server.query import (
    AudienceGroupError,
    AudienceTooSmallError,
    CommitNotReachedError,
    IndexChangedError,
    ItemNotServedError,
    NotReadyError,
    NoUserIndexError,
    OwnerUnreachableError,
    ReadReplicaError,
    TextModelDiffersError,
)
from store.artifact import DamagedArtifactError, NotPublishedError
from store.disk import DiskFullError, ReadOnlyDiskError, disk_error
from store.imports import AmbiguousTimesError, UnknownEncodingError, UnknownFormatError, UnknownTimesError
from store.objects import NoConditionsError, ObjectStorageError, PointerMovedError, UploadSweptError
from store.reports import ReportNotFoundError, ReportTooLargeError
from store.state import DamagedStateError, StateReplacedError
from store.store import ItemNotFoundError
from store.valkey import StateUnreachableError
from store.writes import ItemVectorLengthError, RequestIdReusedError

log = logging.getLogger(__name__)

DOMAIN = "triptych"

_Result = TypeVar("_Result")

_MAX_MESSAGE = 1_000  # bytes; gRPC drops trailers beyond 8 KiB, and the reason with them


class InvalidRequestError(ValueError):
    """A request breaks a rule of the API; the message names the field and the value.

    The client gets the path of the field apart, as google.rpc.BadRequest; "" where none is at fault alone.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class NotThisMachineError(PermissionError):
    """A call that names files of the server's machine came from another one."""

    def __init__(self, peer: str) -> None:
        super().__init__(f"only callers on the server's own machine may import a folder, not {peer}")
        self.peer = peer


class TooManyCallsError(RuntimeError):
    """As many calls of one kind run and wait as may."""

    def __init__(self, kind: str, most: int) -> None:
        super().__init__(f"{most} {kind} are running or waiting, and no more may: try again in a second")
        self.kind = kind
        self.most = most


class TooManyStreamsError(RuntimeError):
    """As many streams of one kind run as may."""

    def __init__(self, kind: str, most: int) -> None:
        super().__init__(f"{most} {kind} are running, and no more may: wait for one to end")
        self.kind = kind
        self.most = most


class NothingCountedError(RuntimeError):
    """The server counts no calls."""

    def __init__(self) -> None:
        super().__init__("this server counts nothing: start it without --no-figures")


_CODES: tuple[tuple[type[Exception], int, str], ...] = (
    (InvalidRequestError, code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (ItemVectorLengthError, code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (VectorDimError, code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (AudienceGroupError, code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (AudienceTooSmallError, code_pb2.FAILED_PRECONDITION, "AUDIENCE_TOO_SMALL"),
    (ItemNotFoundError, code_pb2.NOT_FOUND, "ITEM_NOT_FOUND"),
    (ItemNotServedError, code_pb2.NOT_FOUND, "ITEM_NOT_FOUND"),
    (NoHeadError, code_pb2.FAILED_PRECONDITION, "HEAD_NOT_FITTED"),
    (IndexNotFoundError, code_pb2.NOT_FOUND, "INDEX_NOT_FOUND"),
    (ReportNotFoundError, code_pb2.NOT_FOUND, "REPORT_NOT_FOUND"),
    (ReportTooLargeError, code_pb2.FAILED_PRECONDITION, "REPORT_TOO_LARGE"),
    (NoOlderIndexError, code_pb2.FAILED_PRECONDITION, "NO_OLDER_INDEX"),
    (NotPublishedError, code_pb2.FAILED_PRECONDITION, "NOTHING_PUBLISHED"),
    (DamagedArtifactError, code_pb2.DATA_LOSS, "DAMAGED_FILE"),
    (NotATextModelError, code_pb2.DATA_LOSS, "DAMAGED_FILE"),
    (DamagedTextCacheError, code_pb2.DATA_LOSS, "DAMAGED_FILE"),
    (NotReadyError, code_pb2.UNAVAILABLE, "NOT_READY"),
    (NotPreparedError, code_pb2.FAILED_PRECONDITION, "INDEX_REFUSED"),
    (OwnerUnreachableError, code_pb2.UNAVAILABLE, "OWNER_UNREACHABLE"),
    (MilvusUnreachableError, code_pb2.UNAVAILABLE, "INDEX_UNREACHABLE"),
    (ReadReplicaError, code_pb2.FAILED_PRECONDITION, "READ_REPLICA"),
    (StateUnreachableError, code_pb2.UNAVAILABLE, "STATE_UNREACHABLE"),
    (ObjectStorageError, code_pb2.UNAVAILABLE, "STORAGE_UNREACHABLE"),
    (NoConditionsError, code_pb2.FAILED_PRECONDITION, "NO_CONDITIONAL_PUT"),
    (PointerMovedError, code_pb2.ABORTED, "POINTER_MOVED"),
    (UploadSweptError, code_pb2.ABORTED, "UPLOAD_SWEPT"),
    (StateReplacedError, code_pb2.UNAVAILABLE, "NOT_READY"),
    (NoUserIndexError, code_pb2.FAILED_PRECONDITION, "NO_USER_INDEX"),
    (CommitNotReachedError, code_pb2.UNAVAILABLE, "COMMIT_NOT_REACHED"),
    (IndexChangedError, code_pb2.FAILED_PRECONDITION, "INDEX_CHANGED"),
    (NothingCountedError, code_pb2.FAILED_PRECONDITION, "NOTHING_COUNTED"),
    (TextModelDiffersError, code_pb2.FAILED_PRECONDITION, "TEXT_MODEL_DIFFERS"),
    (ReindexNeededError, code_pb2.FAILED_PRECONDITION, "REINDEX_NEEDED"),
    (StoppingError, code_pb2.UNAVAILABLE, "STOPPING"),
    (RequestIdReusedError, code_pb2.FAILED_PRECONDITION, "REQUEST_ID_REUSED"),
    (TooManyCallsError, code_pb2.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS"),
    (TooManyStreamsError, code_pb2.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS"),
    (NoTurnError, code_pb2.RESOURCE_EXHAUSTED, "NO_TURN"),
    (AbandonedError, code_pb2.CANCELLED, "ABANDONED"),
    (NotThisMachineError, code_pb2.PERMISSION_DENIED, "NOT_THIS_MACHINE"),
    (NoTokenError, code_pb2.UNAUTHENTICATED, "TOKEN_MISSING"),
    (TokenUnknownError, code_pb2.UNAUTHENTICATED, "TOKEN_UNKNOWN"),
    (TokenExpiredError, code_pb2.UNAUTHENTICATED, "TOKEN_EXPIRED"),
    (TokenRevokedError, code_pb2.UNAUTHENTICATED, "TOKEN_REVOKED"),
    (ItemsHiddenError, code_pb2.PERMISSION_DENIED, "SCOPE_MISSING"),
    (ScopeMissingError, code_pb2.PERMISSION_DENIED, "SCOPE_MISSING"),
    (TenantUnknownError, code_pb2.PERMISSION_DENIED, "TENANT_UNKNOWN"),
    (RateLimitedError, code_pb2.RESOURCE_EXHAUSTED, "RATE_LIMITED"),
    (DamagedStateError, code_pb2.DATA_LOSS, "DAMAGED_FILE"),
    (DiskFullError, code_pb2.RESOURCE_EXHAUSTED, "DISK_FULL"),
    (ReadOnlyDiskError, code_pb2.FAILED_PRECONDITION, "READ_ONLY"),
    *((kind, code_pb2.INVALID_ARGUMENT, "IMPORT_REFUSED") for kind in IMPORT_ERRORS),
)


_FIELDS: tuple[tuple[type[Exception], str], ...] = (  # at fault, of errors that cannot name it
    (VectorDimError, "vector.values"),
    (UnknownEncodingError, "encoding"),
    (UnknownFormatError, "format"),
    (UnknownTimesError, "times"),
    (AmbiguousTimesError, "times"),
    *((kind, "path") for kind in IMPORT_ERRORS),
)
_RETRY_SECONDS = 1.0
_TRANSIENT = (TooManyCallsError, TooManyStreamsError, NoTurnError)  # a repeated call may well succeed


@dataclass(frozen=True)
class Failure:
    """An error as a client gets it.

    Attributes:
        code: of gRPC.
        reason: of google.rpc.ErrorInfo, for programs.
        message: for people, at most 1,000 bytes as UTF-8.
        field: of the request, which is invalid; "" where none is named.
        retry_after: seconds after which a repeated call may succeed; None where it will not.
    """

    code: int
    reason: str
    message: str
    field: str = ""
    retry_after: float | None = None


@contextmanager
def status_of_errors(context: grpc.ServicerContext) -> Iterator[None]:
    """Abort the call with the status of the error that the block raises, of an unknown one without details.

    Notes on the error (such as its place in a batch) come before its message.
    """
    try:
        yield
    except Exception as error:  # here and below: every call ends with a status
        abort_with(context, _failure(error))


def outcome(call: Callable[[], _Result]) -> _Result | Failure:
    """Run a call; return its result, or the failure that `status_of_errors` would abort it with."""
    try:
        return call()
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> Failure:
    error = disk_error(error, "the server") or error
    for kind, code, reason in _CODES:
        if isinstance(error, kind):
            notes = getattr(error, "__notes__", ())
            said = ": ".join([*notes, str(error)]).encode(errors="replace")
            message = said[:_MAX_MESSAGE].decode(errors="ignore")
            return Failure(code, reason, message, _field(error, notes), _retry_after(error))
    query_id = token_hex(12)  # there is no reply that could carry one
    log.exception("unexpected error in a call", extra={"query_id": query_id})
    return Failure(
        code_pb2.INTERNAL, "INTERNAL", f"an unexpected error; the server's log has it as query {query_id}"
    )


def _retry_after(error: Exception) -> float | None:
    if isinstance(error, RateLimitedError):
        return error.retry_after
    return _RETRY_SECONDS if isinstance(error, _TRANSIENT) else None


def _field(error: Exception, places: Sequence[str]) -> str:
    """Return the path of the field at fault, within the places that were noted; "" where none is named."""
    named = next((field for kind, field in _FIELDS if isinstance(error, kind)), "")
    field: str = getattr(error, "field", named)
    return ".".join([*places, field]) if field else ""


def abort_with(context: grpc.ServicerContext, failure: Failure) -> NoReturn:
    """Abort a call with the status of a failure."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN)]
    if failure.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=failure.field, description=failure.message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if failure.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(int(failure.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = [any_pb2.Any() for _ in details]
    for holder, detail in zip(packed, details, strict=True):
        holder.Pack(detail)
    status = status_pb2.Status(code=failure.code, message=failure.message, details=packed)
    context.abort_with_status(rpc_status.to_status(status))
