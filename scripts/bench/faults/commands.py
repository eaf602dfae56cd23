"""kill -9 of our commands at random moments in a small world, and what is left of its home afterwards."""

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from scripts.bench import small_home
from scripts.bench.faults.home_checks import FaultCounts, Listing, answers, harm_after_kill, rows_of_store
from scripts.world import MIN_ITEMS, MIN_USERS, make_world
from store.artifact import artifacts
from store.home import Home

log = logging.getLogger(__name__)

STAGES = ("import", "export", "train", "reindex", "publish")
_DIM = 16
_TURNS = 20  # of a run that ends; one that is to be killed goes on
_ENDLESS = 1_000_000
_PUBLISH = (
    "import sys; from scripts.bench.faults.commands import publish_by_turns;"
    "publish_by_turns(sys.argv[1], int(sys.argv[2]))"
)


@dataclass(frozen=True)
class Stage:
    """One command to kill: what to run, in which home, and the paths whose change says that it writes."""

    name: str
    home: Home
    command: Sequence[str]
    once: Sequence[str]  # the same, of a kind that ends by itself
    watched: tuple[Path, ...]


def prepare_stages(folder: Path, names: Sequence[str]) -> list[Stage]:
    """Return the stages by those names, with homes that are ready for them."""
    users, items = MIN_USERS, MIN_ITEMS
    log.info("bench faults: making a world in %s", folder)
    if names == ["import"]:
        make_world(folder / "data", users=users, items=items)
        home = Home(folder / "home")
        small_home.run("import", str(folder / "data"), "--home", str(home.path))
    else:
        home = small_home.make_small_home(folder, dim=_DIM, users=users, items=items)
        small_home.run("reindex", "--home", str(home.path))  # a second one, to publish by turns
    make_world(folder / "more", seed=8, users=users, items=items)
    (folder / "import").mkdir()
    shutil.copyfile(home.database, folder / "import" / "before.duckdb")
    into, at = Home(folder / "import" / "home"), ("--home", str(home.path))
    publish = [sys.executable, "-c", _PUBLISH, str(home.path)]
    importing = small_home.command("import", str(folder / "more"), "--home", str(into.path))
    training = small_home.command(*small_home.train_arguments(home, folder, _DIM))
    exporting, reindexing = small_home.command("export", *at), small_home.command("reindex", *at)
    stages = {
        "import": Stage("import", into, importing, importing, (into.path,)),
        "export": Stage("export", home, exporting, exporting, (home.exports,)),
        "train": Stage("train", home, training, training, (home.models,)),
        "reindex": Stage("reindex", home, reindexing, reindexing, (home.indexes, home.current_index)),
        "publish": Stage(
            "publish", home, [*publish, str(_ENDLESS)], [*publish, str(_TURNS)], (home.current_index,)
        ),
    }
    return [stages[name] for name in names]


def publish_by_turns(home: str, turns: int) -> None:
    """Publish the newest two indexes of a home by turns."""
    from scripts.home_access import publish_index

    place = Home(Path(home))
    for turn in range(turns):
        publish_index(place, artifacts(place.indexes)[-1 - turn % 2])


def reset_stage(stage: Stage, folder: Path) -> None:
    """Give an import the same store to begin with again; the other stages go on where they are."""
    if stage.name == "import":
        shutil.rmtree(stage.home.path, ignore_errors=True)
        stage.home.path.mkdir()
        shutil.copyfile(folder / "import" / "before.duckdb", stage.home.database)


_POLL_SECONDS = 0.001


class TooFastError(RuntimeError):
    """A command changed nothing that was watched, so there is no moment to kill it at."""


def command_rounds(stage: Stage, folder: Path, rounds: int, chance: random.Random) -> FaultCounts:
    """Return the counts of `rounds` kills of a command.

    Every other kill is aimed at the time after the first write; the others fall anywhere in the run.

    Raises:
        CommandFailedError: the command fails even without being killed.
        TooFastError: it changes nothing that is watched.
    """
    counts = FaultCounts()
    log.info("bench faults: %d rounds of %s", rounds, stage.name)
    reset_stage(stage, folder)
    allowed = [rows_of_store(stage.home)]
    first, end = _moments(stage)
    if stage.name == "import":  # all of it, or nothing
        allowed.append(rows_of_store(stage.home))
    for number in tqdm(range(rounds), desc=stage.name, disable=None):
        reset_stage(stage, folder)
        before = Listing.of(stage.home)
        counts.tried += 1
        aimed = number % 2 == 1
        counts.killed += _kill(stage, chance.uniform(0.0, end - first if aimed else end), aimed=aimed)
        lost, mixed = harm_after_kill(stage.home, before, allowed)
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
        raise small_home.CommandFailedError((stage.name,), running.returncode, "")
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
