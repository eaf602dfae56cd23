"""Which methods of the API others reach through the gateway, and at which path as JSON."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto

from server.access import scope_of

PACKAGE = "triptych.v1"
# Reachable neither as JSON nor by gRPC, with the reason.
NOT_OFFERED = {
    "triptych.v1.Ingest/ImportFolder": "reads files of the server's machine, for callers on it alone; behind "
    "a gateway on that machine everybody would seem to be one",
}
# Methods of others that gRPC clients and tools call.
OTHERS = (
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


@dataclass(frozen=True)
class ApiMethod:
    """One method of the API.

    Attributes:
        name: such as triptych.v1.Retrieval/Query.
        scope: that a token needs for it.
        verb: of HTTP, such as POST; "" where it has no path.
        path: such as /v1/query; "" where JSON cannot carry it, as it takes a stream.
        takes_stream: whether it takes several requests.
        gives_stream: whether it gives several replies.
        input_type: full name of the message that it takes.
        output_type: full name of the message that it gives.
    """

    name: str
    scope: str
    verb: str
    path: str
    takes_stream: bool
    gives_stream: bool
    input_type: str
    output_type: str

    @property
    def streams(self) -> bool:
        """Whether requests or replies are a stream."""
        return self.takes_stream or self.gives_stream


def descriptors() -> bytes:
    """Return the descriptors of the API and of its errors, a FileDescriptorSet: `make proto` writes them."""
    return files("scripts.gateway").joinpath("triptych.binpb").read_bytes()


def openapi_text() -> str:
    """Return the description of the JSON form, OpenAPI 3.1: `make proto` writes it."""
    return files("scripts.gateway").joinpath("openapi.json").read_text("utf-8")


def methods_of(described: bytes) -> list[ApiMethod]:
    """Return the methods of the API, in the order of the proto, as a FileDescriptorSet has them."""
    return [
        _method(f"{file.package}.{service.name}/{method.name}", method)
        for file in api_files(described)
        for service in file.service
        for method in service.method
    ]


def offered(described: bytes) -> list[ApiMethod]:
    """Return those that others reach."""
    return [method for method in methods_of(described) if method.name not in NOT_OFFERED]


def api_files(described: bytes) -> Iterator[FileDescriptorProto]:
    """Yield the files of the API in a FileDescriptorSet."""
    yield from (file for file in FileDescriptorSet.FromString(described).file if file.package == PACKAGE)


def _method(name: str, method: MethodDescriptorProto) -> ApiMethod:
    rule = method.options.Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern") or ""
    return ApiMethod(
        name,
        scope_of(f"/{name}"),
        verb.upper(),
        getattr(rule, verb) if verb else "",
        method.client_streaming,
        method.server_streaming,
        method.input_type.removeprefix("."),
        method.output_type.removeprefix("."),
    )
