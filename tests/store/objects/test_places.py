"""The contract of places of artifacts, for each: a directory, and a bucket of a real S3 server."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from store.artifact import MANIFEST, DamagedArtifactError, build, read_manifest, verify
from store.home import Home
from store.objects import (
    CURRENT,
    LATEST,
    ArtifactPlace,
    HomeBucket,
    HomeDirectory,
    Pointer,
    PointerMovedError,
    PointerVersion,
    copy_artifact,
    place_of,
)

Another = Callable[[], ArtifactPlace]


@pytest.fixture(params=["directory", "bucket"])
def named(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "place") if request.param == "directory" else str(request.getfixturevalue("url"))


@pytest.fixture
def place(named: str) -> ArtifactPlace:
    return place_of(named)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Home:
    return Home(tmp_path / "elsewhere")


def another(made: Path, artifact_id: str, text: str = "eins") -> Path:
    parent = made.parent.parent / text / "indexes"
    with build(parent, artifact_id) as draft:
        (draft.path / "one.txt").write_text(text)
        draft.facts["kind"] = "test"
    return parent / artifact_id


def write(place: ArtifactPlace, name: str, content: bytes | None) -> None:
    """Write a file of a place behind its back; None removes it."""
    if isinstance(place, HomeBucket):
        files, path = place.storage._files, place.storage._path(name)
        files.rm_file(path) if content is None else files.pipe_file(path, content)
    else:
        assert isinstance(place, HomeDirectory)
        path = place.home.path / name
        path.unlink() if content is None else path.write_bytes(content)


def test_what_is_added_is_listed_and_comes_back_byte_for_byte(
    place: ArtifactPlace, made: Path, elsewhere: Home
) -> None:
    assert place.ids("indexes") == []
    assert place.add("indexes", made)
    place.add("indexes", another(made, "a0"))
    assert place.ids("indexes") == ["a0", "a1"]
    assert place.ids("models") == []
    assert place.manifest("indexes", "a1") == read_manifest(made)
    directory = place.fetch("indexes", "a1", elsewhere)
    assert directory == elsewhere.indexes / "a1"
    assert verify(directory) == verify(made)
    place.check("indexes", "a1")
    assert place.size("indexes", "a1") == sum(p.stat().st_size for p in made.rglob("*") if p.is_file())
    assert [p.name for p in elsewhere.indexes.iterdir()] == ["a1"]


def test_an_artifact_never_changes(place: ArtifactPlace, made: Path) -> None:
    assert place.add("indexes", made)
    assert not place.add("indexes", made)
    with pytest.raises(FileExistsError, match="is another one"):
        place.add("indexes", another(made, "a1", "another"))
    assert place.manifest("indexes", "a1") == read_manifest(made)


def test_a_damaged_artifact_is_not_added(place: ArtifactPlace, made: Path) -> None:
    (made / "two.txt").write_text("drei")
    with pytest.raises(DamagedArtifactError, match=r"two.txt: is damaged"):
        place.add("indexes", made)
    assert place.ids("indexes") == []


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "manifest"])
def test_damage_is_found_and_named(place: ArtifactPlace, made: Path, elsewhere: Home, damage: str) -> None:
    place.add("indexes", made)
    name = {"added": "extra", "manifest": MANIFEST}.get(damage, "one.txt")
    write(place, f"indexes/a1/{name}", None if damage == "missing" else b"EINS")
    with pytest.raises(DamagedArtifactError, match=name):
        place.check("indexes", "a1")
    if damage != "added":  # what is not named is not brought
        with pytest.raises(DamagedArtifactError, match=name):
            place.fetch("indexes", "a1", elsewhere)
        assert HomeDirectory(elsewhere).ids("indexes") == []


def test_what_is_not_there_is_named(place: ArtifactPlace, elsewhere: Home) -> None:
    for asked in (place.manifest, place.check, lambda kind, one: place.fetch(kind, one, elsewhere)):
        with pytest.raises(DamagedArtifactError, match=r"nowhere.*is missing"):
            asked("indexes", "nowhere")


def test_a_pointer_moves_and_is_rolled_back(place: ArtifactPlace, made: Path) -> None:
    for directory in (made, another(made, "a0")):
        place.add("indexes", directory)
    assert place.pointer(CURRENT) == PointerVersion()
    first = place.move_pointer(CURRENT, "a0", place.pointer(CURRENT))
    assert place.pointer(CURRENT) == first
    second = place.move_pointer(CURRENT, "a1", first)
    assert (second.artifact_id, place.pointer(LATEST)) == ("a1", PointerVersion())
    back = place.move_pointer(CURRENT, "a0", second)
    assert place.pointer(CURRENT) == back
    for outdated in (PointerVersion(), second):
        with pytest.raises(PointerMovedError, match="was moved to a0 by somebody else"):
            place.move_pointer(CURRENT, "a1", outdated)
    assert place.pointer(CURRENT).artifact_id == "a0"


def test_a_pointer_to_nothing_is_refused(place: ArtifactPlace, made: Path) -> None:
    place.add("indexes", made)
    with pytest.raises(DamagedArtifactError, match="nowhere"):
        place.move_pointer(CURRENT, "nowhere", PointerVersion())
    assert place.pointer(CURRENT) == PointerVersion()


@pytest.mark.parametrize("pointer", [CURRENT, LATEST])
def test_of_two_who_move_a_pointer_at_once_one_wins(
    named: str, place: ArtifactPlace, made: Path, pointer: Pointer
) -> None:
    ids = ("a0", "a1", "a2")
    for one in ids:
        directory = another(made, one, one)
        place.add(pointer.kind, directory)
    places, before = [place_of(named), place_of(named)], place.pointer(pointer)
    barrier = threading.Barrier(2)

    def move(by: ArtifactPlace, to: str, seen: PointerVersion) -> object:
        barrier.wait()
        try:
            return by.move_pointer(pointer, to, seen)
        except PointerMovedError as error:
            return error

    for _ in range(12):
        others = [one for one in ids if one != before.artifact_id][:2]
        with ThreadPoolExecutor(2) as threads:
            outcomes = list(threads.map(move, places, others, [before, before]))
        won = [one for one in outcomes if isinstance(one, PointerVersion)]
        lost = [one for one in outcomes if isinstance(one, PointerMovedError)]
        assert (len(won), len(lost)) == (1, 1), outcomes
        before = place.pointer(pointer)
        assert (won[0], lost[0].found) == (before, before.artifact_id)


KILLED = """
import sys, time
from pathlib import Path
from store.home import Home
from store.objects import HomeDirectory, ObjectStorage, place_of
from store.objects import places
named, made, verb = sys.argv[1:]
copies = 0

