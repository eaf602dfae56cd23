"""kill -9 of a server amid writes and amid erasures, and what the next one knows."""

import logging
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from subprocess import Popen

from tqdm import tqdm

from scripts.bench import small_home
from scripts.bench.faults.home_checks import FaultCounts
from store.home import Home
from triptych_client import Behavior, CallError, Client, Impression, Text, Tie
from triptych_client.pb.v1 import triptych_pb2 as pb

log = logging.getLogger(__name__)

WRITES = ("ingest", "erase")
_LONGEST_SECONDS = 0.6  # from the first call to the kill
_PATIENCE_SECONDS = 2.0  # of the client, which would wait longer for the killed server to come back
_PEOPLE = 12  # of a round of erasures
_ROWS = 5
_HUB = "faults-hub"


@dataclass
class Written:
    """The calls of a client until one failed or it was told to end.

    Attributes:
        done: the users whose calls were all acknowledged.
        asked: those, and the one whose call failed.
        code: of the failure; "" where none was.
        ended: set to end the writing.
    """

    done: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    code: str = ""
    ended: threading.Event = field(default_factory=threading.Event)


def write_rounds(name: str, home: Home, rounds: int, chance: random.Random) -> FaultCounts:
    """Return the counts of `rounds` kills of a server on a home amid writes ("ingest") or erasures ("erase").

    Raises:
        CommandFailedError: a server does not start for the first time.
    """
    counts = FaultCounts()
    log.info("bench faults: %d rounds of %s", rounds, name)
    work, check = (append_rows, check_appended) if name == "ingest" else (_erase, _check_erased)
    for number in tqdm(range(rounds), desc=name, disable=None):
        counts.tried += 1
        done = Written()
        with _server(home) as (process, client):
            items = list(client.query(user_id="nobody", k=_ROWS).item_ids)
            people = [f"{name}-{number}-{i}" for i in range(_PEOPLE if name == "erase" else 10_000)]
            if name == "erase":
                for person in people:
                    _add(client, person, items)
            with ThreadPoolExecutor(1) as pool, Client(client.address, timeout=_PATIENCE_SECONDS) as worker:
                future = pool.submit(work, worker, people, items, done)
                counts.killed += _kill(process, future, chance.uniform(0.0, _LONGEST_SECONDS))
        try:
            with _server(home) as (_, client):
                lost, mixed = check(client, done, items)
                counts.lost += lost
                counts.mixed += mixed
        except (small_home.CommandFailedError, CallError) as error:
            log.error("after a kill amid %s: %s", name, error)
            counts.failed += 1
    log.info("bench faults: %s: %s", name, counts)
    return counts


@contextmanager
def _server(home: Home) -> Iterator[tuple["Popen[bytes]", Client]]:
    home.server_file.unlink(missing_ok=True)
    command = small_home.command("serve", "--home", str(home.path), "--port", "0")
    with (
        small_home.process(command, home.server_file) as process,
        Client(small_home.address_in(home.server_file)) as client,
    ):
        yield process, client


def _kill(process: "Popen[bytes]", work: "Future[None]", delay: float) -> bool:
    """Kill a server after some time, wait for who worked with it; return whether the work was amid."""
    time.sleep(delay)
    amid = not work.done()
    process.kill()
    process.wait()
    work.result()
    return amid


def append_rows(client: Client, people: list[str], items: list[str], work: Written) -> None:
    """Give people rows one after another, until a call fails."""
    for person in people:
        if work.ended.is_set():
            return
        work.asked.append(person)
        try:
            _add(client, person, items)
        except CallError as error:
            work.code = error.code.name
            return
        work.done.append(person)


def _add(client: Client, person: str, items: list[str]) -> None:
    """Give a person rows in four requests, whose ids are theirs."""
    client.append_behaviors([Behavior(person, item) for item in items], request_id=f"{person}-h")
    client.append_texts([Text(person, f"{person} wrote this")], request_id=f"{person}-t")
    client.put_friends([Tie(person, _HUB), Tie(_HUB, person)], request_id=f"{person}-s")
    shown = [Impression(person, item, query_id="q", clicked=True) for item in items]
    client.append_impressions(shown, request_id=f"{person}-i")


def _whole(items: list[str]) -> dict[str, int]:
    """Return the numbers of the rows of a person to whom `_add` gave all of them, by table."""
    return {"behaviors": len(items), "texts": 1, "social": 1, "impressions": len(items), "named_by": 1}


def _erase(client: Client, people: list[str], _: list[str], work: Written) -> None:
    for person in people:
        work.asked.append(person)
        try:
            client.erase_user(person)
        except CallError:
            return
        work.done.append(person)


def check_appended(client: Client, work: Written, items: list[str]) -> tuple[bool, bool]:
    """Return whether an acknowledged write is lost, and whether a request was written by half, or twice."""
    whole = _whole(items)
    lost = mixed = False
    for person in work.asked:
        rows = _rows(client, person)
        mixed |= any(rows.get(table, 0) not in (0, count) for table, count in whole.items())
        if person in work.done:
            seen = client.query(user_id=person, k=1000)
            visible = pb.VIEW_HISTORY in seen.views_used and not set(items) & set(seen.item_ids)
            lost |= rows != whole or not visible
        else:
            _add(client, person, items)  # as a client does that got no answer
            mixed |= _rows(client, person) != whole
    return _said(lost, "an acknowledged write"), _said(mixed, "half a request")


def _check_erased(client: Client, work: Written, items: list[str]) -> tuple[bool, bool]:
    """Return whether an erased person came back, and whether one was erased by half."""
    whole = _whole(items)
    friends = {str(row["friend_id"]) for row in client.export_user(_HUB).get("social", [])}
    lost = mixed = False
    for person in work.asked:
        rows = _rows(client, person)
        fallback = client.query(user_id=person, k=1).fallback == pb.FALLBACK_POPULARITY
        lost |= person in work.done and (bool(rows) or not fallback or person in friends)
        mixed |= rows not in ({}, whole) or bool(rows) != (person in friends) or bool(rows) == fallback
    return _said(lost, "an erased person"), _said(mixed, "half a person")


def _rows(client: Client, person: str) -> dict[str, int]:
    found = client.export_user(person)
    return {table: len(rows) for table, rows in found.items() if table not in ("models", "indexes")}


def _said(found: bool, what: str) -> bool:
    if found:
        log.error("after a kill there was %s", what)
    return found
