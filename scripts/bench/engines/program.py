"""Programs of others that a measurement or a test starts: each is waited for, and ended with its children."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_STOP_SECONDS = 30.0


class EngineNotStartedError(RuntimeError):
    """An engine, or a server that needs it, could not be started."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} could not be started: {reason}")
        self.name, self.reason = name, reason


def start_program(
    name: str,
    command: Sequence[str],
    log: Path,
    answers: Callable[[], bool],
    *,
    seconds: float = 60.0,
    variables: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a program in a process group of its own, and wait until it answers.

    Args:
        name: of the program, for errors.
        command: its command line.
        log: a file at whose end the program's output goes.
        answers: tells whether it does.
        seconds: that it has.
        variables: of the environment, beside those of this process.

    Raises:
        EngineNotStartedError: it cannot be run, has ended, or does not answer within the time.
    """
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=None if variables is None else {**os.environ, **variables},
            )
    except OSError as error:
        raise EngineNotStartedError(name, str(error)) from error
    deadline = time.monotonic() + seconds
    while not answers():
        code = process.poll()
        if code is not None or time.monotonic() > deadline:
            kill_program(process)
            ended = f"no answer after {seconds:.0f} s" if code is None else f"it ended with {code}"
            raise EngineNotStartedError(name, f"{ended}: {_last_line(log)}")
        time.sleep(0.02)
    return process


def kill_program(process: "subprocess.Popen[bytes]") -> None:
    """End a program of `start_program` at once, with its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def running_program(
    name: str,
    command: Sequence[str],
    log: Path,
    answers: Callable[[], bool],
    *,
    seconds: float = 60.0,
    variables: Mapping[str, str] | None = None,
) -> "Iterator[subprocess.Popen[bytes]]":
    """Yield a program of `start_program`, which is told to stop afterwards, and ended if it does not.

    Raises:
        EngineNotStartedError: as `start_program`.
    """
    process = start_program(name, command, log, answers, seconds=seconds, variables=variables)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        kill_program(process)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def listens(port: int) -> bool:
    """Tell whether something takes connections on a port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it has said nothing"
