"""Errors to gRPC status codes, in one place; the only caller of `context.abort`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from encoder.text import NotATextModelError
from encoder.text_cache import DamagedTextCacheError
from indexer.index import VectorDimError
from indexer.publish import IndexNotFoundError, NoOlderIndexError
from server.invalid import InvalidRequestError
from server.retriever import NotReadyError
from store.artifact import DamagedArtifactError, NotPublishedError
from store.duck import ItemNotFoundError

log = logging.getLogger(__name__)

DOMAIN = "triptych"

_MAX_MESSAGE = 1_000  # gRPC drops trailers beyond 8 KiB, and the reason with them

_CODES: tuple[tuple[type[Exception], int, str], ...] = (
    (InvalidRequestError, code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (VectorDimError, code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (ItemNotFoundError, code_pb2.NOT_FOUND, "ITEM_NOT_FOUND"),
    (IndexNotFoundError, code_pb2.NOT_FOUND, "INDEX_NOT_FOUND"),
    (NoOlderIndexError, code_pb2.FAILED_PRECONDITION, "NO_OLDER_INDEX"),
    (NotPublishedError, code_pb2.FAILED_PRECONDITION, "NOTHING_PUBLISHED"),
    (DamagedArtifactError, code_pb2.DATA_LOSS, "DAMAGED_FILE"),
    (NotATextModelError, code_pb2.DATA_LOSS, "DAMAGED_FILE"),
    (DamagedTextCacheError, code_pb2.DATA_LOSS, "DAMAGED_FILE"),
    (NotReadyError, code_pb2.UNAVAILABLE, "NOT_READY"),
)


@contextmanager
def status_of_errors(context: grpc.ServicerContext) -> Iterator[None]:
    """Abort the call with the status of the error that the block raises; an unknown one tells no details.

    Notes on the error (such as its place in a batch) stand before its message.
    """
    try:
        yield
    except Exception as error:  # the one place that may: every call ends with a status
        for kind, code, reason in _CODES:
            if isinstance(error, kind):
                _abort(context, code, reason, ": ".join([*getattr(error, "__notes__", ()), str(error)]))
        log.exception("unexpected error in a call")
        _abort(context, code_pb2.INTERNAL, "INTERNAL", "an unexpected error; the server's log has it")


def _abort(context: grpc.ServicerContext, code: int, reason: str, message: str) -> NoReturn:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    status = status_pb2.Status(code=code, message=message[:_MAX_MESSAGE], details=[detail])
    context.abort_with_status(rpc_status.to_status(status))
