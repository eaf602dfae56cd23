"""A real server process on a copy of a home, and a real client of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from store.home import Home
from store.records import UserViews
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

SOON = 120.0  # seconds that a test waits for anything, on a loaded machine, too
_MUTABLE = {"views.duckdb", "data.mdb", "lock.mdb", "CURRENT", "LATEST"}


@dataclass(frozen=True)
class Client:
    """The stubs of one server, its process and its log."""

    home: Home
    address: str
    channel: grpc.Channel
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def retrieval(self) -> rpc.RetrievalStub:
        return rpc.RetrievalStub(self.channel)

    @property
    def admin(self) -> rpc.AdminStub:
        return rpc.AdminStub(self.channel)

    def query(self, **fields: object) -> pb.QueryResponse:
        return self.retrieval.Query(pb.QueryRequest(**fields), timeout=SOON)


@dataclass(frozen=True)
class Refusal:
    """The error of a call: its code and message, and the domain and reason of its ErrorInfo."""

    code: grpc.StatusCode
    message: str
    domain: str
    reason: str


def soon(holds: Callable[[], bool]) -> None:
    """Wait until something holds; fail where it does not within SOON."""
    deadline = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Stop processes while the context lasts.

    As it begins none of their threads runs any more: on busy processors the signal alone leaves one of them
    time to answer.
    """
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        for pid in pids:
            soon(lambda pid=pid: all(state == "T" for state in _thread_states(pid)))
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _thread_states(pid: int) -> list[str]:
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return [stat[stat.rindex(")") + 2] for stat in stats]


def copy_home(home: Home, path: Path) -> Home:
    """Copy a home so that it may be changed: immutable files are linked, so damage them with `flip` only."""

    def copy(source: str, target: str) -> None:
        (shutil.copy2 if Path(source).name in _MUTABLE else os.link)(source, target)

    shutil.copytree(home.path, path, copy_function=copy)
    return Home(path)


def flip(file: Path, position: int | None = None) -> None:
    """Change one byte of a file, not of other links to it."""
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2 if position is None else position] ^= 1
    file.unlink()
    file.write_bytes(raw)


@contextmanager
def server(home: Home, *options: str, folder: Path | None = None) -> Iterator[Client]:
    """Yield a client of a server process that is killed afterwards if it still runs.

    With a folder of homes it serves all of them, and `home` is one.
    """
    log = home.path.with_name(f"{home.path.name}.log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "server", *_where(home, folder), "--port", "0", *options],
            stdout=output,
            stderr=output,
        )
    try:
        address = _address(home, process, log)
        with grpc.insecure_channel(
            address, [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        ) as channel:
            yield Client(home, address, channel, process, log)
    finally:
        process.kill()
        process.wait()


def run_server(home: Home, *options: str, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a server that cannot start, of a home or of a folder of homes, and return how it ended."""
    command = [sys.executable, "-m", "server", *_where(home, folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False)


def refusal(call: Callable[[], object]) -> Refusal:
    """Make a call that must fail; return its error and its google.rpc.ErrorInfo."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    status = rpc_status.from_call(error)
    assert status is not None, f"no google.rpc.Status: {error}"
    detail, *_ = status.details  # behind it, which field is wrong
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    assert status.message == error.details()
    return Refusal(error.code(), error.details(), info.domain, info.reason)


def inline(views: UserViews) -> pb.Views:
    """Return stored views as the message that an app sends for an anonymous user."""
    return pb.Views(
        events=[pb.Event(item_id=e.item_id, action=e.action, weight=e.weight) for e in views.history],
        texts=views.texts,
        friends=[pb.Friend(friend_id=friend.friend_id, weight=friend.weight) for friend in views.friends],
    )


def _where(home: Home, folder: Path | None) -> list[str]:
    return ["--home", str(home.path)] if folder is None else ["--homes", str(folder)]


def _address(home: Home, process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        if home.server_file.exists():
            return str(json.loads(home.server_file.read_text())["address"])
        time.sleep(0.02)
    raise AssertionError(f"the server did not start: {log.read_text()}")