def stop_at_the_third(function):
    def stopping(*args, **options):
        global copies
        copies += 1
        if copies == 3:
            print("in", flush=True)
            time.sleep(60)
        return function(*args, **options)
    return stopping

if verb == "add":
    ObjectStorage.put = stop_at_the_third(ObjectStorage.put)
    places.shutil.copyfile = stop_at_the_third(places.shutil.copyfile)
    place_of(named).add("indexes", Path(made))
else:
    ObjectStorage.get = stop_at_the_third(ObjectStorage.get)
    place_of(named).fetch("indexes", "a1", Home(Path(made)))
"""


def kill_in(verb: str, named: str, made: Path) -> None:
    command = [sys.executable, "-c", KILLED, named, str(made), verb]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        os.kill(process.pid, signal.SIGKILL)


def test_an_upload_that_was_killed_is_seen_by_nobody_and_done_again(
    named: str, place: ArtifactPlace, made: Path, elsewhere: Home, caplog: pytest.LogCaptureFixture
) -> None:
    kill_in("add", named, made)
    assert place.ids("indexes") == []
    with pytest.raises(DamagedArtifactError):
        place.fetch("indexes", "a1", elsewhere)
    with caplog.at_level("INFO"):
        assert place.add("indexes", made)
    if isinstance(place, HomeBucket):
        assert "1 of 3 files sent" in caplog.text  # the others had arrived
    assert verify(place.fetch("indexes", "a1", elsewhere)) == verify(made)
    place.check("indexes", "a1")


def test_what_an_upload_left_is_swept(named: str, place: ArtifactPlace, made: Path) -> None:
    place.add("indexes", another(made, "a0"))
    kill_in("add", named, made)
    if isinstance(place, HomeBucket):
        place.storage._files.call_s3(
            "create_multipart_upload", **place.storage._key("exports/e1/items.parquet")
        )
        assert place.sweep() == 0  # somebody may go on with it yet
        assert place.sweep(timedelta(seconds=-60)) == 2
        left = {name.split("/")[1] for name in place.storage.files() if "/" in name}
    else:
        assert isinstance(place, HomeDirectory)
        assert place.sweep() == 1
        left = {path.name for path in place.home.indexes.iterdir()}
    assert left == {"a0"}
    assert place.ids("indexes") == ["a0"]


def test_a_fetch_that_was_killed_goes_on(
    url: str, made: Path, elsewhere: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = HomeBucket(url)
    place.add("indexes", made)
    kill_in("fetch", url, elsewhere.path)
    assert HomeDirectory(elsewhere).ids("indexes") == []
    (left,) = elsewhere.indexes.iterdir()
    arrived = [path for path in sorted(left.rglob("*")) if path.is_file()]
    assert len(arrived) == 2
    arrived[0].write_bytes(b"half of it")  # as a file that was cut off
    fetched, get = list[str](), place.storage.get
    monkeypatch.setattr(place.storage, "get", lambda name, *args: (fetched.append(name), get(name, *args)))
    assert verify(place.fetch("indexes", "a1", elsewhere)) == verify(made)
    assert len(fetched) == 2
    assert [path.name for path in elsewhere.indexes.iterdir()] == ["a1"]


def test_several_who_fetch_at_once_bring_it_once(
    url: str, made: Path, elsewhere: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    HomeBucket(url).add("indexes", made)
    barrier, fetched, failed = threading.Barrier(3), list[str](), list[Exception]()

    def fetch() -> None:
        place = HomeBucket(url)
        get = place.storage.get
        monkeypatch.setattr(
            place.storage, "get", lambda name, *args: (fetched.append(name), get(name, *args))
        )
        barrier.wait()
        try:
            verify(place.fetch("indexes", "a1", elsewhere))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failed, len(fetched)) == ([], 3)
    assert [path.name for path in elsewhere.indexes.iterdir()] == ["a1"]


def test_what_is_removed_is_gone_whole(place: ArtifactPlace, made: Path, elsewhere: Home) -> None:
    for directory in (made, another(made, "a0")):
        place.add("indexes", directory)
    place.remove("indexes", "a1")
    assert place.ids("indexes") == ["a0"]
    with pytest.raises(DamagedArtifactError):
        place.fetch("indexes", "a1", elsewhere)
    if isinstance(place, HomeBucket):
        assert not [name for name in place.storage.files() if "a1" in name]
    assert place.add("indexes", made)


def test_a_removal_that_is_cut_short_leaves_nothing_to_see(
    place: ArtifactPlace, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.add("indexes", made)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if isinstance(place, HomeBucket):
            remove = place.storage.remove
            patch.setattr(
                place.storage, "remove", lambda names: remove(names) if MANIFEST in names[0] else killed()
            )
        else:
            patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            place.remove("indexes", "a1")
    assert place.ids("indexes") == []


def test_homes_move_from_one_place_to_the_other_and_back(
    place: ArtifactPlace, url: str, made: Path, tmp_path: Path
) -> None:
    place.add("indexes", made)
    there, back = place_of(f"{url}-there"), place_of(str(tmp_path / "back"))
    by = Home(tmp_path / "by")
    assert copy_artifact("indexes", "a1", place, there, by)
    assert not copy_artifact("indexes", "a1", place, there, by)
    assert copy_artifact("indexes", "a1", there, back, by)
    assert not copy_artifact("indexes", "a1", there, back, by)
    assert verify(tmp_path / "back" / "indexes" / "a1") == verify(made)
