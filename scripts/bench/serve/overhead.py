"""triptych bench overhead: what tokens, metrics, logs and traces cost a stored user's query."""

import logging
import os
import shutil
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scripts.bench.serve.callers import Callers, ClosedLoop, Load, ask
from scripts.bench.serve.servers import ServerUnderTest, own_server
from scripts.bench.serve.work import Work
from scripts.connection import TOKEN_VARIABLE
from server.access import TokenFile
from server.config import TOKENS
from store.home import Home

log = logging.getLogger(__name__)

PLAIN, WATCHED, AGAIN = "plain", "tokens, metrics, JSON logs, traces of 1 %", "plain again"
_OPTIONS = ("--metrics-port", "0", "--log-format", "json", "--traces-ratio", "0.01")


@dataclass(frozen=True)
class OverheadOptions:
    """How to measure: `rounds` of `seconds` for each server by turns, `callers` at once.

    Attributes:
        collector: of traces, host:port; "" leaves them out.
    """

    rounds: int = 15
    seconds: float = 1.0
    callers: int = 16
    clients: int = 2
    collector: str = ""


def measure_overhead(home: Home, work: Work, folder: Path, options: OverheadOptions) -> dict[str, Any]:
    """Return throughput and processor time of a watched server over a plain one's, by turns.

    Each server has a copy of the home. A third one is plain, too: how far it is from the first is how much
    such a comparison can tell.

    Raises:
        CallFailedError: a call got an error.
        CommandFailedError: a server does not start.
    """
    loads: dict[str, list[Load]] = {PLAIN: [], WATCHED: [], AGAIN: []}
    with ExitStack() as stack:
        places = {name: Home(folder / str(number)) for number, name in enumerate(loads)}
        for place in places.values():
            shutil.copytree(home.path, place.path, ignore=shutil.ignore_patterns(TOKENS))
        tokens = TokenFile(places[WATCHED].path / TOKENS)
        _, secret = tokens.create(("query",), datetime.now(UTC), name="bench overhead")
        traces = ("--traces-endpoint", options.collector) if options.collector else ()
        watched = (*_OPTIONS, *traces) if traces else _OPTIONS[:4]
        stack.enter_context(_variable(TOKEN_VARIABLE, secret))  # plain servers do not look at it
        servers: dict[str, ServerUnderTest] = {
            name: stack.enter_context(
                own_server(place, 8, options=watched if name == WATCHED else ("--no-figures",))
            )
            for name, place in places.items()
        }
        callers = stack.enter_context(Callers(options.clients, 1))
        for server in servers.values():
            ask(server.address, work, len(work.requests))
        loop = ClosedLoop(options.callers, options.seconds)
        for turn in tqdm(range(options.rounds), desc="bench overhead", disable=None):
            for name in list(servers)[:: -1 if turn % 2 else 1]:
                server = servers[name]
                loads[name].append(callers.measure(server.address, work, loop, server.cpu))
    log.info("bench overhead: done")
    return {"results": [_row(name, loads[name], loads[PLAIN]) for name in loads]}


def _row(name: str, loads: list[Load], plain: list[Load]) -> dict[str, Any]:
    def cpu(load: Load) -> float:
        return 1e3 * load.server_cpu / len(load.latencies)

    pairs = list(zip(loads, plain, strict=True))
    return {
        "server": name,
        "per_second": statistics.median(load.throughput for load in loads),
        "server_cpu_ms": statistics.median(map(cpu, loads)),
        "throughput_over_plain": statistics.median(one.throughput / other.throughput for one, other in pairs),
        "cpu_over_plain": statistics.median(cpu(one) / cpu(other) for one, other in pairs),
    }


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Set a variable of the environment while the block runs."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
