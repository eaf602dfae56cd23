"""A small world in a home of its own, and our commands run on it as processes of their own."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.world import make_world
from store.home import Home

_START_SECONDS = 120.0
_STOP_SECONDS = 30.0


class CommandFailedError(RuntimeError):
    """A command of ours that should have worked did not; its code is None where it had not ended."""

    def __init__(self, arguments: tuple[str, ...], code: int | None, said: str) -> None:
        last = (said.strip().splitlines() or ["nothing on stderr"])[-1]
        ended = "is not ready in time" if code is None else f"ended with {code}"
        super().__init__(f"triptych {' '.join(arguments)} {ended}: {last}")
        self.code = code


def command(*arguments: str) -> list[str]:
    """Return the command line of `triptych` with these arguments, for a process of its own."""
    return [sys.executable, "-c", "from scripts.cli import main; main()", *arguments]


def run(*arguments: str) -> None:
    """Run a command of ours to its end.  Raises: CommandFailedError."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandFailedError(arguments, done.returncode, done.stderr)


def make_small_home(path: Path, *, users: int, items: int, dim: int, seed: int = 7) -> Home:
    """Return a home below `path` with a trained and published model of a synthetic world of that size.

    Raises:
        WorldSizeError: the world would be too small.
        CommandFailedError: a command failed.
    """
    home = Home(path / "home")
    make_world(path / "data", users=users, items=items, seed=seed)
    run("import", str(path / "data"), "--home", str(home.path))
    train_small(home, path, dim)
    run("reindex", "--home", str(home.path))
    return home


def train_small(home: Home, path: Path, dim: int) -> None:
    """Train with fixed settings, which a file below `path` holds, so that nothing is searched."""
    run(*train_arguments(home, path, dim))


def train_arguments(home: Home, path: Path, dim: int) -> tuple[str, ...]:
    """Return the arguments of `train`, and write the settings that they name."""
    from encoder.config import TowerConfig

    config = path / "tower.json"
    config.write_text(json.dumps(TowerConfig(dim=dim).as_json()), "utf-8")
    return "train", "--home", str(home.path), "--config", str(config)


@contextmanager
def process(
    arguments: list[str], announced: Path, seconds: float = _START_SECONDS
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a server process once the JSON file `announced` names its pid; it is stopped afterwards.

    Raises:
        CommandFailedError: it ended, or said nothing for `seconds`.
    """
    with tempfile.TemporaryFile() as log:
        running = subprocess.Popen(arguments, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + seconds
            while not _names(announced, running.pid):
                code = running.poll()
                if code is not None or time.monotonic() > deadline:
                    log.seek(0)
                    said = log.read().decode(errors="replace")
                    raise CommandFailedError(tuple(arguments[3:]), code, said)
                time.sleep(0.02)
            yield running
        finally:
            running.terminate()
            try:
                running.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


@contextmanager
def serving(home: Home, workers: int = 8) -> Iterator[str]:
    """Yield the address of `triptych serve` on a home, a process of its own.  Raises: CommandFailedError."""
    arguments = command("serve", "--home", str(home.path), "--port", "0", "--workers", str(workers))
    with process(arguments, home.server_file):
        yield address_in(home.server_file)


def address_in(announced: Path) -> str:
    """Return the address that a server wrote."""
    return str(json.loads(announced.read_text("utf-8"))["address"])


def _names(announced: Path, pid: int) -> bool:
    try:
        return bool(json.loads(announced.read_text("utf-8"))["pid"] == pid)
    except FileNotFoundError:
        return False
