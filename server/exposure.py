"""Which addresses a server may listen on without TLS and tokens."""

from server.addresses import Listening
from server.config import ServerConfig


class ExposedError(ValueError):
    """A server would let other machines in without TLS and tokens."""

    def __init__(self, host: str, lacks: str) -> None:
        super().__init__(
            f"{host} lets other machines in, and there is {lacks}. One of three ways goes on: "
            f"--host 127.0.0.1 (or unix:/path) behind a proxy on this machine; --tls-cert and --tls-key, and "
            f"a token by `triptych token create`; or --insecure, for a network that you trust with everything"
        )
        self.host = host


def check_exposure(config: ServerConfig) -> None:
    """Check that others reach a server by TLS and with tokens alone, or that this is not wanted.

    Raises:
        ExposedError: other machines would get in without.
        BadAddressError: the host is not written as one.
    """
    if config.insecure or Listening.on(config.host, config.port).only_here:
        return
    lacking = [
        name for name, there in (("no TLS", config.tls), ("no token", config.tokens.exists())) if not there
    ]
    if lacking:
        raise ExposedError(config.host, " and ".join(lacking))
