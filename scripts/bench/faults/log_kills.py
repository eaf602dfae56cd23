"""kill -9 of consumer, server and NATS while events go from one to the other: each counts once, in order."""

import asyncio
import json
import logging
import random
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import nats
from nats.errors import Error
from nats.js import JetStreamContext
from tqdm import tqdm

from scripts.bench import small_home
from scripts.bench.faults.nats_server import NatsServer, free_port, nats_server
from store.home import Home
from store.store import Store
from triptych_client import CallError, Client
from triptych_client.pb.v1 import ingest_pb2 as pb

log = logging.getLogger(__name__)

PARTS = ("consumer", "server", "nats")
STREAM = "FAULTS"
_ACTION, _ORDERED = "log-fault", "log-order"
_ORDERED_EVERY = 10  # of these events, one sets the weight of one row to its own number
_IN_FLIGHT = 200  # events that are published before the first of them must be stored
_BEGINNING = 1_700_000_000  # seconds since 1970; each event has a microsecond of its own
_PAUSE_SECONDS = (0.2, 3.0)  # between two kills
_END_SECONDS = 600.0


def log_rounds(home: Home, rounds: int, events: int, folder: Path, chance: random.Random) -> dict[str, Any]:
    """Publish events, consume them, and kill one of the parts `rounds` times meanwhile; return the counts.

    `lost`: events that are not there; `mixed`: events that counted twice, and an order that is not theirs;
    `failed`: a consumer that gave up, or one that did not come to the end.

    Raises:
        NoNatsServerError: there is none to run.
        CommandFailedError: the server does not start for the first time.
    """
    with Store.open(home.database) as store, store.snapshot() as cursor:
        items = [row[0] for row in cursor.execute("SELECT item_id FROM data.items LIMIT 50").fetchall()]
    payloads = [_event(number, items) for number in range(1, events + 1)]
    with nats_server(folder / "nats") as broker, _Parts(home, broker, folder) as parts:
        broker.call(lambda streams: streams.add_stream(name=STREAM, subjects=["faults.>"]))
        seconds = rounds * sum(_PAUSE_SECONDS) / 2  # so long that the last kill still meets events
        publisher = threading.Thread(target=_publish, args=(broker.url, payloads, seconds))
        publisher.start()
        killed = 0
        for _ in tqdm(range(rounds), desc="log", disable=None):
            time.sleep(chance.uniform(*_PAUSE_SECONDS))
            parts.kill(chance.choice(PARTS))
            killed += 1
        publisher.join()
        standing = parts.wait_for(events)
        gave_up = parts.gave_up()
    rows, last = _rows(home)
    ordered = events // _ORDERED_EVERY
    expected = events - max(0, ordered - 1)  # each but one of the ordered ones updates a row
    twice = standing.unchanged + max(0, standing.events - events) + max(0, rows - expected)
    disordered = ordered > 0 and last != ordered * _ORDERED_EVERY
    log.info("bench faults: the server says %s", " ".join(str(standing).split()))
    return {
        "tried": rounds,
        "killed": killed,
        "lost": max(0, events - standing.events) + max(0, expected - rows) + standing.rejected_rows,
        "mixed": twice + disordered,
        "failed": gave_up + (standing.events < events),
        "events": standing.events,
        "inserted": standing.inserted,
        "updated": standing.updated,
    }


class _Parts:
    """A server on a home, and a consumer, as processes that are killed and started again."""

    def __init__(self, home: Home, broker: NatsServer, folder: Path) -> None:
        self._home, self._broker = home, broker
        self.address = f"127.0.0.1:{free_port()}"
        serve = ("serve", "--home", str(home.path), "--port", self.address.rpartition(":")[2])
        consume = ("consume", "--from", f"{broker.url}/{STREAM}", "--address", self.address, "--batch", "200")
        self._commands = {"server": serve, "consumer": consume}
        self._logs = {name: folder / f"{name}.log" for name in self._commands}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._gave_up = 0

    def __enter__(self) -> "_Parts":
        for name in self._commands:
            self._start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()

    def _start(self, name: str) -> None:
        with self._logs[name].open("ab") as output:
            command = small_home.command(*self._commands[name])
            self._running[name] = subprocess.Popen(command, stdout=output, stderr=output)

    def kill(self, name: str) -> None:
        """Kill a part, and start it again."""
        if name == "nats":
            self._broker.kill()
            self._broker.start()
            return
        self._gave_up += self._running[name].poll() is not None
        self._running[name].kill()
        self._running[name].wait()
        self._start(name)

    def gave_up(self) -> int:
        """Return how often a part had ended before it was killed."""
        return self._gave_up + sum(process.poll() is not None for process in self._running.values())

    def wait_for(self, events: int) -> pb.ApplyLogResponse:
        """Wait until the server has so many events, or for ten minutes; return where it stands."""
        deadline, standing = time.monotonic() + _END_SECONDS, pb.ApplyLogResponse()
        with Client(self.address, connections=1) as client:
            while standing.events < events and time.monotonic() < deadline:
                time.sleep(0.1)
                with suppress(CallError):
                    standing = client.apply_log(f"nats/{STREAM}")
        return standing


def _event(number: int, items: list[str]) -> bytes:
    """Return an event: a behaviour of its own, or now and then another weight of a shared one."""
    row: dict[str, object] = {"user_id": f"log-{number % 97}", "item_id": items[number % len(items)]}
    if number % _ORDERED_EVERY == 0:
        row = {"user_id": "log-order", "item_id": items[0], "action": _ORDERED, "weight": number}
    else:
        seconds, micros = divmod(number, 1_000_000)
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(_BEGINNING + seconds))
        row |= {"action": _ACTION, "ts": f"{at}.{micros:06d}Z"}
    return json.dumps({"append_behaviors": {"behaviors": [row]}}).encode()


def _publish(url: str, payloads: list[bytes], seconds: float) -> None:
    """Publish events in their order within some seconds or more, each stored once.

    Whatever is not known to be stored is sent again.
    """
    pause = seconds * _IN_FLIGHT / len(payloads)

    async def ignore(_: Exception) -> None:
        """What fails is sent again."""

    async def run(at: int) -> int:
        """Publish from one event on; return the first that is not known to be stored."""
        connection = await nats.connect(url, allow_reconnect=False, error_cb=ignore)
        try:
            streams = connection.jetstream(timeout=5.0)
            while at < len(payloads):
                group = payloads[at : at + _IN_FLIGHT]
                await asyncio.gather(*(_store(streams, at + i, one) for i, one in enumerate(group)))
                at += len(group)
                await asyncio.sleep(pause)
        except (TimeoutError, Error, OSError):
            return at
        finally:
            with suppress(Error, OSError, asyncio.TimeoutError):
                await connection.close()
        return at

    at = 0
    while at < len(payloads):
        with suppress(Error, OSError, asyncio.TimeoutError):
            at = asyncio.run(run(at))
        time.sleep(0.05)


async def _store(streams: JetStreamContext, number: int, payload: bytes) -> None:
    await streams.publish("faults.one", payload, headers={"Nats-Msg-Id": str(number)})


def _rows(home: Home) -> tuple[int, int]:
    """Return the number of behaviours that the events made, and the weight of the ordered one."""
    with Store.open(home.database) as store, store.snapshot() as cursor:
        sql = "SELECT count(*), max(weight) FILTER (action = $2) FROM data.behaviors WHERE action IN ($1, $2)"
        rows, weight = cursor.execute(sql, [_ACTION, _ORDERED]).fetchall()[0]
    return int(rows), int(weight or 0)
