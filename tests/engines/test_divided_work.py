"""The commands whose work can be divided make on workers what they make alone, whatever ends a worker."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from encoder.jobs import IN_PROCESS, Jobs
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
    found = psutil.Process().children(recursive=True)
    return [
        one
        for one in found
        if "ray::attempt" in (words := " ".join(one.cmdline())) or "loky.backend.popen" in words
    ]


@divided
def test_a_reindex_makes_the_same_files(
    small_home: Home, jobs: Jobs, alone: tuple[dict[str, bytes], dict[bytes, bytes]], tmp_path: Path
) -> None:
    home = copy_without_vectors(small_home, tmp_path / "home")
    files = built(home, jobs)
    assert sum(name.endswith(".faiss") for name in files) == 3
    assert (files, cached(home)) == alone


@divided
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
