"""Who works in a directory, and who may change CURRENT: living processes hold it, ids prove nothing."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from indexer.building.build_checkpoint import ReindexRunsError, open_checkpoint
from indexer.publish import changing_current
from store import locks
from store.artifact import artifacts, build
from store.home import Home
from store.locks import LockedError, abandoned, locked, locked_directory, remove_abandoned


def test_a_draft_is_swept_unless_somebody_works_in_it_whatever_its_name_says(tmp_path: Path) -> None:
    with build(tmp_path, "a") as draft:
        (draft.path / "file").write_text("a")
        # As by another container, where the same id belongs to somebody else, and by processes that are gone.
        for name in (f".building-x-{os.getpid()}", ".building-x-1", ".building-x"):
            (tmp_path / name).mkdir()
        with build(tmp_path, "b"):
            assert [path.name for path in tmp_path.glob(".building-x*")] == []
            assert draft.path.is_dir()
        assert abandoned(tmp_path, ".building-*") == []
    assert artifacts(tmp_path) == ["a", "b"]


def test_one_artifact_can_be_built_twice_at_a_time_and_the_second_fails(tmp_path: Path) -> None:
    first = build(tmp_path, "a")
    (first.__enter__().path / "file").write_text("first")
    with build(tmp_path, "a") as second:
        (second.path / "file").write_text("second")
    with pytest.raises(OSError, match=r"not empty|exists"):
        first.__exit__(None, None, None)
    assert (tmp_path / "a" / "file").read_text() == "second"
    assert artifacts(tmp_path) == ["a"]
    assert list(tmp_path.glob(".*")) == []


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from store.locks import locked_directory\n"
        "with locked_directory(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    place = tmp_path / ".building-x"
    process = subprocess.Popen(
        [sys.executable, "-c", code, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    assert abandoned(tmp_path, ".building-*") == []
    with pytest.raises(LockedError, match="somebody works in"), locked(place):
        pass
    process.kill()
    process.communicate()
    assert abandoned(tmp_path, ".building-*") == [place]
    remove_abandoned(tmp_path, ".building-*")
    assert not place.exists()


def test_nobody_sweeps_between_making_and_holding(tmp_path: Path) -> None:
    """Threads that make and sweep in one folder: no one's directory goes while they are in it."""
    meet, lost = threading.Barrier(4), []

    def work(number: int) -> None:
        meet.wait()
        for turn in range(50):
            remove_abandoned(tmp_path, ".building-*")
            with locked_directory(tmp_path / f".building-{number}-{turn}") as place:
                (place / "file").write_text("x")
                if not (place / "file").exists():
                    lost.append(place)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not lost
    remove_abandoned(tmp_path, ".building-*")
    assert list(tmp_path.iterdir()) == []


def test_a_spool_that_is_made_is_not_swept_by_another(tmp_path: Path) -> None:
    meet, failed = threading.Barrier(2), []

    def work(key: str) -> None:
        meet.wait()
        for _ in range(50):
            try:
                with open_checkpoint(tmp_path, key) as folder:
                    (folder / "file").write_text("x")
            except (ReindexRunsError, OSError) as error:
                failed.append(error)

    threads = [threading.Thread(target=work, args=(key,)) for key in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_folder_that_its_owner_removes_amid_a_sweep_is_none_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".spool-a").mkdir()
    lock = locks._lock

    def removed_before(descriptor: int, path: Path, *, wait: bool) -> None:
        if path.name == ".spool-a":
            path.rmdir()  # by its owner, who then lets go of it
        lock(descriptor, path, wait=wait)

    monkeypatch.setattr(locks, "_lock", removed_before)
    remove_abandoned(tmp_path, ".spool-*")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_ends_for_children_too(tmp_path: Path) -> None:
    with locked(tmp_path):
        child = os.fork()
        if not child:
            threading.Event().wait()  # killed below
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_current_has_a_file_of_its_own_to_hold(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with changing_current(home), pytest.raises(LockedError), locked(home.current_lock):
        pass
    assert abandoned(tmp_path / "not", ".building-*") == []
