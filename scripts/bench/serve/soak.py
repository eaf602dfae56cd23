"""triptych bench soak: half of what a server can answer, with writes, for long, and its memory."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from scripts.bench.serve.callers import Callers, ClosedLoop, OpenLoop, ask
from scripts.bench.serve.servers import ServerUnderTest
from scripts.bench.serve.work import Work
from triptych_client import Behavior, CallError, Client, Item, Text

log = logging.getLogger(__name__)

_PEAK_CALLERS, _PEAK_SECONDS = 16, 5.0
_ROWS = 100  # behaviours of a write
_PAUSE_SECONDS = 0.2  # between writes
_ITEMS = 200  # that are put and deleted in turn, so that the home does not grow by them
_SAMPLES = 120  # of memory, over the whole time
_MIB = 1 << 20
_CHILD = "server.processes.child"  # before the role in a command line


@dataclass(frozen=True)
class SoakOptions:
    """How long, and how much.

    Attributes:
        seconds: in all.
        share: of the peak, at which queries come.
        warm_up: share of the time after which memory is compared.
        clients: processes of callers.
        connections: of each.
    """

    seconds: float = 1_800.0
    share: float = 0.5
    warm_up: float = 0.2
    clients: int = 2
    connections: int = 1


@dataclass
class _Written:
    writes: int = 0
    failed: list[str] = field(default_factory=list)


def measure_soak(
    server: ServerUnderTest, work: Work, item_ids: Sequence[str], options: SoakOptions
) -> dict[str, Any]:
    """Return errors, latencies and the memory of a server that is asked and written to for long.

    Args:
        server: under test.
        work: what is asked.
        item_ids: of the home, which people are said to have viewed.
        options: how long, and how much.
    """
    ask(server.address, work, len(work.requests))
    with Callers(options.clients, options.connections) as callers:
        peak_loop = ClosedLoop(_PEAK_CALLERS, _PEAK_SECONDS)
        peak = callers.measure(server.address, work, peak_loop, server.cpu).throughput
        loop = OpenLoop(options.share * peak, options.seconds)
        with _memory(server, options.seconds) as memory, _writing(server.address, item_ids) as written:
            load = callers.measure(server.address, work, loop, server.cpu, tolerant=True)
    by_role = {role: [one.get(role, 0.0) for one in memory] for role in memory[0]}
    first = int(options.warm_up * len(memory))
    warm = {role: float(np.median(series[first : first + 10])) for role, series in by_role.items()}
    end = {role: float(np.median(series[-10:])) for role, series in by_role.items()}
    log.info("bench soak: done")
    return {
        "seconds": load.seconds,
        "queries_per_second": load.throughput,
        "p50_ms": load.percentile(50),
        "p99_ms": load.percentile(99),
        "failed": dict(load.failed),
        "writes": written.writes,
        "failed_writes": written.failed,
        "memory_warm_mib": sum(warm.values()),
        "memory_end_mib": sum(end.values()),
        "memory_growth": sum(end.values()) / sum(warm.values()),
        "growth_by_role": {role: end[role] / warm[role] for role in warm},
        "memory_mib": by_role,
    }


@contextmanager
def _memory(server: ServerUnderTest, seconds: float) -> Iterator[list[dict[str, float]]]:
    """Yield MiB that a server's processes have for themselves by role, taken evenly while the block runs."""
    over, taken = threading.Event(), list[dict[str, float]]()

    def take() -> None:
        while True:
            taken.append({role: used / _MIB for role, used in private_bytes(server.pids).items()})
            if over.wait(seconds / _SAMPLES):
                return

    thread = threading.Thread(target=take, name="memory")
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


def private_bytes(pids: Sequence[int]) -> dict[str, int]:
    """Return the bytes that processes and their children have written for themselves, summed by role.

    Pages of files that only one of them has mapped are not among these: the kernel drops them when it needs
    room. The role is "owner" or "query" in a server of several processes; "server" is all else.
    """
    taken = Counter[str]()
    for pid in pids:
        try:
            parent = psutil.Process(pid)
            for one in (parent, *parent.children(recursive=True)):
                words = one.cmdline()
                role = words[words.index(_CHILD) + 1] if _CHILD in words else "server"
                taken[role] += _written_bytes(one.pid)
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):  # one was replaced
            continue
    return dict(taken)


def _written_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Anonymous:"))


@contextmanager
def _writing(address: str, item_ids: Sequence[str]) -> Iterator[_Written]:
    """Write behaviours, texts and items all the time while the block runs."""
    over, written = threading.Event(), _Written()

    def write() -> None:
        generator = np.random.default_rng(0)
        with Client(address, timeout=60) as client:
            while not over.wait(_PAUSE_SECONDS):
                number = written.writes
                people = [f"soak-{one}" for one in generator.integers(2_000, size=_ROWS)]
                viewed = [item_ids[one] for one in generator.integers(len(item_ids), size=_ROWS)]
                item = f"soak-item-{number % _ITEMS}"
                try:
                    client.append_behaviors(
                        [Behavior(*row, "view") for row in zip(people, viewed, strict=True)]
                    )
                    client.append_texts([Text(people[0], f"I like {item} and {viewed[0]}")])
                    if number // _ITEMS % 2:
                        client.delete_items([item])
                    else:
                        client.put_items([Item(item, item, f"the story of {item}", "soak", {}, True, None)])
                except CallError as error:
                    written.failed.append(str(error))
                written.writes += 1

    thread = threading.Thread(target=write, name="writes")
    thread.start()
    try:
        yield written
    finally:
        over.set()
        thread.join()
