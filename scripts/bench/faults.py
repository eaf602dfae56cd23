"""kill -9 of our commands at random moments, and what is left of a home afterwards."""

import logging
import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from scripts.bench import small_home as bench_world
from scripts.bench.home_checks import Counts, Left, answers, left_over, rows_of_store
from scripts.bench.server_kills import WRITES, write_rounds
from scripts.bench.stages import STAGES, Stage, prepare, reset
from store.home import Home

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.001


class NotEmptyError(FileExistsError):
    """Fault rounds were asked for in a folder that holds something already."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is not empty; fault rounds kill what works there, so they want a new folder"
        )
        self.path = path


class TooFastError(RuntimeError):
    """A command changed nothing that was watched, so there is no moment to kill it at."""


def run_faults(
    folder: Path, rounds: int, seed: int, names: Sequence[str] = (*STAGES, *WRITES)
) -> dict[str, dict[str, int]]:
    """Return the counts of each stage, from `rounds` kills of each in a small world below an empty folder.

    Every other kill is aimed at the time after the first write; the others fall anywhere in the run.

    Raises:
        NotEmptyError: the folder holds something.
        CommandFailedError: a command fails even without being killed.
    """
    if folder.exists() and any(folder.iterdir()):
        raise NotEmptyError(folder)
    stages = prepare(folder, [name for name in names if name in STAGES])
    chance = random.Random(seed)  # noqa: S311  # moments, not secrets
    counts = {stage.name: _rounds(stage, folder, rounds, chance) for stage in stages}
    counts |= {
        name: write_rounds(name, Home(folder / "home"), rounds, chance) for name in names if name in WRITES
    }
    return {name: asdict(found) for name, found in counts.items()}


def _rounds(stage: Stage, folder: Path, rounds: int, chance: random.Random) -> Counts:
    counts = Counts()
    log.info("bench faults: %d rounds of %s", rounds, stage.name)
    reset(stage, folder)
    allowed = [rows_of_store(stage.home)]
    first, end = _moments(stage)
    if stage.name == "import":  # all of it, or nothing
        allowed.append(rows_of_store(stage.home))
    for number in tqdm(range(rounds), desc=stage.name, disable=None):
        reset(stage, folder)
        before = Left.of(stage.home)
        counts.tried += 1
        aimed = number % 2 == 1
        counts.killed += _kill(stage, chance.uniform(0.0, end - first if aimed else end), aimed=aimed)
        lost, mixed = left_over(stage.home, before, allowed)
        counts.lost += lost
        counts.mixed += mixed
        counts.failed += not (
            _succeeds(stage) and rows_of_store(stage.home) == allowed[-1] and answers(stage.home)
        )
    log.info("bench faults: %s: %s", stage.name, asdict(counts))
    return counts


def _moments(stage: Stage) -> tuple[float, float]:
    """Return when a whole run first writes and when it ends, in seconds from its start."""
    start, before = time.monotonic(), _look(stage)
    with subprocess.Popen(stage.once, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        first = None
        while running.poll() is None:
            if first is None and _look(stage) != before:
                first = time.monotonic() - start
            time.sleep(_POLL_SECONDS)
    if running.returncode:
        raise bench_world.CommandFailedError((stage.name,), running.returncode, "")
    if first is None:
        raise TooFastError(f"{stage.name} changed nothing below {', '.join(map(str, stage.watched))}")
    return first, time.monotonic() - start


def _kill(stage: Stage, delay: float, *, aimed: bool) -> bool:
    """Kill a command `delay` seconds after its start, or its first write; return whether it still ran."""
    before = _look(stage)
    running = subprocess.Popen(
        stage.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while aimed and running.poll() is None and _look(stage) == before:
        time.sleep(_POLL_SECONDS)
    with suppress(subprocess.TimeoutExpired):
        running.wait(delay)
    alive = running.poll() is None
    if alive:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    return alive


def _succeeds(stage: Stage) -> bool:
    done = subprocess.run(stage.once, capture_output=True, text=True, check=False)
    if done.returncode:
        log.error("after a kill %s fails: %s", stage.name, done.stderr.strip())
    return done.returncode == 0


def _look(stage: Stage) -> list[tuple[str, int]]:
    """Return names and times below the watched paths; it changes with the first write."""
    seen: list[tuple[str, int]] = []
    for path in stage.watched:
        for entry in [path, *(path.iterdir() if path.is_dir() else [])]:
            with suppress(FileNotFoundError):  # a draft may go while we look
                seen.append((entry.name, entry.stat().st_mtime_ns))
    return sorted(seen)
