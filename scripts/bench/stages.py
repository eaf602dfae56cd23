"""The commands that fault rounds kill, and the small world that they work in."""

import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.bench import small_home as bench_world
from scripts.world.world import MIN_ITEMS, MIN_USERS, make_world
from store.artifact import artifacts
from store.home import Home

log = logging.getLogger(__name__)

STAGES = ("import", "export", "train", "reindex", "publish")
_DIM = 16
_TURNS = 20  # of a run that ends; one that is to be killed goes on
_ENDLESS = 1_000_000
_PUBLISH = (
    "import sys; from scripts.bench.stages import publish_by_turns as p; p(sys.argv[1], int(sys.argv[2]))"
)


@dataclass(frozen=True)
class Stage:
    """One command to kill: what to run, in which home, and the paths whose change says that it writes."""

    name: str
    home: Home
    command: Sequence[str]
    once: Sequence[str]  # the same, of a kind that ends by itself
    watched: tuple[Path, ...]


def prepare(folder: Path, names: Sequence[str]) -> list[Stage]:
    """Return the stages by those names, with homes that are ready for them."""
    size = {"users": MIN_USERS, "items": MIN_ITEMS}
    log.info("bench faults: making a world in %s", folder)
    if names == ["import"]:
        make_world(folder / "data", **size)
        home = Home(folder / "home")
        bench_world.run("import", str(folder / "data"), "--home", str(home.path))
    else:
        home = bench_world.make_home(folder, dim=_DIM, **size)
        bench_world.run("reindex", "--home", str(home.path))  # a second one, to publish by turns
    make_world(folder / "more", seed=8, **size)
    (folder / "import").mkdir()
    shutil.copyfile(home.database, folder / "import" / "before.duckdb")
    into, at = Home(folder / "import" / "home"), ("--home", str(home.path))
    publish = [sys.executable, "-c", _PUBLISH, str(home.path)]
    importing = bench_world.command("import", str(folder / "more"), "--home", str(into.path))
    training = bench_world.command(*bench_world.training(home, folder, _DIM))
    exporting, reindexing = bench_world.command("export", *at), bench_world.command("reindex", *at)
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


def reset(stage: Stage, folder: Path) -> None:
    """Give an import the same store to begin with again; the other stages go on where they are."""
    if stage.name == "import":
        shutil.rmtree(stage.home.path, ignore_errors=True)
        stage.home.path.mkdir()
        shutil.copyfile(folder / "import" / "before.duckdb", stage.home.database)
