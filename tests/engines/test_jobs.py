"""One contract for every way to work on parts: in this process, in processes, on a Ray cluster."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from encoder.jobs import Jobs, NotByNameError, PartFailedError, PartLostError, WorkerLostError, open_jobs
from encoder.jobs.cluster import NoClusterError, RayMissingError
from tests.encoder.jobs import work
from tests.live_server import SOON

WAYS = ("in this process", "processes", "ray")


every_way = pytest.mark.parametrize("jobs", WAYS, indirect=True)
apart = pytest.mark.parametrize("jobs", WAYS[1:], indirect=True)


def begun(folder: Path) -> set[int]:
    return {int(path.name.partition("-")[2]) for path in folder.glob("begun-*")}


def allow(folder: Path, *numbers: int) -> None:
    for number in numbers:
        (folder / f"end-{number}").touch()


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@every_way
def test_results_come_in_the_order_of_the_parts(jobs: Jobs) -> None:
    assert list(jobs.map(work.doubled, range(20), "numbers")) == [2 * number for number in range(20)]
    assert list(jobs.map(work.doubled, [], "numbers")) == []
    assert list(jobs.map(partial(work.fails_at, -1), range(3), "numbers")) == [0, 1, 2]


@every_way
def test_an_error_names_the_work_and_the_part_and_is_the_first_one(jobs: Jobs) -> None:
    results = jobs.map(partial(work.fails_at, 3), range(9), "numbers")
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(PartFailedError, match=r"numbers: part 3 failed: KeyError: 'what 3 needs'") as caught:
        next(results)
    assert caught.value.number == 3
    with pytest.raises(PartFailedError, match="part 0 failed: AwkwardError: 0 and 0"):
        list(jobs.map(work.fails_awkwardly, range(2), "numbers"))
    assert list(jobs.map(work.doubled, range(4), "numbers")) == [0, 2, 4, 6]  # and it goes on


@every_way
def test_parts_are_asked_for_as_they_are_needed(jobs: Jobs) -> None:
    asked: list[int] = []

    def parts() -> Iterator[int]:
        for number in range(1_000):
            asked.append(number)
            yield number

    results = jobs.map(work.doubled, parts(), "numbers")
    assert asked == []
    for number in range(30):
        assert next(results) == 2 * number
        assert len(asked) <= number + 1 + 4 * jobs.at_once
    results.close()


@every_way
def test_a_function_that_no_worker_can_import_is_refused(jobs: Jobs) -> None:
    def inside(number: int) -> int:
        return number

    for function in (inside, lambda number: number, partial(inside)):
        with pytest.raises(NotByNameError, match="is no function of a module"):
            jobs.map(function, [1], "numbers")


@apart
def test_results_are_yielded_while_others_are_at_work(jobs: Jobs, tmp_path: Path) -> None:
    allow(tmp_path, 0, 2, 3)
    results = jobs.map(partial(work.waits_for, tmp_path), range(4), "numbers")
    assert next(results) == 0
    wait_until(lambda: 1 in begun(tmp_path))
    allow(tmp_path, 1)
    assert list(results) == [1, 2, 3]


@apart
def test_each_worker_has_one_thread(jobs: Jobs) -> None:
    for threads, said in jobs.map(work.pools, range(4), "numbers"):
        assert (set(threads), said) == ({1}, "1")


@apart
def test_a_lost_worker_costs_its_part_alone(jobs: Jobs, tmp_path: Path) -> None:
    allow(tmp_path, 0, 2, 3)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: list(jobs.map(partial(work.waits_for, tmp_path), range(4), "numbers")))
        wait_until(lambda: 1 in begun(tmp_path))
        lost = int((tmp_path / "begun-1").read_text())
        os.kill(lost, signal.SIGKILL)
        wait_until(lambda: int((tmp_path / "begun-1").read_text()) != lost)
        allow(tmp_path, 1)
        assert found.result(SOON) == [0, 1, 2, 3]


@apart
def test_a_worker_that_is_lost_between_two_parts_is_replaced(jobs: Jobs) -> None:
    for process in set(jobs.map(work.process_of, range(8), "numbers")):
        os.kill(process, signal.SIGKILL)
    assert list(jobs.map(work.doubled, range(8), "numbers")) == [2 * number for number in range(8)]


@pytest.mark.nightly
@apart
def test_a_part_that_ends_every_worker_ends_the_work(jobs: Jobs) -> None:
    with pytest.raises(PartLostError, match=r"whoever worked on part 0 was ended each time"):
        list(jobs.map(work.always_dies, [0], "numbers"))
    assert list(jobs.map(work.doubled, range(4), "numbers")) == [0, 2, 4, 6]


@apart
def test_who_stops_early_ends_what_is_at_work(jobs: Jobs, tmp_path: Path) -> None:
    allow(tmp_path, 0)
    results = jobs.map(partial(work.waits_for, tmp_path), range(9), "numbers")
    assert next(results) == 0
    wait_until(lambda: len(begun(tmp_path)) > 1)
    at_work = [int((tmp_path / f"begun-{number}").read_text()) for number in begun(tmp_path) - {0}]
    results.close()
    wait_until(lambda: not any(psutil.pid_exists(process) for process in at_work))
    assert list(jobs.map(work.doubled, range(4), "numbers")) == [0, 2, 4, 6]


@every_way
def test_a_crew_works_beside_the_caller(jobs: Jobs, tmp_path: Path) -> None:
    room = jobs.room()
    numbers = set(range(1, room.processes))
    assert (room.threads >= 1, len(numbers)) == (True, 0 if jobs.in_this_process else 1)
    with jobs.beside(partial(work.waits_for, tmp_path), room, "numbers") as crew:
        wait_until(lambda: begun(tmp_path) == numbers)
        assert crew.results() == {}
        allow(tmp_path, *numbers)
        crew.wait_for_all(SOON)
        assert crew.results() == {number: number for number in numbers}
    assert list(jobs.map(work.doubled, range(4), "numbers")) == [0, 2, 4, 6]


@apart
def test_a_crew_tells_who_is_lost_and_ends_with_its_block(jobs: Jobs, tmp_path: Path) -> None:
    with jobs.beside(partial(work.waits_for, tmp_path), jobs.room(), "numbers") as crew:
        wait_until(lambda: begun(tmp_path) == {1})
        os.kill(int((tmp_path / "begun-1").read_text()), signal.SIGKILL)
        crew.wait_for_one(SOON)
        with pytest.raises(WorkerLostError, match="numbers: worker 1 is lost"):
            crew.results()
    with jobs.beside(partial(work.fails_at, 1), jobs.room(), "numbers") as crew:
        crew.wait_for_all(SOON)
        with pytest.raises(PartFailedError, match="part 1 failed: KeyError"):
            crew.results()
    (tmp_path / "begun-1").unlink()
    with jobs.beside(partial(work.waits_for, tmp_path), jobs.room(), "numbers"):
        wait_until(lambda: begun(tmp_path) == {1})
        process = int((tmp_path / "begun-1").read_text())
    wait_until(lambda: not psutil.pid_exists(process))
    assert list(jobs.map(work.doubled, range(4), "numbers")) == [0, 2, 4, 6]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_that_gave_out_the_work(tmp_path: Path, how: signal.Signals) -> None:
    program = (
        "import signal, sys; from functools import partial; from pathlib import Path\n"
        # A shell that starts this in the background has it ignore Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from encoder.jobs import open_jobs; from tests.encoder.jobs import work\n"
        "with open_jobs(2) as jobs: list(jobs.map(partial(work.waits_for, Path(sys.argv[1])), range(3), 'x'))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], start_new_session=True)
    wait_until(lambda: begun(tmp_path) == {0, 1})
    workers = [int(path.read_text()) for path in tmp_path.glob("begun-*")]
    os.killpg(process.pid, how) if how == signal.SIGINT else process.kill()  # Ctrl-C reaches all of them
    process.wait(SOON)
    wait_until(lambda: not any(psutil.pid_exists(worker) for worker in workers))


def test_fewer_than_one_job_is_none() -> None:
    with pytest.raises(ValueError, match="0 jobs: there must be at least 1"), open_jobs(0):
        pass


def test_an_address_of_a_client_server_is_refused() -> None:
    with pytest.raises(NoClusterError, match=r"'ray://127\.0\.0\.1:1' \(that is a client server"):
        open_jobs(1, "ray://127.0.0.1:1").__enter__()


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (
            "Last connection error: ... ray.exceptions.AuthenticationError: ...",
            "it asks for a token: set RAY_AUTH",
        ),
        ("Last connection error: ...", "Failed to connect to Ray cluster at 10.0.0.5:6379"),
    ],
)
def test_why_no_cluster_answers_is_told(monkeypatch: pytest.MonkeyPatch, cause: str, reason: str) -> None:
    """Ray itself tries for half a minute, and has the reason in the text of the cause of its error."""

    def refuse(**_: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.5:6379") from RuntimeError(cause)

    import ray

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(NoClusterError, match=rf"answers at '10\.0\.0\.5:6379' \({reason}"):
        open_jobs(1, "10.0.0.5:6379").__enter__()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.jobs.cluster.find_spec", lambda name: None)
    with pytest.raises(RayMissingError, match=r"pip install 'triptych\[ray\]'"), open_jobs(1, "auto"):
        pass
