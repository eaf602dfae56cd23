"""The commands whose work can be divided make on workers what they make alone, whatever ends a worker."""

import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optuna
import pytest

from encoder.config import TowerConfig
from encoder.dataset import Dataset, load_dataset
from encoder.jobs import IN_PROCESS, Jobs
from encoder.text import TextCache, TextEncoder
from scripts.evaluate.baselines import NAMES, Contest, ranked_by
from scripts.training import encode_texts
from scripts.tune.study import Tuning
from scripts.tune.trials import Search, run_trials
from store.export import Export
from store.home import Home
from tests.encoder.jobs import work
from tests.engines.test_jobs import wait_until
from tests.indexer.divided import built, cached, copy_without_vectors, divide_more
from tests.live_server import SOON

divided = pytest.mark.parametrize("jobs", ["processes", "ray"], indirect=True)
ray_by_night = pytest.mark.parametrize(
    "jobs", ["processes", pytest.param("ray", marks=pytest.mark.nightly)], indirect=True
)
EPOCHS = 8  # of a learned block: two checks, the first of which is in a checkpoint while the second is not

Trials = list[tuple[dict[str, Any], float | None, dict[int, float], dict[str, Any]]]
_Result = TypeVar("_Result")


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


def while_one_is_killed(jobs: Jobs, place: str, folder: Path, do: Callable[[], _Result]) -> _Result:
    """Do something; the first worker that has come through a function of the code is killed there."""
    divide, stopped = jobs.map, folder / "stopped"

    def divide_with_a_stop(function: Callable[[Any], Any], parts: Iterable[Any], label: str) -> Iterator[Any]:
        return divide(partial(work.stops_after, place, folder, function), parts, label)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(jobs, "map", divide_with_a_stop)
        done = pool.submit(do)
        wait_until(lambda: done.done() or stopped.exists())
        assert not done.done(), done.result()
        os.kill(int(stopped.read_text()), signal.SIGKILL)
        return done.result(SOON)


@ray_by_night
def test_a_reindex_makes_the_same_files(
    small_home: Home, jobs: Jobs, alone: tuple[dict[str, bytes], dict[bytes, bytes]], tmp_path: Path
) -> None:
    home = copy_without_vectors(small_home, tmp_path / "home")
    files = built(home, jobs)
    assert sum(name.endswith(".faiss") for name in files) == 3
    assert (files, cached(home)) == alone


@divided
@pytest.mark.nightly
@pytest.mark.parametrize("place", ["parts.write_vectors", "shards._save", "ground_truth.best_of_all"])
def test_a_reindex_whose_worker_is_killed_makes_the_same_files(
    small_home: Home,
    jobs: Jobs,
    alone: tuple[dict[str, bytes], dict[bytes, bytes]],
    tmp_path: Path,
    place: str,
) -> None:
    """It is killed behind vectors that are not marked as whole, in a FAISS file, or behind a search."""
    home = copy_without_vectors(small_home, tmp_path / "home")
    reindex = partial(built, home, jobs)
    files = while_one_is_killed(jobs, f"indexer.building.{place}", tmp_path, reindex)
    assert (files, cached(home)) == alone


def encoded(home: Home, jobs: Jobs) -> dict[bytes, bytes]:
    """Encode all texts of a home as `train` does; return what the cache then holds."""
    with Export.latest(home.exports) as export, closing(TextCache.open(home.text_cache)) as texts:
        encode_texts(home, export, encoder_of(home), texts, jobs)
        load_dataset(export, encoder_of(home), texts)
    assert not list(home.indexes.glob(".spool-*"))
    return cached(home)


def encoder_of(home: Home) -> TextEncoder:
    (name,) = [path.name for path in home.text_models.iterdir() if path != home.text_cache]
    return TextEncoder.load(home.text_models / name)


@divided
@pytest.mark.nightly
def test_texts_whose_worker_is_killed_have_the_same_vectors(
    small_home: Home, jobs: Jobs, tmp_path: Path
) -> None:
    """It is killed while the file of its vectors is written and not yet named."""
    alone = encoded(copy_without_vectors(small_home, tmp_path / "alone"), IN_PROCESS)
    home = copy_without_vectors(small_home, tmp_path / "home")
    found = while_one_is_killed(jobs, "encoder.text.parts.sync", tmp_path, partial(encoded, home, jobs))
    assert found == alone


