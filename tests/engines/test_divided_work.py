"""The commands whose work can be divided make on workers what they make alone, whatever ends a worker."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import pytest

from encoder.config import TowerConfig
from encoder.dataset import Dataset, load_dataset
from encoder.jobs import IN_PROCESS, Jobs
from encoder.text import TextCache, TextEncoder
from scripts.evaluate.baselines import NAMES, Contest, ranked_by
from scripts.tune.study import Tuning
from scripts.tune.trials import Search, run_trials
from store.export import Export
from store.home import Home
from tests.engines.test_jobs import wait_until
from tests.indexer.divided import built, cached, copy_without_vectors, divide_more

divided = pytest.mark.parametrize("jobs", ["processes", "ray"], indirect=True)


@pytest.fixture(autouse=True)
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    divide_more(monkeypatch)


@pytest.fixture(scope="module")
def alone(
    small_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], dict[bytes, bytes]]:
    """The files of an index that one process builds, and the text cache afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        divide_more(patch)
        home = copy_without_vectors(small_home, tmp_path_factory.mktemp("alone") / "home")
        return built(home, IN_PROCESS), cached(home)


def workers() -> list[psutil.Process]:
    """The processes that work on a part of ours: children of this one, or Ray's."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            words = " ".join(one.cmdline())
            if "ray::attempt" in words or "loky.backend.popen" in words:
                found.append(one)
    return found


@divided
def test_a_reindex_makes_the_same_files(
    small_home: Home, jobs: Jobs, alone: tuple[dict[str, bytes], dict[bytes, bytes]], tmp_path: Path
) -> None:
    home = copy_without_vectors(small_home, tmp_path / "home")
    files = built(home, jobs)
    assert sum(name.endswith(".faiss") for name in files) == 3
    assert (files, cached(home)) == alone


@divided
@pytest.mark.nightly
def test_a_reindex_whose_workers_are_killed_makes_the_same_files(
    small_home: Home, jobs: Jobs, alone: tuple[dict[str, bytes], dict[bytes, bytes]], tmp_path: Path
) -> None:
    home = copy_without_vectors(small_home, tmp_path / "home")
    with ThreadPoolExecutor(1) as pool:
        files = pool.submit(built, home, jobs)
        wait_until(lambda: files.done() or any(home.indexes.glob(".spool-*/item-parts/0*.done.json")))
        killed = workers()
        for one in killed:
            one.kill()
        assert files.result() == alone[0]
    assert killed
    assert cached(home) == alone[1]


def tuned(home: Home, jobs: Jobs, *, learned: bool) -> list[tuple[dict[str, object], float | None]]:
    """The settings and the value of each of four trials, two of which are drawn together."""
    with Export.latest(home.exports) as export, closing(TextCache.open(home.text_cache)) as cache:
        (name,) = [path.name for path in home.text_models.iterdir() if path != home.text_cache]
        data = load_dataset(export, TextEncoder.load(home.text_models / name), cache)
    base = TowerConfig(dim=16)
    search = Search(base.as_json(), learned, str(home.training / "study"), 4, seed=7)
    objective, first = search.begin(data, None)
    tuning = Tuning(home.reports / "tune.db", "study")
    for params in first:
        tuning.enqueue(params)
    limits: dict[str, Any] = {"trials": 4, "timeout": None, "seed": 7, "together": 2}
    run_trials(tuning, objective, home, jobs, data, search, **limits)
    assert not list(home.indexes.glob(".spool-*"))
    study = optuna.load_study(study_name="study", storage=f"sqlite:///{home.reports / 'tune.db'}")
    assert tuning.best[0] == study.best_trial.user_attrs["config"]
    return [(trial.params, trial.value) for trial in study.trials]


@pytest.fixture(scope="module")
def tuned_alone(
    small_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> dict[bool, list[tuple[dict[str, object], float | None]]]:
    folder = tmp_path_factory.mktemp("tuned")
    homes = {learned: Home(folder / str(learned)) for learned in (False, True)}
    for home in homes.values():
        shutil.copytree(small_home.path, home.path)
    return {learned: tuned(home, IN_PROCESS, learned=learned) for learned, home in homes.items()}


@divided
@pytest.mark.nightly
@pytest.mark.parametrize("learned", [False, True])
def test_a_search_makes_the_same_choices(
    small_home: Home,
    jobs: Jobs,
    tuned_alone: dict[bool, list[tuple[dict[str, object], float | None]]],
    tmp_path: Path,
    learned: bool,
) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(small_home.path, home.path)
    assert tuned(home, jobs, learned=learned) == tuned_alone[learned]


@divided
@pytest.mark.nightly
def test_baselines_reach_the_same(small_home: Home, jobs: Jobs, small_data: Dataset, tmp_path: Path) -> None:
    shutil.copytree(small_home.path, tmp_path / "home")
    users = np.flatnonzero(np.diff(small_data.relevant("test").indptr)).astype(np.int64)
    contest = Contest(small_data, small_data, users, small_data.seen)
    ranked = dict(zip(NAMES, ranked_by(contest, Home(tmp_path / "home"), jobs), strict=True))
    for name, alone in zip(NAMES, ranked_by(contest, Home(tmp_path / "home"), IN_PROCESS), strict=True):
        assert ranked[name].settings == alone.settings, name
        np.testing.assert_array_equal(ranked[name].rows, alone.rows, err_msg=name)
    assert not any(one.left_out for one in ranked.values())
