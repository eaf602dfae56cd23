import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from hypothesis import settings

from encoder.dataset import Dataset, load_dataset
from encoder.fit import TrainOptions
from encoder.learned.config import LearnConfig
from encoder.runtime import Model
from encoder.text import encoder as text_encoder
from encoder.text.cache import TextCache
from encoder.text.encoder import TextEncoder
from encoder.text.export import export_text_model
from encoder.text.source import DEFAULT_SOURCE
from encoder.train import train
from indexer.publish import publish
from indexer.reindex import reindex
from scripts import cli
from scripts.world.world import make_world
from store.export import Export, create_export
from store.home import Home
from store.imports.run import import_folder
from store.store import Store
from tests.command_line import Run
from tests.live_server import copy_home
from tests.stored_home import unpack

# The same examples in every run, few enough for CI, and no clock: a shared machine may stall anywhere.
# `make nightly` draws others each time, many more.
settings.register_profile("triptych", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("nightly", deadline=None, max_examples=4_000)
settings.load_profile("triptych")


NO_CHROMIUM = "no Chromium here: apt-get install chromium"
# Half a minute of a processor and more each, the longest first.  A file goes to one worker: these are given
# out first, as a long one that is left for the end has one processor work and the others wait.  The second
# and the third do without the small home, which the first one's worker makes for all.
LONGEST_FILES = (
    "scripts/artifacts/test_commands.py",
    "scripts/consume/test_consume.py",
    "engines/test_jobs.py",
    "console/test_pages.py",
    "scripts/evaluate/test_evaluate.py",
    "encoder/test_train.py",
    "server/live/test_shared_artifacts.py",
    "documents/test_cookbook.py",
    "scripts/test_doctor_damage.py",
    "server/test_server.py",
    "server/processes/test_processes.py",
    "server/processes/test_read_replicas.py",
    "indexer/test_search_contract.py",
    "scripts/bench/test_faults.py",
    "console/test_publishing.py",
    "server/test_milvus.py",
    "server/wire/test_fuzz.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line how to get what the skipped tests of pages need."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(NO_CHROMIUM in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f"{count} tests are skipped, {NO_CHROMIUM}")


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that commands share between homes: one of this run, not the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def kept_sessions() -> Iterator[None]:
    """Keep the ONNX session of a text model for all that load the same file: making one takes a while.

    Copies of a home link the files of its text model; a file that was changed is another one.
    """
    make, made = text_encoder._session, dict[tuple[object, ...], Any]()

    def kept(path: Path, threads: int | None, device: text_encoder.Device) -> Any:
        stat = path.stat()
        file = stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size
        key = (*file, threads, device, *onnxruntime.get_available_providers())
        if key not in made:
            made[key] = make(path, threads, device)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_encoder, "_session", kept)
        yield


@pytest.fixture(scope="session")
def text_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text_models folder that holds the default language model; exported once per run."""
    made = _once(tmp_path_factory, "text_models", partial(export_text_model, DEFAULT_SOURCE))
    return copy_home(Home(made), tmp_path_factory.mktemp("text_models") / "copy").path


@pytest.fixture(scope="session")
def small_home(tmp_path_factory: pytest.TempPathFactory, text_models_dir: Path) -> Home:
    """A home with the smallest world, one model (dim 32) and its published index; the world lies beside it.

    Shared by the whole run: a test that changes anything copies it first (shutil.copytree).
    """
    made = _once(tmp_path_factory, "small", lambda folder: _make_small_home(folder, text_models_dir))
    folder = tmp_path_factory.mktemp("small")
    shutil.copytree(made / "world", folder / "world")
    return copy_home(Home(made / "home"), folder / "home")


def _make_small_home(folder: Path, text_models_dir: Path) -> None:
    home = Home(folder / "home")
    make_world(folder / "world", users=200, items=150)
    with Store.open(home.database) as store:
        import_folder(store, folder / "world", rejects=home.rejects, strict=True)
        export_id = create_export(store, home.exports)
    shutil.copytree(text_models_dir, home.text_models)
    encoder = TextEncoder.load(export_text_model(DEFAULT_SOURCE, home.text_models))
    with closing(TextCache.open(home.text_cache)) as cache, Export.open(home.exports / export_id) as export:
        learned = LearnConfig(dim=16, epochs=8, members=1)
        options = TrainOptions(dims=(32,), learn=learned, max_dim=32)
        model = Model.load(train(home, export, encoder, cache, options))
        index = reindex(home, export, model, encoder, cache)
    publish(home, index.name)


def _once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that one process of the run makes while the others wait for it; it is to be copied."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each has a folder of its own in that of the run
    folder, draft = base / f"once-{name}", base / f"once-{name}-draft"
    with (base / f"once-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.rmtree(draft, ignore_errors=True)  # of one that failed
            draft.mkdir()
            make(draft)
            draft.rename(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The stored home, of 168 users and 61 items, whose text model of random weights loads in no time.

    In place of `small_home` where no test depends on what texts mean. Shared by the whole run as that is. Its
    state and text cache, which earlier code made, are left for the code of today to make.
    """
    home = unpack(Path(__file__).parent / "golden" / "home-1", tmp_path_factory.mktemp("tiny") / "home")
    shutil.rmtree(home.state)
    shutil.rmtree(home.text_cache)
    return home


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line; return exit code, stdout and stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["triptych", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.fixture(scope="session")
def small_data(small_home: Home) -> Dataset:
    """The export of `small_home` as arrays."""
    (name,) = [p.name for p in small_home.text_models.iterdir() if p != small_home.text_cache]
    with (
        Export.latest(small_home.exports) as export,
        closing(TextCache.open(small_home.text_cache)) as cache,
    ):
        return load_dataset(export, TextEncoder.load(small_home.text_models / name), cache)
