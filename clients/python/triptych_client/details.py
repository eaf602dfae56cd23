"""Details of an error, as servers send them in the metadata grpc-status-details-bin.

These are google.rpc.Status and the messages in it. Their Python package is not needed to read them, and stubs
of our own under their names could not be loaded beside it: so the few fields that matter are declared here,
under other names, apart from all other messages of the process.
"""

from dataclasses import dataclass, field
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

KEY = "grpc-status-details-bin"

_PACKAGE = "triptych_client"
_SCALARS = {
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
}
# Fields in the order of their numbers, from 1 on; a star means that there may be several. A field that is not
# declared here is left out when a message is read.
_MESSAGES = {
    "Status": {"code": "int32", "message": "string", "details": "Detail*"},  # google.rpc.Status
    "Detail": {"type_url": "string", "value": "bytes"},  # google.protobuf.Any
    "ErrorInfo": {"reason": "string"},
    "BadRequest": {"field_violations": "FieldViolation*"},
    "FieldViolation": {"field": "string", "description": "string"},
    "RetryInfo": {"retry_delay": "Delay"},
    "Delay": {"seconds": "int64", "nanos": "int32"},  # google.protobuf.Duration
}


@dataclass(frozen=True)
class ErrorDetails:
    """What a server says of an error besides its code and its sentence.

    Attributes:
        reason: such as NOT_READY; "" where there is none.
        fields: what is wrong, by field of the request.
        retry_after: seconds after which the server asks for the call again, None where it does not ask.
    """

    reason: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    retry_after: float | None = None


def parse_details(status: bytes) -> ErrorDetails:
    """Return the details in the bytes of a google.rpc.Status; those that cannot be read count as none."""
    reason, fields, retry_after = "", dict[str, str](), None
    try:
        for detail in _read("Status", status).details:
            match detail.type_url.rpartition("/")[2]:
                case "google.rpc.ErrorInfo":
                    reason = _read("ErrorInfo", detail.value).reason
                case "google.rpc.BadRequest":
                    violations = _read("BadRequest", detail.value).field_violations
                    fields = {one.field: one.description for one in violations}
                case "google.rpc.RetryInfo":
                    delay = _read("RetryInfo", detail.value).retry_delay
                    retry_after = max(0.0, delay.seconds + delay.nanos / 1e9)
    except DecodeError:
        return ErrorDetails()
    return ErrorDetails(reason, fields, retry_after)


def _declared() -> descriptor_pool.DescriptorPool:
    """Return a pool of the messages above."""
    file = descriptor_pb2.FileDescriptorProto(
        name="triptych_client/details.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind) in enumerate(fields.items(), start=1):
            declared = message.field.add(name=field_name, number=number)
            declared.label = declared.LABEL_REPEATED if kind.endswith("*") else declared.LABEL_OPTIONAL
            if kind in _SCALARS:
                declared.type = _SCALARS[kind]
            else:
                declared.type = declared.TYPE_MESSAGE
                declared.type_name = f".{_PACKAGE}.{kind.removesuffix('*')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


_POOL = _declared()


def _read(name: str, content: bytes) -> Any:
    """Return a message of a name.  Raises: DecodeError."""
    kind = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
    return kind.FromString(content)
