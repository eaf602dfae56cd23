"""What the gateway itself refuses, in the form that the errors of the server have."""

import json
from typing import Any

from google.rpc import code_pb2

_DOMAIN = "triptych"
_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
# Status of HTTP to the code of gRPC: what google.api.http makes of these codes, the other way round.
CODES = {
    400: code_pb2.INVALID_ARGUMENT,
    404: code_pb2.NOT_FOUND,
    405: code_pb2.UNIMPLEMENTED,
    408: code_pb2.DEADLINE_EXCEEDED,
    413: code_pb2.RESOURCE_EXHAUSTED,
    415: code_pb2.INVALID_ARGUMENT,
    431: code_pb2.RESOURCE_EXHAUSTED,
    500: code_pb2.INTERNAL,
    502: code_pb2.UNAVAILABLE,
    503: code_pb2.UNAVAILABLE,
    504: code_pb2.DEADLINE_EXCEEDED,
}
_SAID = "%LOCAL_REPLY_BODY%"
_REASONS = (
    (400, "INVALID_REQUEST", f"this is no request of the API: {_SAID}"),
    (408, "TOO_LATE", "the call was not answered within its time"),
    (413, "TOO_LARGE", "the request is larger than 32 MiB"),
    (431, "TOO_LARGE", "the headers of the request are too large"),
    (503, "SERVER_UNREACHABLE", f"no server can answer now: {_SAID}"),
    (504, "TOO_LATE", "the call was not answered within its time"),
)


def error(status: int, reason: str, message: str) -> dict[str, Any]:
    """Return an error as google.rpc.Status is written in JSON."""
    info = {"@type": _ERROR_INFO, "reason": reason, "domain": _DOMAIN, "metadata": {}}
    return {"code": CODES[status], "message": message, "details": [info]}


def error_body(status: int, reason: str, message: str) -> str:
    """Return an error as the body of a reply."""
    return json.dumps(error(status, reason, message), separators=(",", ":"))


def _header(name: str, match: dict[str, Any]) -> dict[str, Any]:
    return {"header_filter": {"header": {"name": name} | match}}


_GRPC = {"string_match": {"prefix": "application/grpc"}}
# A request that the transcoder took has the type of gRPC by now, and the path that it came with beside.
_WAS_JSON = {
    "or_filter": {
        "filters": [
            _header("content-type", _GRPC | {"invert_match": True, "treat_missing_header_as_empty": True}),
            _header("x-envoy-original-path", {"present_match": True}),
        ]
    }
}


def _mapper(status: int, reason: str, message: str) -> dict[str, Any]:
    same = {
        "status_code_filter": {
            "comparison": {"op": "EQ", "value": {"default_value": status, "runtime_key": "gateway.status"}}
        }
    }
    return {
        "filter": {"and_filter": {"filters": [same, _WAS_JSON]}},
        "body_format_override": {
            "json_format": error(status, reason, message),
            "content_type": "application/json",
        },
    }


LOCAL_REPLIES = {"mappers": [_mapper(*one) for one in _REASONS]}
