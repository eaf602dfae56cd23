"""The parent of a server of several processes: starts them, replaces those that die, ends them in order."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from server.addresses import CannotListenError, Listening
from server.config import ServerConfig
from server.processes.roles import OWNER, QUERY

_SPARE_SECONDS = 5.0  # beyond the grace of calls: for threads to end and files to close
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds before a process that died is replaced
_LONG_LIFE = 10.0  # seconds after which a death counts as the first
log = logging.getLogger(__name__)


class ProcessesNeedAPortError(ValueError):
    """Several processes cannot share a unix socket."""

    def __init__(self, host: str) -> None:
        super().__init__(f"--processes needs a port that several processes share, not {host}")
        self.host = host


class ProcessEndedError(RuntimeError):
    """A process ended before it answered; it has said why."""

    def __init__(self, role: str, code: int) -> None:
        super().__init__(f"the {role} process ended with code {code} before it answered; it says why above")
        self.role = role
        self.code = code


def serve_with_processes(config: ServerConfig) -> None:
    """Run an owner and `config.processes` query processes until SIGTERM or SIGINT.

    A process that dies is replaced; one that dies again and again, after a pause of up to five seconds. At
    the end the query processes end first, and running calls with them, then the owner. A second signal kills
    all of them.

    Raises:
        ProcessesNeedAPortError: the address is a unix socket.
        BadAddressError, CannotListenError: nothing can listen on the address.
        ProcessEndedError: the owner or a query process cannot start.
    """
    wanted = Listening.on(config.host, config.port)
    if wanted.unix_path is not None:
        raise ProcessesNeedAPortError(config.host)
    with (
        _reserved(wanted) as listening,
        tempfile.TemporaryDirectory(prefix="triptych-") as folder,  # only this user may enter it
        _Stop() as stop,
    ):
        config = config.on_port(listening.port)
        facts = {
            "address": listening.reached,
            "owner": f"unix:{Path(folder) / 'owner.sock'}",
            "parent": str(os.getpid()),
        }
        owner = _Child(OWNER, config, facts, stop)
        queries = [_Child(QUERY, config, facts, stop) for _ in range(config.processes)]
        try:
            owner.start()
            owner.wait_until_ready()
            for child in queries if not stop.event.is_set() else ():
                child.start()
            for child in queries:
                child.wait_until_ready()
            if not stop.event.is_set():
                log.info("listening on %s with %d query processes", listening.reached, len(queries))
            stop.event.wait()
        finally:
            _end(queries, config.grace_seconds, stop)
            _end([owner], config.grace_seconds, stop)


def _end(children: "list[_Child]", grace: float, stop: "_Stop") -> None:
    """Ask processes to end, and kill those that do not within the grace, or at a second signal."""
    for child in children:
        child.ask_to_end()
    deadline = time.monotonic() + grace + _SPARE_SECONDS
    for child in children:
        child.join(deadline, stop)


@contextmanager
def _reserved(wanted: Listening) -> Iterator[Listening]:
    """Keep a port for the query processes; yield where they listen, port 0 replaced.

    Raises:
        CannotListenError: something listens there already.
    """
    if error := wanted.error():
        raise error
    found = socket.getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as reserved:  # bound, not listening: it gets no calls
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            reserved.bind(address)
        except OSError as error:
            raise CannotListenError(wanted.bound, error.strerror or str(error)) from error
        yield Listening(wanted.host, reserved.getsockname()[1])


class _Stop:
    """The first signal sets `event`, the second one `now`."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.now = threading.Event()
        self._before: dict[int, object] = {}

    def __enter__(self) -> "_Stop":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]

    def _receive(self, _number: int, _frame: object) -> None:
        (self.now if self.event.is_set() else self.event).set()


class _Child:
    """A place for one process: a thread starts a process, waits for its death, and starts another."""

    def __init__(self, role: str, config: ServerConfig, facts: dict[str, str], stop: _Stop) -> None:
        self._role = role
        self._command = [
            sys.executable,
            "-m",
            "server.processes.child",
            role,
            config.to_json(),
            json.dumps(facts),
        ]
        self._stop = stop
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()  # or the first process has died
        self._answered = False
        self._ending = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name=role, daemon=True)
        self.code = 0

    def start(self) -> None:
        """Start the process."""
        self._thread.start()

    def wait_until_ready(self) -> None:
        """Wait until the first process answers, or a signal.  Raises: ProcessEndedError."""
        while not self._ready.wait(0.1) and not self._stop.event.is_set():
            pass
        if not self._answered and not self._stop.event.is_set():
            raise ProcessEndedError(self._role, self.code)

    def ask_to_end(self) -> None:
        """Tell the process to end, and start no other one."""
        with self._lock:
            self._ending = True
            if self._process is not None:
                self._process.terminate()

    def join(self, deadline: float, stop: _Stop) -> None:
        """Wait for the end of the process until a monotonic time or a second signal, then kill it."""
        if not self._thread.is_alive():
            return
        while self._thread.is_alive() and time.monotonic() < deadline and not stop.now.is_set():
            self._thread.join(0.05)
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                log.warning("%s %d does not end: killing it", self._role, self._process.pid)
                self._process.kill()
        self._thread.join()

    def _keep(self) -> None:
        pause = 0.0
        while True:
            began = time.monotonic()
            with self._lock:
                if self._ending:
                    return
                self._process = process = subprocess.Popen(  # noqa: S603  # our own command
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,  # signals of a terminal reach the parent alone
                )
            self._wait_for_word(process.stdout)
            self.code = process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            self._ready.set()
            if self._ending or not self._answered:
                return
            long_lived = time.monotonic() - began > _LONG_LIFE
            pause = 0.0 if long_lived else min(_LONGEST_PAUSE, 2 * pause + _FIRST_PAUSE)
            log.warning(
                "%s %d ended with code %d: another one takes its place", self._role, process.pid, self.code
            )
            self._stop.event.wait(pause)

    def _wait_for_word(self, stdout: IO[bytes] | None) -> None:
        if stdout is not None and stdout.readline().strip() == b"ready":
            self._answered = True
            self._ready.set()
