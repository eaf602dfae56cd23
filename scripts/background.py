"""Commands of ours that go on in the background after the one that started them, until another ends them."""

import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

_START_SECONDS = 60.0


class BackgroundStartError(RuntimeError):
    """A command in the background ended, or does not say in time where it answers."""


@dataclass(frozen=True)
class BackgroundCommand:
    """A command in the background.

    Attributes:
        url: where this machine reaches it.
        pid: of the command.
    """

    url: str
    pid: int


def start_background(name: str, words: list[str], folder: Path) -> BackgroundCommand:
    """Start `triptych NAME WORDS…`; its log and a file that names it lie in a folder.

    Raises:
        BackgroundStartError: it does not say "NAME on URL for" in its log in time; names the log.
    """
    log = folder / f"{name}.log"
    said = re.compile(rf"{name} on (\S+) for ")
    command = [sys.executable, "-m", "scripts.cli", name, *words]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := said.search(log.read_text("utf-8", "replace")):
            started = BackgroundCommand(found[1], process.pid)
            _file(name, folder).write_text(json.dumps(asdict(started)) + "\n", "utf-8")
            return started
        time.sleep(0.05)
    process.terminate()
    raise BackgroundStartError(f"the {name} did not start: see {log}")


def stop_background(name: str, folder: Path) -> None:
    """End the command that `start_background` started for a folder, where it still runs."""
    with suppress(FileNotFoundError, psutil.NoSuchProcess, psutil.TimeoutExpired):
        process = psutil.Process(json.loads(_file(name, folder).read_text("utf-8"))["pid"])
        if name in process.cmdline():  # not another process that got the number since
            process.terminate()
            process.wait(30)


def _file(name: str, folder: Path) -> Path:
    return folder / f"{name}.json"
