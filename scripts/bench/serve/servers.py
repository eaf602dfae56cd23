"""Servers under test: ours and the empty method, with their addresses and the processor time they take."""

import ipaddress
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from scripts.bench.small_home import address_in, command, process
from store.home import Home

OURS, EMPTY = "triptych", "empty"


class NotLoopbackError(ValueError):
    """A benchmark would load a machine other than this one."""

    def __init__(self, address: str) -> None:
        super().__init__(f"{address!r} is not on this machine; a benchmark loads only loopback addresses")
        self.address = address


@dataclass(frozen=True)
class ServerUnderTest:
    """A server: `name` triptych or empty, its address, its processes."""

    name: str
    address: str
    pids: tuple[int, ...]

    def cpu(self) -> float:
        """Return the processor seconds that its processes, and theirs, have had so far; 0 of unknown ones."""
        return sum(_cpu(pid) for pid in self.pids)


def check_loopback(address: str) -> None:
    """Refuse an address of another machine.  Raises: NotLoopbackError."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise NotLoopbackError(address)


def running_server(address: str, home: Home) -> ServerUnderTest:
    """Return a server that runs already; its processes are known where the home's server.json names it.

    Raises:
        NotLoopbackError: the address is not on this machine.
    """
    check_loopback(address)
    told = announced(home)
    return ServerUnderTest(OURS, address, (told["pid"],) if told.get("address") == address else ())


@contextmanager
def own_server(
    home: Home, workers: int, processes: int = 1, options: Sequence[str] = ()
) -> Iterator[ServerUnderTest]:
    """Yield `triptych serve` on a home, with further options.  Raises: CommandFailedError."""
    arguments = ["serve", "--home", str(home.path), "--port", "0", "--workers", str(workers), *options]
    if processes > 1:
        arguments += ["--processes", str(processes)]
    with process(command(*arguments), home.server_file) as running:
        wait_for_query_processes(home, processes)
        yield ServerUnderTest(OURS, address_in(home.server_file), (running.pid,))


def wait_for_query_processes(home: Home, processes: int, seconds: float = 60.0) -> None:
    """Wait until server.json names so many query processes; one process alone has none.

    Raises:
        TimeoutError: it does not within the time.
    """
    deadline = time.monotonic() + seconds
    while processes > 1 and len(announced(home).get("query_pids", ())) != processes:
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{home.server_file} does not name {processes} query processes: {announced(home)}"
            )
        time.sleep(0.02)


def announced(home: Home) -> dict[str, Any]:
    """Return what server.json says; nothing where there is none."""
    try:
        said: dict[str, Any] = json.loads(home.server_file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return said


@contextmanager
def empty_server(
    folder: Path, replies: Mapping[str, bytes], workers: int, processes: int = 1
) -> Iterator[ServerUnderTest]:
    """Yield the empty method: so many processes on one port that answer each kind with its reply.

    Their files go to a folder.
    """
    for kind, reply in replies.items():
        (folder / f"{kind}.bin").write_bytes(reply)
    module = [sys.executable, "-m", "scripts.bench.serve.empty_method", str(folder)]
    shared, port, pids = "--shared" if processes > 1 else "--no-shared", "0", []
    with ExitStack() as stack:
        for number in range(processes):
            told = folder / f"empty-{number}.json"
            arguments = [*module, str(told), "--workers", str(workers), shared, "--port", port]
            pids.append(stack.enter_context(process(arguments, told)).pid)
            address = address_in(told)
            port = address.rpartition(":")[2]
        yield ServerUnderTest(EMPTY, address, tuple(pids))


def _cpu(pid: int) -> float:
    """Return the processor seconds of a process and of its children; of ended ones nothing."""
    try:
        parent = psutil.Process(pid)
        times = [parent.cpu_times(), *(child.cpu_times() for child in parent.children(recursive=True))]
    except psutil.NoSuchProcess:
        return 0.0
    return sum(one.user + one.system for one in times)
