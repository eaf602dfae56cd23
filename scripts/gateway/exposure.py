"""Which addresses a gateway may listen on: what it lets in is as if it called the servers itself."""

import grpc

from scripts.gateway.config import GatewayConfig
from server.addresses import Listening
from server.tls import TlsFiles
from triptych_client import CallError, Client

_SECONDS = 5.0


class GatewayExposedError(ValueError):
    """A gateway would let other machines in without TLS and tokens."""

    def __init__(self, host: str, lacks: str) -> None:
        super().__init__(
            f"{host} lets other machines in, and {lacks}. One of three ways goes on: --host 127.0.0.1; "
            f"--tls-cert and --tls-key, and tokens of the server (`triptych token create`); or --insecure, "
            f"for a network that you trust with everything"
        )
        self.host = host


def check_gateway(config: GatewayConfig, *, insecure: bool) -> None:
    """Check the files of a gateway, and that others reach it by TLS and with tokens alone.

    Whether servers ask for tokens they are asked themselves, by a call without one.

    Raises:
        TlsFilesError, OSError: a certificate or key cannot be used.
        BadAddressError: an address is not written as one.
        GatewayExposedError: other machines would get in without, and this is not said to be wanted.
    """
    files = TlsFiles.of(config.tls_cert, config.tls_key, None)
    if files is not None:
        files.load()
    if config.server_tls is not None:
        config.server_tls.credentials()
    if insecure or Listening.on(config.host, config.port).only_here:
        return
    lacking = [] if files is not None else ["there is no TLS"]
    lacking += filter(None, (_lack_of(address, config) for address in config.addresses))
    if lacking:
        raise GatewayExposedError(config.host, " and ".join(lacking))


def _lack_of(address: str, config: GatewayConfig) -> str:
    """Return what a server lacks; "" where it asks for tokens.  Raises: BadAddressError."""
    tls = config.server_tls
    ca, certificate, key = (None, None, None) if tls is None else (tls.ca, tls.certificate, tls.key)
    with Client(
        address, tls_ca=ca, tls_cert=certificate, tls_key=key, timeout=_SECONDS, connections=1
    ) as client:
        try:
            client.status()
        except CallError as error:
            if error.code is grpc.StatusCode.UNAUTHENTICATED:
                return ""
            if error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return f"{address} does not answer, so that nobody knows whether it asks for tokens"
    return f"{address} asks for no token"
