"""Settings of a server; read once, in `main`."""

from dataclasses import dataclass
from pathlib import Path

from store.home import Home

MAX_MESSAGE_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class ServerConfig:
    """Settings of one server process.

    Attributes:
        home: the home directory; the process owns its store.
        host, port: where it listens; port 0 takes a free one; host unix:/path has none.
        workers: calls answered at once, of each kind.
        queue: calls of a kind that wait beyond these; further ones get RESOURCE_EXHAUSTED.
        encode_threads: threads of the language model per call.
        grace_seconds: how long running calls may take to finish at shutdown.
        tls_cert, tls_key: PEM files; both or neither.
    """

    home: Home
    host: str = "127.0.0.1"
    port: int = 50051
    workers: int = 8
    queue: int = 256
    encode_threads: int = 1
    grace_seconds: float = 10.0
    tls_cert: Path | None = None
    tls_key: Path | None = None
