"""kill -9 of a query process, or of the owner, of a server of several processes, under load."""

import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from tqdm import tqdm

from scripts.bench.faults.server_kills import Written, append_rows, check_appended
from scripts.bench.faults.watchers import FailedCall, Watched, ask_for, watching
from scripts.bench.serve.servers import announced, own_server
from store.export import Export
from store.home import Home
from triptych_client import CallError, Client

log = logging.getLogger(__name__)

_USERS = 32
_K = 20
_IN_FLIGHT_SECONDS = 0.25  # after a kill until a client knows that the connection is gone
_PATIENCE_SECONDS = 60.0
_LONGEST_SECONDS = 0.6  # of writing before the owner is killed
_PEOPLE = 10_000  # more than anybody writes in that time
_ROWS = 5


class TooFewProcessesError(ValueError):
    """A stage kills one process of several, and there is to be one alone."""

    def __init__(self, processes: int) -> None:
        super().__init__(f"--processes is {processes}: the stages process and owner need 2 or more")
        self.processes = processes


@dataclass(frozen=True)
class Kill:
    """A kill: when, and after how many seconds server.json named all processes again."""

    at: float
    replaced_after: float


@dataclass(frozen=True)
class KillTimes:
    """Seconds between the kills of query processes, and those within which each must be replaced."""

    pause: float = 2.0
    replaced_within: float = 3.0


def process_rounds(
    home: Home, rounds: int, processes: int, times: KillTimes, folder: Path, chance: random.Random
) -> dict[str, Any]:
    """Kill a query process now and then; return the counts.

    `failed`: calls that failed otherwise than UNAVAILABLE in flight, and processes that were not replaced in
    time. `mixed`: wrong answers.

    Raises:
        TooFewProcessesError: `processes` is 1.
        CommandFailedError: the server does not start.
    """
    with _watched_server(home, processes, folder) as (_, watched):
        kills = []
        for _ in tqdm(range(rounds), desc="process", disable=None):
            time.sleep(times.pause)
            victim = chance.choice(announced(home)["query_pids"])
            kills.append(_kill(victim, partial(_all_there, home, processes, victim)))
        time.sleep(_IN_FLIGHT_SECONDS)
    allowed, others = in_flight(watched.failures, kills)
    late = [kill for kill in kills if kill.replaced_after > times.replaced_within]
    _tell("process", watched.wrong, others, [f"replaced after {kill.replaced_after:.1f} s" for kill in late])
    return {
        "tried": rounds,
        "killed": rounds,
        "lost": 0,
        "mixed": len(watched.wrong),
        "failed": len(others) + len(late),
        "queries": watched.answers,
        "in_flight": len(allowed),
        "slowest_replacement_s": max(kill.replaced_after for kill in kills),
    }


def owner_rounds(
    home: Home, rounds: int, processes: int, folder: Path, chance: random.Random
) -> dict[str, Any]:
    """Kill the owner amid writes and queries; return the counts.

    `lost`: an acknowledged write that is not there, or not seen by a query, afterwards; `mixed`: a request
    written by half or twice, and wrong answers; `failed`: queries that failed, writes that failed otherwise
    than UNAVAILABLE, and owners that did not come back.

    Raises:
        TooFewProcessesError: `processes` is 1.
        CommandFailedError: the server does not start.
    """
    lost = mixed = failed = killed = 0
    slowest = 0.0
    with _watched_server(home, processes, folder) as (address, watched), Client(address) as client:
        items = list(client.query(user_id="nobody", k=_ROWS).item_ids)
        for number in tqdm(range(rounds), desc="owner", disable=None):
            written = Written()
            people = [f"owner-{number}-{i}" for i in range(_PEOPLE)]
            with ThreadPoolExecutor(1) as pool, Client(address, timeout=2.0) as writer:
                writing = pool.submit(append_rows, writer, people, items, written)
                time.sleep(chance.uniform(0.0, _LONGEST_SECONDS))
                killed += not writing.done()
                victim = int(announced(home)["owner_pid"])
                kill = _kill(victim, partial(_new_owner, home, processes, victim))
                written.ended.set()
                writing.result()
            slowest = max(slowest, kill.replaced_after)
            failed += written.code not in ("", grpc.StatusCode.UNAVAILABLE.name)
            try:
                with Client(address, timeout=_PATIENCE_SECONDS) as patient:
                    found = check_appended(patient, written, items)
                lost, mixed = lost + found[0], mixed + found[1]
            except CallError as error:
                log.error("after a kill of the owner: %s", error)
                failed += 1
    _tell("owner", watched.wrong, watched.failures, ())
    return {
        "tried": rounds,
        "killed": killed,
        "lost": lost,
        "mixed": mixed + len(watched.wrong),
        "failed": failed + len(watched.failures),
        "queries": watched.answers,
        "slowest_replacement_s": slowest,
    }


def in_flight(
    failures: Sequence[FailedCall], kills: Sequence[Kill]
) -> tuple[list[FailedCall], list[FailedCall]]:
    """Part the failures into those of calls that a kill met in flight, UNAVAILABLE, and the others.

    A call that a client sends before it knows that the connection is gone counts as in flight.
    """
    allowed: list[FailedCall] = []
    others: list[FailedCall] = []
    for failure in failures:
        met = any(failure.began - _IN_FLIGHT_SECONDS <= kill.at <= failure.ended for kill in kills)
        (allowed if met and failure.code == "UNAVAILABLE" else others).append(failure)
    return allowed, others


@contextmanager
def _watched_server(home: Home, processes: int, folder: Path) -> Iterator[tuple[str, Watched]]:
    """Yield the address of a server under queries, and what the watchers see."""
    if processes < 2:
        raise TooFewProcessesError(processes)
    with Export.latest(home.exports) as export:
        users = export.users().to_pylist()[:_USERS]
    with own_server(home, 8, processes) as server:
        replies = ask_for(server.address, users, _K)
        expected = {home.current_index.read_text("utf-8").strip(): replies}
        with watching(server.address, expected, folder) as watched:
            yield server.address, watched


def _kill(pid: int, replaced: Callable[[], bool]) -> Kill:
    """Kill a process and wait until it is replaced, or for a minute, which counts as that."""
    at = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while not replaced() and time.monotonic() - at < _PATIENCE_SECONDS:
        time.sleep(0.01)
    return Kill(at, time.monotonic() - at)


def _all_there(home: Home, processes: int, without: int) -> bool:
    pids = announced(home).get("query_pids", ())
    return len(pids) == processes and without not in pids


def _new_owner(home: Home, processes: int, without: int) -> bool:
    said = announced(home)
    return said.get("owner_pid", without) != without and len(said.get("query_pids", ())) == processes


def _tell(stage: str, wrong: Sequence[str], failures: Sequence[FailedCall], more: Sequence[str]) -> None:
    for found in (*wrong[:5], *failures[:5], *more[:5]):
        log.error("%s: %s", stage, found)
