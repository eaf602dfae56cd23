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
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from server.addresses import CannotListenError, Listening
from server.config import COUNTERS_BYTES, ServerConfig
from server.exposure import check_exposure
from server.processes.roles import GO, OWNER, QUERY, READY, WARM
from server.rereading import Rereading, set_log_level
from server.telemetry import Figures, ProcessFiles, exposed, watch_process

_MORE_SECONDS = 5.0  # beyond the grace of calls: for threads to end and files to close
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


def serve_with_processes(settings: Rereading) -> None:
    """Run `config.processes` query processes, and an owner but for a read replica, until SIGTERM or SIGINT.

    A query process that dies is replaced by one that has loaded everything and waits (`config.spare`), else
    by a new one, as the owner is; one that dies again and again, after a pause of up to five seconds. At
    the end the query processes end first, and running calls with them, then the owner. A second signal kills
    all of them. SIGHUP has the parent read the settings again and tell all processes.

    Raises:
        ProcessesNeedAPortError: the address is a unix socket.
        BadAddressError, CannotListenError: nothing can listen on the address.
        ExposedError: other machines would get in without TLS and tokens.
        ProcessEndedError: the owner or a query process cannot start.
    """
    settings.listen(set_log_level)
    config = settings.config
    wanted = Listening.on(config.host, config.port)
    if wanted.unix_path is not None:
        raise ProcessesNeedAPortError(config.host)
    check_exposure(config)
    with (
        _reserved(wanted) as listening,
        tempfile.TemporaryDirectory(prefix="triptych-") as folder,  # only this user may enter it
        _metrics(config, Path(folder)) as (figures, metrics),
        _Stop() as stop,
    ):
        config = config.on_port(listening.port)
        facts = {
            "address": listening.reached,
            "folder": folder,
            "counters": str(_counters(Path(folder))),
            "parent": str(os.getpid()),
            "metrics": metrics,
            "figures": folder if config.counts else "",
        }
        groups = [_Group(QUERY, config, facts, stop, figures, wanted=config.processes, spare=config.spare)]
        if not config.read_only:
            groups.append(_Group(OWNER, config, facts, stop, figures, wanted=1, spare=0))
        try:
            for group in reversed(groups):
                group.start()
                group.wait_until_all_answer()
                if stop.event.is_set():
                    return
            log.info("listening on %s with %d query processes", listening.reached, config.processes)
            for group in groups:
                settings.listen(partial(_tell, group, listening.port))
            while not stop.comes():
                settings.reread()
        finally:
            for group in groups:
                group.end(settings.config.stop_seconds + _MORE_SECONDS)


def _counters(folder: Path) -> Path:
    """Make the file by which the query processes count calls together."""
    file = folder / "rates"
    file.write_bytes(bytes(COUNTERS_BYTES))
    return file


def _tell(group: "_Group", port: int, config: ServerConfig) -> None:
    group.change(config.on_port(port))


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


@contextmanager
def _metrics(config: ServerConfig, folder: Path) -> Iterator[tuple["_Counted", str]]:
    """Yield what counts processes, and the URL of the metrics of all of them; "" where nobody wants them.

    Raises:
        BadAddressError, CannotListenError: nothing can listen there.
    """
    own = Figures(folder / f"{os.getpid()}-0") if config.counts else Figures()  # the owner reads it, too
    files = ProcessFiles(folder, own)
    if config.counts:
        watch_process(own)
    if config.metrics_port is None:
        yield _Counted(files, own), ""
        return
    with exposed(files.sources, config.metrics_host, config.metrics_port) as url:
        yield _Counted(files, own), url


class _Counted:
    """Tells the metrics of processes that start and end."""

    def __init__(self, files: ProcessFiles, own: Figures) -> None:
        self._files = files
        self.started = files.started
        self._replaced = {role: own.counter("process_restarts", role) for role in (OWNER, QUERY)}

    def ended(self, pid: int, role: str, *, replaced: bool) -> None:
        self._files.ended(pid)
        if replaced:
            self._replaced[role](1.0)


