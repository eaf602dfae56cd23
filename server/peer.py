"""Who makes a call, also where a query process passes it on."""

from collections.abc import Collection

import grpc

PEER_KEY = "triptych-peer"  # of metadata, on the owner's unix socket
AVAILABLE_KEY = "triptych-available"  # likewise: the caller is told of available items alone


def peer_of(context: grpc.ServicerContext) -> str:
    """Return the address of the caller as gRPC writes it, such as ipv4:127.0.0.1:40000.

    Of a call that a query process passes on it is that of the process's caller; only this machine reaches a
    unix socket.
    """
    peer: str = context.peer()
    if peer.startswith("unix:"):
        for key, value in context.invocation_metadata() or ():
            if key == PEER_KEY:
                return str(value)
    return peer


def is_passed_on(context: grpc.ServicerContext) -> bool:
    """Return whether a query process has passed a call on."""
    return str(context.peer()).startswith("unix:") and any(
        key == PEER_KEY for key, _ in context.invocation_metadata() or ()
    )


def sees_available_alone(context: grpc.ServicerContext, scopes: Collection[str] | None) -> bool:
    """Return whether the caller is told of available items alone, because its token only asks.

    Args:
        context: of the call.
        scopes: of the token of the call; None where no token is needed here. A query process that has passed
            the call on has asked for the token, and says in its metadata what it found.
    """
    if scopes is not None:
        return not {"ingest", "admin"} & set(scopes)
    return any(key == AVAILABLE_KEY for key, _ in context.invocation_metadata() or ())
