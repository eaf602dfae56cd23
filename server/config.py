"""Settings of a server; read once, in `main`."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

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
        user_cache_mb: megabytes of user vectors that a process keeps, at most.
        processes: query processes beside the one that owns the home; 1 for one process that does all.
        spare: query processes beyond these that have loaded everything, to take the place of one that dies.
        metrics_port: where Prometheus finds metrics by HTTP; None for nowhere, 0 for a free port.
        metrics_host: name or IP address that it listens on.
        otlp_endpoint: host:port or URL of an OpenTelemetry collector that takes traces; "" for none.
        trace_ratio: of calls that are traced, among those whose caller does not say.
        log_format: text or json.
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
    user_cache_mb: int = 128
    processes: int = 1
    spare: int = 1
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    otlp_endpoint: str = ""
    trace_ratio: float = 0.01
    log_format: Literal["text", "json"] = "text"

    @property
    def user_cache_bytes(self) -> int:
        """Bytes of user vectors that a process keeps, at most."""
        return self.user_cache_mb << 20

    def as_owner(self, address: str) -> "ServerConfig":
        """Return the settings of the process that owns the home, which listens on a unix socket alone."""
        return replace(self, host=address, tls_cert=None, tls_key=None)

    def on_port(self, port: int) -> "ServerConfig":
        """Return the settings with another port."""
        return replace(self, port=port)

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        content = asdict(self) | {"home": str(self.home.path)}
        for name in ("tls_cert", "tls_key"):
            content[name] = None if content[name] is None else str(content[name])
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str) -> "ServerConfig":
        """Read what `to_json` wrote."""
        content = json.loads(text)
        for name in ("tls_cert", "tls_key"):
            content[name] = None if content[name] is None else Path(content[name])
        return cls(**(content | {"home": Home(Path(content["home"]))}))
