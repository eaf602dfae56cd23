"""triptych demo: the whole path on a generated world, with a server in a process of its own at its end."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from scripts.console.background import ConsoleNotInstalledError, start_console, stop_console
from scripts.evaluate import evaluate_command
from scripts.exchange import import_command
from scripts.gateway.background import start_gateway, stop_gateway
from scripts.gateway.process import EnvoyNotInstalledError
from scripts.home_access import server_of
from scripts.query import reply_table
from scripts.reindex import reindex_command
from scripts.terminal import HomeOption
from scripts.train import TaskName, train_command
from store.home import Home
from triptych_client import Client

log = logging.getLogger(__name__)

_MARKER = "demo.json"
_START_SECONDS = 120.0


class NotADemoHomeError(FileExistsError):
    """The demo would clear a directory that it did not make."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} exists and was not made by the demo: name another --home, or remove it")


class ServerStartError(RuntimeError):
    """The server process ended, or did not begin to serve in time."""


def demo_command(
    home: HomeOption,
    users: Annotated[int, typer.Option(min=200, help="Size of the generated world.")] = 2000,
    items: Annotated[int, typer.Option(min=150, help="Size of the generated world.")] = 1500,
    seed: Annotated[int, typer.Option(help="Another seed, another world.")] = 7,
    impressions: Annotated[
        bool,
        typer.Option("--impressions", help="Also impressions, and a head of clicks."),
    ] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Leave the server up, a gateway and a console.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
) -> None:
    """Try everything on a small generated world.

    Imports it, trains, reindexes, evaluates, serves, and asks for four people's items.

    Example: triptych demo --home demo-home
    """
    from scripts.world import make_world

    start, console, place = time.perf_counter(), Console(), Home(home)
    _clear(home)
    world = make_world(home / "world", users=users, items=items, seed=seed, impressions=impressions)
    (home / _MARKER).write_text(json.dumps({"users": users, "items": items, "seed": seed}) + "\n", "utf-8")
    console.rule("triptych import")
    import_command(home / "world", home)
    console.rule("triptych train")
    train_command(str(home), task=[TaskName.CLICK] if impressions else None)
    console.rule("triptych reindex")
    reindex_command(str(home))
    console.rule("triptych evaluate")
    evaluate_command(str(home))
    console.rule("triptych serve, and triptych query from another process")
    with demo_server(place, port, keep=serve) as address:
        people = {
            "all three views": world.all_views,
            "text only": world.text_only,
            "friends only": world.friends_only,
            "unknown": world.unknown,
        }
        with Client(address) as client:
            for who, user_id in people.items():
                reply = client.query(user_id=user_id, k=5)
                console.print(reply_table(reply, f"{user_id} ({who})"))
        if serve:
            _print_how_to_query(console, place, address, world.all_views)
    console.print(f"done in {time.perf_counter() - start:.0f} s")


@contextmanager
def demo_server(home: Home, port: int, *, keep: bool) -> Iterator[str]:
    """Yield the address of a server process that serves a home; it is stopped afterwards unless `keep`.

    Raises:
        ServerStartError: it ended, or does not serve in time; names its log.
    """
    log_file = home.path / "server.log"
    command = [sys.executable, "-m", "server", "--home", str(home.path), "--port", str(port)]
    with log_file.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=keep)
    try:
        yield _address(home, process, log_file)
    except BaseException:
        process.terminate()
        raise
    if not keep:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _address(home: Home, process: "subprocess.Popen[bytes]", log_file: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if server_of(home) is not None:  # server.json is written once the server answers
            return str(json.loads(home.server_file.read_text("utf-8"))["address"])
        time.sleep(0.05)
    raise ServerStartError(f"the server did not start: see {log_file}")


def _print_how_to_query(console: Console, home: Home, address: str, user_id: str) -> None:
    pid = json.loads(home.server_file.read_text("utf-8"))["pid"]
    body, pids = json.dumps({"user_id": user_id, "k": 5}), [str(pid)]
    asks = [
        f".venv/bin/triptych query {user_id} --address {address} -k 5",
        f"grpcurl -plaintext -d '{body}' {address} triptych.v1.Retrieval/Query",
    ]
    console.print(f"the server stays up on {address}, process {pid}", soft_wrap=True)
    try:
        gateway = start_gateway(address, home.path)
    except EnvoyNotInstalledError as error:
        console.print(f"no gateway, which answers JSON: {error}", soft_wrap=True, markup=False)
    else:
        pids.append(str(gateway.pid))
        said = f"the gateway stays up on {gateway.url}, process {gateway.pid}"
        console.print(f"{said}: REST, gRPC-Web and gRPC", soft_wrap=True)
        asks.append(f"curl -H 'content-type: application/json' -d '{body}' {gateway.url}/v1/query")
    try:
        page = start_console(address, home.path)
    except ConsoleNotInstalledError as error:
        console.print(f"no console: {error}", soft_wrap=True, markup=False)
    else:
        pids.append(str(page.pid))
        console.print(f"the console stays up on {page.url}, process {page.pid}: open it", soft_wrap=True)
    console.print(f"ask, and stop with kill {' '.join(pids)}:")
    for line in asks:
        console.print(f"  {line}", soft_wrap=True, highlight=False)


def _clear(path: Path) -> None:
    """Remove an earlier demo, stop its server, gateway and console; refuse to clear any other directory."""
    if not path.exists() or not any(path.iterdir()):
        return
    if not (path / _MARKER).exists():
        raise NotADemoHomeError(path)
    home = Home(path)
    stop_gateway(path)
    stop_console(path)
    if server_of(home) is not None:
        with suppress(ProcessLookupError):
            os.kill(json.loads(home.server_file.read_text("utf-8"))["pid"], signal.SIGTERM)
        deadline = time.monotonic() + _START_SECONDS
        while home.server_file.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    shutil.rmtree(path)
