"""What a console is started with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from triptych_client.pb.v1 import triptych_pb2 as pb

# Makes a filter of kinds and conditions like year>=1999; raises ValueError where one is not of that form.
FilterReader = Callable[[Sequence[str], Sequence[str]], pb.Filter | None]


@dataclass(frozen=True)
class ConsoleConfig:
    """What a console is started with.

    Attributes:
        address: of the server that it asks.
        read_filter: reads conditions as people write them.
        host, port: where the page is; port 0 takes a free one.
        token: with which it asks; the page can do what the token may, and no more.
        tls_ca, tls_cert, tls_key: as the client takes them.
        write: whether changes are offered.
        timeout: seconds that a call has.
    """

    address: str
    read_filter: FilterReader
    host: str = "127.0.0.1"
    port: int = 8090
    token: str | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    write: bool = False
    timeout: float = 5.0
