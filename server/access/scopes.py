"""What a token must have for each method: said beside the method in the proto, read from there."""

from functools import cache

from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from server.pb.triptych.internal.v1 import owner_pb2
from triptych_client.pb.v1 import ingest_pb2, triptych_pb2

SCOPES = ("query", "ingest", "admin")
ANYBODY = "anybody"  # needs no token
ANY_TOKEN = "any token"  # noqa: S105  # a scope that each token has
NOBODY = "nobody"  # no token has it

_OF_OTHERS = {health.SERVICE_NAME: ANYBODY, reflection.SERVICE_NAME: ANY_TOKEN}


def scope_of(method: str) -> str:
    """Return the scope of a method such as /triptych.v1.Admin/Status; NOBODY where none is declared."""
    service, _, name = method.removeprefix("/").partition("/")
    return _OF_OTHERS.get(service) or _declared().get(f"{service}/{name}", NOBODY)


@cache
def _declared() -> dict[str, str]:
    files: tuple[tuple[FileDescriptor, object], ...] = (
        (triptych_pb2.DESCRIPTOR, triptych_pb2.scope),
        (ingest_pb2.DESCRIPTOR, ingest_pb2.ingest_scope),
        (owner_pb2.DESCRIPTOR, owner_pb2.rows_scope),
    )
    return {
        f"{service.full_name}/{method.name}": method.GetOptions().Extensions[option] or NOBODY  # type: ignore[index]
        for file, option in files
        for service in file.services_by_name.values()
        for method in service.methods
    }
