"""Steps run one after another, each in a process of its own; what is done is marked, and not done again.

A marker names the commit and the command line; it is written when the step has ended well, so a step that was
killed is redone. A step whose marker names another commit or command is redone, too, and with it every later
step of its data set. The processes hold the lock of the working folder: if only this one is killed, nobody
starts beside the step that still runs.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.results.plan import ResultStep
from scripts.terminal import write_json
from store.locks import LockedError

ROOT = Path(__file__).resolve().parents[2]
_TRIPTYCH = (sys.executable, "-m", "scripts.cli")
_SAY_SECONDS = 30.0
_END_SECONDS = 30.0
_LAST_LINES = 20


class StepFailedError(RuntimeError):
    """A step ended with another exit code than 0."""

    def __init__(self, step: ResultStep, code: int, log: Path) -> None:
        lines = log.read_text("utf-8", "replace").splitlines()[-_LAST_LINES:]
        super().__init__(
            "\n".join([f"the last lines of {log}:", *lines, "", f"exit code {code}: {step.command}"])
        )
        self.code = code


class NoCheckoutError(RuntimeError):
    """The code is in no git checkout, so that results would be of no commit."""

    def __init__(self, root: Path) -> None:
        super().__init__(f"{root} is no git checkout: say --commit, which results are of")


def commit_of(root: Path = ROOT) -> str:
    """Return the commit of a checkout, with +<digest> where files that git knows have changed since.

    Raises:
        NoCheckoutError: there is no git, or no commit.
    """
    try:
        head, changes = (
            subprocess.run(["git", *words], cwd=root, check=True, capture_output=True).stdout
            for words in (("rev-parse", "--short=12", "HEAD"), ("diff", "HEAD"))
        )
    except (subprocess.CalledProcessError, OSError) as error:
        raise NoCheckoutError(root) from error
    commit = head.decode().strip()
    return f"{commit}+{hashlib.sha256(changes).hexdigest()[:8]}" if changes else commit


@contextmanager
def locked_results(results: Path) -> Iterator[int]:
    """Make and lock the working folder, and yield the descriptor, for the processes of the steps.

    Raises:
        LockedError: another run, or a step that one left behind, works there.
    """
    results.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(results / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    except BlockingIOError as error:
        raise LockedError(results) from error
    finally:
        os.close(descriptor)


def run_steps(steps: Sequence[ResultStep], folder: Path, commit: str, *, any_commit: bool, lock: int) -> None:
    """Run the steps of one data set that are not done.

    Args:
        steps: in order.
        folder: of their markers and logs.
        commit: that is at work.
        any_commit: whether to take what was done at another commit, too.
        lock: the descriptor that `locked_results` gave.

    Raises:
        StepFailedError: a step ended with another exit code than 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    markers = [folder / f"{step.name}.json" for step in steps]
    for place, (step, marker) in enumerate(zip(steps, markers, strict=True)):
        said = f"{folder.name}, {step.name} ({place + 1} of {len(steps)})"
        done = read_marker(marker)
        if done and done["command"] == step.command and (any_commit or done["commit"] == commit):
            print(f"{said}: done at commit {done['commit']}", flush=True)
            continue
        for later in markers[place:]:
            later.unlink(missing_ok=True)
        if step.clears is not None and step.clears.exists():
            shutil.rmtree(step.clears)
        print(f"{said}: {step.command}", flush=True)
        seconds = _run(step, folder / f"{step.name}.log", lock)
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        facts = {"commit": commit, "command": step.command, "seconds": seconds, "finished": finished}
        write_json(marker, facts)
        print(f"{said}: done in {seconds:,.0f} s", flush=True)


def read_marker(marker: Path) -> dict[str, Any] | None:
    """Return what a marker says, or None where there is none."""
    if not marker.exists():
        return None
    said: dict[str, Any] = json.loads(marker.read_text("utf-8"))
    return said


def _run(step: ResultStep, log: Path, lock: int) -> float:
    """Run a step to its end, its output in the log, and return the seconds it took."""
    start = time.monotonic()
    process: subprocess.Popen[bytes] | None = None
    with log.open("wb") as output:
        command = [*_TRIPTYCH, *step.words]
        try:
            with _signals_after():  # or a process that has just begun would be left behind
                process = subprocess.Popen(
                    command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, pass_fds=(lock,)
                )
            while process.poll() is None:
                try:
                    process.wait(_SAY_SECONDS)
                except subprocess.TimeoutExpired:
                    print(f"  {time.monotonic() - start:,.0f} s: {_last_line(log)}", flush=True)
        except BaseException:
            if process is not None:
                _end(process)
            raise
    if process.returncode:
        raise StepFailedError(step, process.returncode, log)
    return round(time.monotonic() - start, 3)


@contextmanager
def _signals_after() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block is over."""
    arrived: list[int] = []
    handlers = {
        held: signal.signal(held, lambda number, _: arrived.append(number))
        for held in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for held, handler in handlers.items():
            signal.signal(held, handler)
        for number in arrived:
            os.kill(os.getpid(), number)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
