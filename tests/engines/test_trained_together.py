"""A learned block that several processes train together is the one that a process trains alone."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from encoder.dataset import Dataset, hold_out
from encoder.jobs import Jobs, PartFailedError
from encoder.learned import LearnConfig
from encoder.learned.parallel import TrainingWorkers
from encoder.learned.trainer import TRIES, Score, TrainedBlock, WorkersLostError, train_block
from encoder.tower import Tower
from encoder.tower.select import HeldOutScorer
from encoder.views import FloatArray
from tests.engines.test_divided_work import ray_by_night
from tests.tiny_dataset import CONFIG, dataset

# Of 24 users, the last step has one, so one rank has none.
OPTIONS = LearnConfig(dim=8, epochs=12, batch=23, patience=2)
TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def data() -> Dataset:
    whole = dataset(dated=False)
    return hold_out(whole, np.arange(len(whole.history.users)) % 8 == 0, "valid")


def score_of(data: Dataset) -> Score:
    scorer = HeldOutScorer(data, "valid")
    return lambda block: scorer.score_tower(Tower(CONFIG, (block,)))


@pytest.fixture(scope="module")
def alone(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainedBlock:
    return train_block(data, CONFIG, OPTIONS, score_of(data), tmp_path_factory.mktemp("alone"))


def trained(
    data: Dataset, jobs: Jobs, folder: Path, report: Callable[[dict[str, float], int], None] | None = None
) -> TrainedBlock:
    (folder / "shared").mkdir()
    crew = TrainingWorkers(jobs, folder / "shared")
    return train_block(data, CONFIG, OPTIONS, score_of(data), folder, report, None, crew)


def difference(one: dict[str, FloatArray], other: dict[str, FloatArray]) -> float:
    """The largest difference of two sets of weights, in parts of the largest weight of its kind."""
    assert one.keys() == other.keys()
    return max(
        float(np.abs(one[name] - other[name]).max() / max(1e-3, np.abs(other[name]).max()))
        for name in one
        if other[name].size
    )


def workers() -> list[psutil.Process]:
    """The processes that train with this one: children of it, or Ray's."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            words = " ".join(one.cmdline())
            if "ray::attempt" in words or "loky.backend.popen" in words:
                found.append(one)
    return found


def kill_workers_after(wanted: int) -> tuple[Callable[[dict[str, float], int], None], list[int]]:
    """A report that kills the workers after an epoch, once, and the epochs that it has seen."""
    seen: list[int] = []

    def report(_: dict[str, float], epoch: int) -> None:
        if epoch == wanted and epoch not in seen:
            killed = workers()
            assert killed
            for one in killed:
                one.kill()
        seen.append(epoch)

    return report, seen


@ray_by_night
def test_the_weights_are_those_of_one_process_and_the_same_where_a_worker_is_killed(
    data: Dataset, alone: TrainedBlock, jobs: Jobs, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("unbroken", "broken")]
    for folder in folders:
        folder.mkdir()
    listening: set[str] = set()

    def look(*_: object) -> None:
        if jobs.room().address == "127.0.0.1":
            me = psutil.Process()
            listening.update(
                place.laddr.ip
                for one in (me, *workers())
                for place in one.net_connections("inet")
                if place.status == psutil.CONN_LISTEN
            )

    found = trained(data, jobs, folders[0], look)
    assert listening == ({"127.0.0.1"} if jobs.room().address == "127.0.0.1" else set())
    assert found.epoch == alone.epoch
    assert [epoch for epoch, _ in found.checks] == [epoch for epoch, _ in alone.checks]
    assert difference(found.weights, alone.weights) < TOLERANCE
    report, epochs = kill_workers_after(6)  # two after the first check
    broken = trained(data, jobs, folders[1], report)
    assert epochs[:8] == [1, 2, 3, 4, 5, 6, 5, 6]
    assert broken.checks == found.checks
    for name, weights in found.weights.items():
        np.testing.assert_array_equal(broken.weights[name], weights, err_msg=name)


@pytest.mark.parametrize("jobs", ["processes"], indirect=True)
def test_workers_that_are_lost_each_time_end_the_training(
    data: Dataset, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TRIES == 3
    monkeypatch.setattr("encoder.learned.trainer.TRIES", 1)
    report, epochs = kill_workers_after(1)
    with pytest.raises(
        WorkersLostError, match=r"learned block: worker 1 is lost .*: perhaps there is too little memory"
    ):
        trained(data, jobs, tmp_path, report)
    assert epochs == [1]


@pytest.mark.parametrize("jobs", ["processes"], indirect=True)
def test_a_worker_that_cannot_read_the_data_says_so(
    data: Dataset, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingWorkers, "folder_of", lambda *_: tmp_path / "not mounted")
    with pytest.raises(
        PartFailedError, match=r"learned block: part 1 failed: FileNotFoundError.*not mounted"
    ):
        trained(data, jobs, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("jobs", ["processes"], indirect=True)
def test_a_worker_that_says_nothing_any_more_is_given_up(
    data: Dataset, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encoder.learned.parallel.group.STEP_SECONDS", 3.0)  # of rank 0
    monkeypatch.setattr("encoder.learned.parallel.leader._NOTICE_SECONDS", 0.1)
    stopped: list[psutil.Process] = []

    def stop(_: dict[str, float], epoch: int) -> None:
        if epoch == 6 and not stopped:
            stopped.extend(workers())
            for one in stopped:
                one.suspend()

    assert trained(data, jobs, tmp_path, stop).epoch
    assert stopped
    assert not any(one.is_running() for one in stopped)