def tuned(home: Home, jobs: Jobs, *, learned: bool) -> Trials:
    """What each of four trials tried and reached, two of which are drawn together."""
    with Export.latest(home.exports) as export, closing(TextCache.open(home.text_cache)) as texts:
        data = load_dataset(export, encoder_of(home), texts)
    base = TowerConfig(dim=16)
    search = Search(base.as_json(), learned, str(home.training / "study"), EPOCHS, seed=7)
    objective, first = search.begin(data, None)
    tuning = Tuning(home.reports / "tune.db", "study")
    for params in first:
        tuning.enqueue(params)
    limits: dict[str, Any] = {"trials": 4, "timeout": None, "seed": 7, "together": 2}
    run_trials(tuning, objective, home, jobs, data, search, **limits)
    assert not list(home.indexes.glob(".spool-*"))
    study = optuna.load_study(study_name="study", storage=f"sqlite:///{home.reports / 'tune.db'}")
    assert tuning.best[0] == study.best_trial.user_attrs["config"]
    return [(one.params, one.value, one.intermediate_values, one.user_attrs) for one in study.trials]


@pytest.fixture(scope="module")
def tuned_alone(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Trials]:
    """What the trials in one process reach, of a learned block or of the closed form."""

    @cache
    def reached(learned: bool) -> Trials:
        home = Home(tmp_path_factory.mktemp("tuned") / "home")
        shutil.copytree(small_home.path, home.path)
        return tuned(home, IN_PROCESS, learned=learned)

    return reached


@divided
@pytest.mark.nightly
@pytest.mark.parametrize("learned", [False, True])
def test_a_search_makes_the_same_choices(
    small_home: Home, jobs: Jobs, tuned_alone: Callable[[bool], Trials], tmp_path: Path, learned: bool
) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(small_home.path, home.path)
    assert tuned(home, jobs, learned=learned) == tuned_alone(learned)


@ray_by_night
def test_a_search_whose_worker_is_killed_makes_the_same_choices(
    small_home: Home, jobs: Jobs, tuned_alone: Callable[[bool], Trials], tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(small_home.path, home.path)
    search, place = partial(tuned, home, jobs, learned=False), "scripts.tune.closed_form.fit_closed_form"
    assert while_one_is_killed(jobs, place, tmp_path, search) == tuned_alone(False)


@divided
@pytest.mark.nightly
@pytest.mark.parametrize("place", ["encoder.learned.checkpoint.save", "scripts.tune.learned.choose_mix"])
def test_a_trial_that_goes_on_from_a_checkpoint_reaches_the_same(
    small_home: Home, jobs: Jobs, tuned_alone: Callable[[bool], Trials], tmp_path: Path, place: str
) -> None:
    """Its curve included, by which other trials are given up."""
    home = Home(tmp_path / "home")
    shutil.copytree(small_home.path, home.path)
    search = partial(tuned, home, jobs, learned=True)
    assert while_one_is_killed(jobs, place, tmp_path, search) == tuned_alone(True)


def ranked(data: Dataset, home: Home, jobs: Jobs) -> dict[str, tuple[dict[str, Any], list[list[int]]]]:
    """The settings and the ranking of each baseline."""
    users = np.flatnonzero(np.diff(data.relevant("test").indptr)).astype(np.int64)
    found = ranked_by(Contest(data, data, users, data.seen), home, jobs)
    return {name: (one.settings, one.rows.tolist()) for name, one in zip(NAMES, found, strict=True)}


@divided
@pytest.mark.nightly
def test_baselines_reach_the_same_though_a_worker_is_killed(
    small_home: Home, jobs: Jobs, small_data: Dataset, tmp_path: Path
) -> None:
    """The worker is killed when a baseline is fitted and its ranking is not written yet."""
    home = Home(tmp_path / "home")
    shutil.copytree(small_home.path, home.path)
    alone = ranked(small_data, home, IN_PROCESS)
    assert not any("left_out" in settings for settings, _ in alone.values())
    assert ranked(small_data, home, jobs) == alone
    again = partial(ranked, small_data, home, jobs)
    assert while_one_is_killed(jobs, "scripts.evaluate.baselines._rank", tmp_path, again) == alone
    assert not list(home.indexes.glob(".spool-*"))
