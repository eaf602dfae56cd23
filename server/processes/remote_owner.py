"""What a read replica asks of the owner of its home, and refuses where it does not know it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import grpc

from server.config import ServerConfig
from server.processes.owner_link import RowsOfOwner
from server.query import ReadReplicaError, StoredRows
from server.status import status_of_errors
from triptych_client import Client
from triptych_client.pb.v1 import ingest_pb2, triptych_pb2

_SERVICES = (
    ingest_pb2.DESCRIPTOR.services_by_name["Ingest"],
    triptych_pb2.DESCRIPTOR.services_by_name["Admin"],
)


def channel_to_owner(config: ServerConfig) -> grpc.Channel | None:
    """Return a channel to the owner, None where it is not known.

    Raises:
        BadAddressError, TlsFilesError, OSError: as a Client.
    """
    if not config.owner:
        return None
    return Client(config.owner, tls_ca=config.owner_ca, connections=1).channel


def rows_of(config: ServerConfig, channel: grpc.Channel | None) -> StoredRows:
    """Return what reads rows of the store."""
    if channel is None:
        return NoRows()
    return RowsOfOwner(channel, partial(_token, config), f"the owner {config.owner}")


class NoRows:
    """Rows of a store whose owner is not known."""

    def title_and_text(self, item_id: str) -> NoReturn:  # noqa: ARG002
        """Raise ReadReplicaError."""
        raise ReadReplicaError("an item as the subject")

    def item_table(self, item_id: str) -> NoReturn:  # noqa: ARG002
        """Raise ReadReplicaError."""
        raise ReadReplicaError("an item as the subject")

    def texts_of(self, user_id: str) -> NoReturn:  # noqa: ARG002
        """Raise ReadReplicaError."""
        raise ReadReplicaError("an explanation of a user with texts")


def add_refusing(server: grpc.Server) -> None:
    """Refuse every call of Ingest and Admin."""
    for service in _SERVICES:
        handlers = {}
        for method in service.methods:
            shape = "_".join(
                "stream" if streams else "unary"
                for streams in (method.client_streaming, method.server_streaming)
            )
            make: Callable[..., Any] = getattr(grpc, f"{shape}_rpc_method_handler")
            handlers[method.name] = make(partial(_refuse, method.name))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


def _refuse(name: str, _: object, context: grpc.ServicerContext) -> NoReturn:
    with status_of_errors(context):
        raise ReadReplicaError(name)
    raise AssertionError  # `status_of_errors` has raised


def _token(config: ServerConfig) -> tuple[tuple[str, str | bytes], ...]:
    if config.owner_token_file is None:
        return ()
    return (("authorization", f"Bearer {config.owner_token_file.read_text('utf-8').strip()}"),)
