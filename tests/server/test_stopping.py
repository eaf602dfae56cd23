"""Signals: a start obeys them, a second one hurries, and nothing outlives its time."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.app import running
from server.config import ServerConfig
from store.home import Home
from store.state.state import UserState
from store.store import Store
from store.writes.request import Request, TextRow, Texts
from store.writes.writer import Writer
from tests.live_server import SOON, copy_home, run_server, server
from triptych_client import Behavior, Client
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

SECONDS = 30.0
ALWAYS_ALLOWED = (0, -signal.SIGTERM)  # the second before Python has come to our code

_BUSY = """
import sys, time
from server import stopping
stopping._SPARE_SECONDS = 0.2
with stopping.StopSignals(lambda: print("cleaned up", flush=True)) as signals:
    signals.serving(0.0)
    print("ready", flush=True)
    signals.wait()
    time.sleep(60)  # an end in order that does not come
"""


def start(home: Home, *options: str) -> "tuple[subprocess.Popen[bytes], Path]":
    log = home.path.with_name(f"{home.path.name}-start.log")
    with log.open("wb") as output:
        command = [sys.executable, "-m", "server", "--home", str(home.path), "--port", "0", *options]
        return subprocess.Popen(command, stdout=output, stderr=output), log


def wait_for(log: Path, words: str) -> None:
    end = time.monotonic() + SECONDS
    while words not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_start_that_encodes_texts_ends_when_it_is_told_to(
    small_home: Home, tmp_path: Path, number: signal.Signals
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    rows = [TextRow("u00001", f"{n} " + "words upon words " * 100) for n in range(1_000)]
    with Store.open(home.database) as store, UserState.open(home.state) as state:
        Writer(store, state).write([Request(Texts(rows))])
    process, log = start(home)
    wait_for(log, "user texts: encoding 1,000 of")
    process.send_signal(number)
    assert process.wait(SECONDS) == 0
    said = log.read_text()
    assert "stopping before the start is complete" in said
    assert "user texts: done" not in said
    assert "Traceback" not in said
    assert not home.server_file.exists()
    with Store.open(home.database) as store:  # released, and whole
        assert store.counts()["items"] == 150


def test_a_start_may_be_told_to_end_at_any_moment(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    for delay in (0.2, 0.5, 0.8, 1.1, 1.4, 1.7):
        process, log = start(home)
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) in ALWAYS_ALLOWED, log.read_text()
        assert "Traceback" not in log.read_text()
        assert not home.server_file.exists()
    with server(home) as live:
        assert live.query(user_id="u00001").item_ids


def test_a_second_signal_ends_a_server_at_once(small_home: Home, tmp_path: Path) -> None:
    home, over = copy_home(small_home, tmp_path / "home"), threading.Event()

    def idle() -> Iterator[pb.QueryRequest]:
        yield pb.QueryRequest(user_id="u00001")
        over.wait(SECONDS)

    with server(home, "--grace", "3600") as live:
        answers = live.retrieval.QueryStream(idle())
        item = next(answers).response.item_ids[0]
        with Client(live.address) as client:
            assert client.append_behaviors([Behavior("ann", item)]).inserted == 1
        live.process.send_signal(signal.SIGINT)
        wait_for(live.log, "stopping: running calls have 3600 s")
        time.sleep(0.2)
        assert live.process.poll() is None  # the stream has its time
        live.process.send_signal(signal.SIGINT)
        assert live.process.wait(SECONDS) == 0
        with pytest.raises(grpc.RpcError):
            next(answers)
        over.set()
    said = live.log.read_text()
    assert "a second signal came: stopping at once" in said
    assert "Traceback" not in said
    assert not home.server_file.exists()
    with server(home) as live, Client(live.address) as client:
        assert client.export_user("ann")["behaviors"]


def test_an_end_that_takes_too_long_is_cut_short() -> None:
    with subprocess.Popen([sys.executable, "-c", _BUSY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        assert process.stdout.read() == "cleaned up\n"


@pytest.mark.parametrize("grace", ["inf", "nan", "-1", "1e9"])
def test_a_grace_without_bounds_is_a_usage_error(tmp_path: Path, grace: str) -> None:
    ended = run_server(Home(tmp_path), "--grace", grace)
    assert ended.returncode == 2
    assert "--grace" in ended.stderr


def test_a_server_that_drains_answers_while_its_health_says_that_it_stops(
    small_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    draining, over, sleep = threading.Event(), threading.Event(), time.sleep

    def wait(seconds: float) -> None:
        if seconds != 7.0:
            sleep(seconds)
            return
        draining.set()
        assert over.wait(SOON)

    monkeypatch.setattr("server.app.time.sleep", wait)
    with ThreadPoolExecutor(1) as pool, ExitStack() as block:
        address = block.enter_context(running(ServerConfig(home, port=0, drain_seconds=7.0)))
        with grpc.insecure_channel(address) as channel:
            request = health_pb2.HealthCheckRequest()
            check = health_pb2_grpc.HealthStub(channel).Check
            assert check(request, timeout=SOON).status == health_pb2.HealthCheckResponse.SERVING
            ended = pool.submit(block.close)
            assert draining.wait(SOON)
            assert check(request, timeout=SOON).status == health_pb2.HealthCheckResponse.NOT_SERVING
            query = pb.QueryRequest(user_id="u00001", k=1)
            assert rpc.RetrievalStub(channel).Query(query, timeout=SOON).item_ids
            over.set()
            ended.result(SOON)
            with pytest.raises(grpc.RpcError):
                rpc.RetrievalStub(channel).Query(query, timeout=5)
