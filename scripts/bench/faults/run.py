"""The stages of `triptych bench faults`, one after another, in a small world."""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scripts.bench import small_home
from scripts.bench.faults.commands import STAGES, command_rounds, prepare_stages
from scripts.bench.faults.process_kills import (
    KillTimes,
    TooFewProcessesError,
    owner_rounds,
    process_rounds,
)
from scripts.bench.faults.server_kills import WRITES, write_rounds
from scripts.bench.faults.stale import stale_rounds
from scripts.bench.faults.swap import swap_rounds
from scripts.world import MIN_ITEMS, MIN_USERS
from store.home import Home

log = logging.getLogger(__name__)

SWAP, PROCESS, OWNER, STALE = "swap", "process", "owner", "stale"
SERVING = (SWAP, PROCESS, OWNER, STALE)
LOG = "log"
_DIM, _OTHER_DIM = 16, 24


class NotEmptyError(FileExistsError):
    """Fault rounds were asked for in a folder that holds something already."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is not empty; fault rounds kill what works there, so they want a new folder"
        )
        self.path = path


@dataclass(frozen=True)
class FaultOptions:
    """How often, and how.

    Attributes:
        rounds: kills, swaps, or pairs of a write and a query, of each stage.
        seed: of the moments.
        processes: of the server of the stages of `SERVING`.
        times: of the kills of query processes.
        events: of the stage LOG, which go from NATS to the server.
    """

    rounds: int = 20
    seed: int = 0
    processes: int = 2
    times: KillTimes = field(default_factory=KillTimes)
    events: int = 20_000


def run_faults(
    folder: Path, options: FaultOptions, names: Sequence[str] = (*STAGES, *WRITES, *SERVING, LOG)
) -> dict[str, dict[str, Any]]:
    """Return the counts of each stage, from rounds in a small world below an empty folder.

    Raises:
        NotEmptyError: the folder holds something.
        TooFewProcessesError: one process is to be killed of one.
        CommandFailedError: a command fails even without being killed.
    """
    if folder.exists() and any(folder.iterdir()):
        raise NotEmptyError(folder)
    if options.processes < 2 and {PROCESS, OWNER} & set(names):
        raise TooFewProcessesError(options.processes)
    chance = random.Random(options.seed)  # noqa: S311  # moments, not secrets
    counts: dict[str, dict[str, Any]] = {}
    home = Home(folder / "home")
    if needing_commands := [name for name in names if name in (*STAGES, *WRITES)]:
        stages = prepare_stages(folder, [name for name in needing_commands if name in STAGES])
        for stage in stages:
            counts[stage.name] = asdict(command_rounds(stage, folder, options.rounds, chance))
        for name in needing_commands:
            if name in WRITES:
                counts[name] = asdict(write_rounds(name, home, options.rounds, chance))
    if serving := [name for name in names if name in (*SERVING, LOG)]:
        place = folder / "serving"
        place.mkdir(parents=True)
        home = small_home.make_small_home(place, dim=_DIM, users=MIN_USERS, items=MIN_ITEMS)
        for name in serving:
            log.info("bench faults: %d rounds of %s", options.rounds, name)
            counts[name] = _serving_stage(name, home, place, options, chance)
            log.info("bench faults: %s: %s", name, counts[name])
    return counts


def _serving_stage(
    name: str, home: Home, folder: Path, options: FaultOptions, chance: random.Random
) -> dict[str, Any]:
    rounds, processes = options.rounds, options.processes

    def swap() -> dict[str, Any]:
        small_home.train_small(home, folder, _OTHER_DIM)
        small_home.run("reindex", "--home", str(home.path))  # a second index, of another model
        return swap_rounds(home, rounds, processes, folder)

    def consume() -> dict[str, Any]:
        from scripts.bench.faults.log_kills import log_rounds  # needs the library for NATS

        return log_rounds(home, rounds, options.events, folder, chance)

    stages: dict[str, Callable[[], dict[str, Any]]] = {
        SWAP: swap,
        PROCESS: lambda: process_rounds(home, rounds, processes, options.times, folder, chance),
        OWNER: lambda: owner_rounds(home, rounds, processes, folder, chance),
        LOG: consume,
        STALE: lambda: stale_rounds(home, rounds, processes, chance),
    }
    return stages[name]()