class _Stop:
    """The first signal sets `event`, the second one `now`; SIGHUP is neither."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.now = threading.Event()
        self._before: dict[int, object] = {}
        self._came: SimpleQueue[int] = SimpleQueue()  # which a signal may put into at any moment

    def comes(self) -> bool:
        """Wait for the next signal; return whether it ends the server."""
        return self._came.get() != signal.SIGHUP

    def __enter__(self) -> "_Stop":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]

    def _receive(self, number: int, _frame: object) -> None:
        self._came.put(number)
        if number != signal.SIGHUP:
            (self.now if self.event.is_set() else self.event).set()


class _Group:
    """The processes of one role: so many that answer, and so many that have loaded everything and wait.

    Each has a place, whose thread starts it and, after its death, another one. A process says WARM when it
    could answer and READY when it does. The first that are warm are told to go, and so is the next one when
    one of these dies.
    """

    def __init__(
        self,
        role: str,
        config: ServerConfig,
        facts: dict[str, str],
        stop: "_Stop",
        counted: _Counted,
        *,
        wanted: int,
        spare: int,
    ) -> None:
        self.role = role
        self.counted = counted
        self._facts = json.dumps(facts)
        self._config = config
        self.stop = stop
        self.ending = False
        self.changed = threading.Condition()
        self.failed: int | None = None  # exit code of one that ended before all answered
        self._wanted = wanted
        names = [role] if wanted + spare == 1 else [f"{role}-{place}" for place in range(wanted + spare)]
        self._places = [_Place(self, name) for name in names]
        self._answered = False  # all that are wanted, at least once

    @property
    def command(self) -> list[str]:
        """What starts one of the processes."""
        child = [sys.executable, "-m", "server.processes.child"]
        return [*child, self.role, self._config.to_json(), self._facts]

    def change(self, config: ServerConfig) -> None:
        """Tell all processes of new settings, and those that are started from now on."""
        with self.changed:
            self._config = config
            for place in self._places:
                place.tell(f"{config.to_json()}\n".encode())

    def start(self) -> None:
        """Start all processes."""
        for place in self._places:
            place.thread.start()

    def wait_until_all_answer(self) -> None:
        """Wait until all that are wanted answer, or for a signal.

        Raises:
            ProcessEndedError: one has ended before; it has said why.
        """
        with self.changed:
            while not self._answered and self.failed is None and not self.stop.event.is_set():
                self.changed.wait(0.1)  # signals are heard between two waits
            if not self._answered and self.failed is not None:
                raise ProcessEndedError(self.role, self.failed)

    def end(self, seconds: float) -> None:
        """Ask all processes to end; kill those that have not after so many seconds, or at a second signal."""
        deadline = time.monotonic() + seconds
        with self.changed:
            self.ending = True
            for place in self._places:
                place.ask_to_end()
        for place in self._places:
            while place.thread.is_alive() and time.monotonic() < deadline and not self.stop.now.is_set():
                place.thread.join(0.05)
            place.kill()
            if place.thread.ident is not None:  # it was started
                place.thread.join()

    def balance(self) -> None:
        """Tell warm processes to go while fewer than wanted answer or were told to; `changed` is held."""
        told = sum(place.state in (_State.TOLD, _State.ANSWERS) for place in self._places)
        for place in self._places:
            if told < self._wanted and place.state is _State.WARM:
                told += place.go()
        answering = sum(place.state is _State.ANSWERS for place in self._places)
        self._answered = self._answered or answering == self._wanted
        self.changed.notify_all()

    @property
    def gives_up(self) -> bool:
        """Whether a process that dies is not replaced: at the end, and where a start fails."""
        return self.ending or not self._answered


class _State(Enum):
    """How far the process of a place is."""

    STARTS, WARM, TOLD, ANSWERS, DOWN = range(5)


class _Place:
    """A place for one process at a time."""

    def __init__(self, group: _Group, name: str) -> None:
        self._group = group
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None
        self.state = _State.DOWN
        self.thread = threading.Thread(target=self._keep, name=group.role, daemon=True)

    def go(self) -> bool:
        """Tell the process to answer; return whether it could be told."""
        told = self.tell(GO)
        self.state = _State.TOLD if told else _State.DOWN
        return told

    def tell(self, line: bytes) -> bool:
        """Write a line to the process; return whether there is one that can read it."""
        stdin = self._process.stdin if self._process is not None else None
        try:
            if stdin is None:
                return False
            stdin.write(line)
            stdin.flush()
        except (OSError, ValueError):  # it has just died, and its pipe may be closed
            return False
        return True

    def ask_to_end(self) -> None:
        """Send SIGTERM, where there is a process."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL to a process that still runs."""
        if self._process is not None and self._process.poll() is None:
            log.warning("%s %d does not end: killing it", self._group.role, self._process.pid)
            self._process.kill()

    def _keep(self) -> None:
        group, pause, process = self._group, 0.0, self._start()
        while process is not None:
            began = time.monotonic()
            for word, state in ((WARM, _State.WARM), (READY, _State.ANSWERS)):
                if process.stdout is not None and process.stdout.readline() == word:
                    self._becomes(state)
            code = process.wait()
            self._becomes(_State.DOWN)
            _close(process)
            group.counted.ended(process.pid, group.role, replaced=not group.gives_up)
            if group.gives_up:
                with group.changed:
                    group.failed = code
                    group.changed.notify_all()
                return
            long_lived = time.monotonic() - began > _LONG_LIFE
            pause = 0.0 if long_lived else min(_LONGEST_PAUSE, 2 * pause + _FIRST_PAUSE)
            log.warning("%s %d ended with code %d: it is replaced", group.role, process.pid, code)
            group.stop.event.wait(pause)
            process = self._start()

    def _start(self) -> "subprocess.Popen[bytes] | None":
        """Start a process; None at the end."""
        with self._group.changed:
            if self._group.ending:
                return None
            self.state = _State.STARTS
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                self._group.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # signals of a terminal reach the parent alone
            )
            self._group.counted.started(self._process.pid, self._name)
            return self._process

    def _becomes(self, state: _State) -> None:
        with self._group.changed:
            self.state = state
            self._group.balance()


def _close(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what was not written any more
                pipe.close()
