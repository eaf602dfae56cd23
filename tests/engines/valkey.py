"""The Valkey cluster of `bench engines`, for tests, and a node of it that speaks TLS."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.engines.valkey_cluster import (
    SLOTS,
    NodeHost,
    ValkeyNode,
    free_ports,
    is_whole,
    valkey_cluster,
)
from scripts.bench.engines.valkey_cluster import ThreeNodeCluster as ValkeyCluster

__all__ = ["SPEAKS_NO_TLS", "TlsNode", "ValkeyCluster", "program_with_tls", "tls_node", "valkey_cluster"]

SPEAKS_NO_TLS = "no redis-server or valkey-server with TLS here: apt-get install redis-tools"
_SECONDS = 60.0


def program_with_tls() -> Path | None:
    """Return a server of this machine that speaks TLS, which the one of the wheel does not.

    Debian's redis-tools has it, under the name by which it checks files; by another one it serves.
    """
    for name in ("valkey-server", "redis-server", "redis-check-rdb"):
        found = shutil.which(name)
        if found is not None:
            return Path(found).resolve()
    return None


@dataclass(frozen=True)
class TlsNode:
    """A cluster of one node, whose clients need TLS and a certificate of their own.

    Attributes:
        node: by its port without TLS, for tests alone.
        port: of TLS.
    """

    node: ValkeyNode
    port: int

    @property
    def url(self) -> str:
        return f"valkeys://127.0.0.1:{self.port}/home"


@contextmanager
def tls_node(folder: Path, certificate: tuple[Path, Path], root: Path) -> Iterator[TlsNode]:
    """Yield a node that shows a certificate, and takes those of a root."""
    plain, encrypted = free_ports((NodeHost(), NodeHost()))
    files = ("--tls-cert-file", certificate[0], "--tls-key-file", certificate[1], "--tls-ca-cert-file", root)
    options = ("--tls-port", str(encrypted), "--tls-cluster", "yes", *map(str, files))
    program = folder.with_name(f"{folder.name}-redis-server")  # the name says what the program is to do
    program.symlink_to(str(program_with_tls()))
    node = ValkeyNode(folder, NodeHost(), plain, options, str(program))
    try:
        node.start()
        node.client().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        deadline = time.monotonic() + _SECONDS
        while not is_whole(node, 1):
            assert time.monotonic() < deadline, "the node does not become a cluster"
            time.sleep(0.05)
        yield TlsNode(node, encrypted)
    finally:
        node.kill()
