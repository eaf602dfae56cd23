"""A full or read-only disk is called that, loses nothing, needs no restart; odd paths work or are refused."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import grpc
import lmdb
import pytest

from encoder.text.cache import TextCache
from scripts.doctor.check import State
from scripts.doctor.store import store_check
from server.status import Failure, InvalidRequestError, outcome
from store.artifact import build, set_pointer
from store.database import UnusablePathError
from store.disk import DiskFullError, ReadOnlyDiskError, disk_error, disk_errors, replace_file
from store.home import Home
from store.lmdb_file import reserve_lock_file
from store.state.state import UserState
from store.store import Store
from tests.command_line import Run
from tests.live_server import copy_home, run_server, soon
from tests.live_server import server as server_process
from triptych_client import Behavior, CallError, Client, Text

FULL, READ_ONLY = os.strerror(errno.ENOSPC), os.strerror(errno.EROFS)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(errno.ENOSPC, FULL, "/home/x"), DiskFullError, "the disk of /home/x takes no more"),
        (OSError(errno.ENOSPC, FULL), DiskFullError, "the disk of /place takes no more"),
        (OSError(errno.EDQUOT, "quota"), DiskFullError, os.strerror(errno.EDQUOT)),
        (OSError(errno.EFBIG, "large"), DiskFullError, os.strerror(errno.EFBIG)),
        (
            shutil.Error([("a", "b", f"[Errno 28] {FULL}: 'b'")]),
            DiskFullError,
            "free some space and try again",
        ),
        (duckdb.IOException(f'Could not write file "/x": {FULL}'), DiskFullError, "/place"),
        (duckdb.TransactionException(f"Failed to commit: {FULL}"), DiskFullError, "/place"),
        (lmdb.DiskError(f"mdb_txn_commit: {FULL}"), DiskFullError, "/place"),
        (OSError(errno.EROFS, READ_ONLY, "/home/x"), ReadOnlyDiskError, "/home/x lies on a read-only file"),
        (duckdb.IOException(f'Cannot open file "/x": {READ_ONLY}'), ReadOnlyDiskError, "/place lies"),
        (lmdb.Error(f"/x: {READ_ONLY}"), ReadOnlyDiskError, "mount it for writing"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_system_and_the_engines_say_of_a_disk_is_one_word(
    error: Exception, kind: type[Exception], words: str
) -> None:
    named = disk_error(error, "/place")
    assert type(named) is kind
    assert words in str(named)

    def fail() -> None:
        raise error

    with pytest.raises(kind), disk_errors(Path("/place")):
        fail()
    failure = outcome(fail)
    assert isinstance(failure, Failure)
    code, reason = {DiskFullError: (8, "DISK_FULL"), ReadOnlyDiskError: (9, "READ_ONLY")}[kind]
    assert (failure.code, failure.reason) == (code, reason)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOENT, "no file", FULL),
        duckdb.ConversionException(f"Could not convert string '{FULL}'"),
        InvalidRequestError(f"user {FULL!r} is unknown", "user_id"),
        lmdb.Error("mdb_get: something else"),
    ],
)
def test_what_is_something_else_stays_what_it_is(error: Exception) -> None:
    assert disk_error(error, "/place") is None
    with pytest.raises(type(error)) as caught, disk_errors(Path("/place")):
        raise error
    assert caught.value is error


def test_doctor_calls_a_read_only_disk_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    Store.open(home.database).close()

    def refuse(path: Path) -> Store:
        raise ReadOnlyDiskError(path)

    monkeypatch.setattr(Store, "open", refuse)
    check, rows = store_check(home)
    assert (check.state, rows) == (State.FAILED, None)
    assert "lies on a read-only file system: mount it for writing" in check.found


def test_a_lock_file_is_given_its_blocks_before_it_is_mapped(tmp_path: Path) -> None:
    """LMDB maps a file of holes; a page that the full disk has no block for ends the process by SIGBUS."""
    for folder, opened in (("cache", TextCache.open), ("state", UserState.open)):
        opened(tmp_path / folder).close()
        lock = (tmp_path / folder / "lock.mdb").stat()
        assert lock.st_blocks * 512 >= lock.st_size > 0
    before = (tmp_path / "cache" / "lock.mdb").read_bytes()
    reserve_lock_file(tmp_path / "cache", 126)
    assert (tmp_path / "cache" / "lock.mdb").read_bytes() == before


_ON_A_SMALL_DISK = r"""
import json, os, shutil, subprocess, sys
from pathlib import Path
import numpy as np
from encoder.text.cache import TextCache
from store.artifact import set_pointer
from store.store import Store
from store.export import create_export
from store.writes.request import Behaviors, Request
from store.writes.request import BehaviorRow
from store.state.state import UserState
from store.writes.writer import Writer

place, threshold = Path(sys.argv[1]), sys.argv[2]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], check=True)
report = {"refused": [], "acked": 0, "seen": []}
number = 0

def rows(count):
    global number
    number += count
    return Request(Behaviors([BehaviorRow(f"u{number - i}", "i1") for i in range(count)]))

def attempt(name, call):
    try:
        call()
    except Exception as error:
        report.setdefault(name, [type(error).__name__, str(error)])
    else:
        report.setdefault(name, None)

def fill(left):
    with (place / "ballast").open("wb") as file:
        file.write(bytes(shutil.disk_usage(place).free - left))

with Store.open(place / "views.duckdb") as store, UserState.open(place / "state") as state:
    store._db.execute(f"SET GLOBAL checkpoint_threshold = '{threshold}'")
    with store.writing() as cursor:
        cursor.execute("INSERT INTO data.items (item_id) VALUES ('i1')")
    writer = Writer(store, state)

    def write(count):
        written, change = writer.write([rows(count)])
        report["acked"] += written[0].inserted

    for _ in range(5):
        write(1000)
    fill(int(sys.argv[3]))
    for _ in range(30):
        try:
            write(500)
        except Exception as error:
            report["refused"].append([type(error).__name__, str(error)])
    fill_up = open(place / "rest", "wb", buffering=0)
    try:
        while True:
            fill_up.write(bytes(4096))
    except OSError:
        fill_up.close()
    attempt("export", lambda: create_export(store, place / "exports"))
    attempt("point", lambda: set_pointer(place / "CURRENT", "x" * 5000))
    attempt("new cache", lambda: TextCache.open(place / "cache"))  # without care, this ends in SIGBUS
    report["left"] = sorted(path.name for path in place.iterdir() if path.name.startswith("."))
    (place / "ballast").unlink()
    (place / "rest").unlink()
    attempt("write after", lambda: write(500))
    attempt("export after", lambda: create_export(store, place / "exports"))
    report["rows"] = store.counts()["behaviors"]
    report["state"] = sum(len(person.history) for person in state.users([f"u{n}" for n in range(number + 1)]))
    if not os.fork():
        os._exit(0)
    shutil.copytree(place, sys.argv[4])  # as a machine that stops here leaves it
with Store.open(Path(sys.argv[4]) / "views.duckdb") as store:
    report["rows of a copy"] = store.counts()["behaviors"]
fill(0)
attempt("open new", lambda: Store.open(place / "other" / "views.duckdb"))
(place / "ballast").unlink()
subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
attempt("open store", lambda: Store.open(place / "views.duckdb"))
attempt("open state", lambda: UserState.open(place / "state"))
attempt("open cache", lambda: TextCache.open(place / "cache"))
print(json.dumps(report))
"""


def _can_mount() -> bool:
    return not subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode


@pytest.mark.skipif(
    shutil.which("unshare") is None or not _can_mount(), reason="needs a mount namespace of its own"
)
@pytest.mark.parametrize(
    ("threshold", "left"), [("1GB", 100_000), ("1GB", 700_000), ("200KB", 400_000)], ids=str
)
def test_on_a_full_disk_nothing_is_lost_and_writes_go_on_once_there_is_space(
    tmp_path: Path, threshold: str, left: int
) -> None:
    """The first, the middle and the last write to fail: the store's log, the state, and a checkpoint."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["unshare", "-Urm", sys.executable, "-c", _ON_A_SMALL_DISK]
    words = [place, threshold, str(left), tmp_path / "copy"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    report = json.loads(done.stdout)
    assert report["refused"]
    for kind, words in report["refused"]:
        assert kind == "DiskFullError"
        assert f"the disk of {place}/" in words
    for name in ("export", "point", "new cache", "open new"):
        kind, words = report[name]
        assert (kind, str(place) in words) == ("DiskFullError", True), name
    assert report["left"] == []
    assert report["write after"] is None
    assert report["export after"] is None
    assert report["rows"] == report["state"] == report["rows of a copy"] == report["acked"]
    for name in ("open store", "open state", "open cache"):
        kind, words = report[name]
        assert (kind, "read-only" in words) == ("ReadOnlyDiskError", True), name


def test_a_server_whose_files_may_not_grow_refuses_by_name_and_goes_on_afterwards(
    small_home: Home, tmp_path: Path
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server_process(home) as live, Client(live.address, timeout=30) as client:
        before = client.status().rows["behaviors"]
        item_id = client.query(text="stars", k=1).item_ids[0]
        mapped = [home.state / "data.mdb", home.text_cache / "data.mdb"]
        limit = max(path.stat().st_size for path in mapped) + (1 << 18)

        def limited(soft: int) -> None:
            resource.prlimit(live.process.pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

        limited(limit)
        acked, refused = 0, None
        for turn in range(100):
            rows = [Behavior(f"new-{turn}-{n}", item_id) for n in range(2000)]
            try:
                acked += client.append_behaviors(rows, request_id=f"r{turn}").inserted
            except CallError as error:
                refused = error
                break
        assert refused is not None
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL")
        assert str(home.path) in refused.message
        assert client.query(user_id="new-0-0", k=1).views_used
        limited(resource.RLIM_INFINITY)
        reply = client.append_behaviors(rows, request_id=f"r{turn}")  # the one that was refused
        acked += reply.inserted
        assert (reply.inserted, reply.repeated_request) == (2000, False)
        assert client.append_texts([Text("new-0-0", "a word or two about stars")]).inserted == 1
        soon(lambda: len(client.query(user_id="new-0-0", k=1).views_used) == 2)
        soon(lambda: not any(worker.failing for worker in client.status().workers))
        live.process.kill()
        live.process.wait()
    home.server_file.unlink()
    with server_process(home) as live, Client(live.address) as client:
        assert client.status().rows["behaviors"] == before + acked
        assert client.query(user_id=f"new-{turn}-1999", k=1).views_used


def test_an_artifact_that_does_not_fit_names_its_place_and_leaves_nothing(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "file").write_text("some")
        raise OSError(errno.ENOSPC, FULL)

    with (
        pytest.raises(DiskFullError, match="exports/a takes no more"),
        build(tmp_path / "exports", "a") as draft,
    ):
        write(draft.path)
    assert list((tmp_path / "exports").iterdir()) == []
    set_pointer(tmp_path / "CURRENT", "before")
    (tmp_path / "not").mkdir()
    with pytest.raises(FileNotFoundError):
        set_pointer(tmp_path / "missing" / "CURRENT", "x")


ODD = ["with space", "ünï-日本", "quo'te", 'dq"uote', "br[a-c]ket", "star*", "perc%20", "dollar$HOME"]
ODD += ["semi;colon", "-dash", "#hash", "new\nline"]


@pytest.mark.parametrize("name", ODD)
def test_a_home_may_have_an_odd_name(tmp_path: Path, run: Run, name: str) -> None:
    home, data = Home(tmp_path / name / "home"), tmp_path / "data"
    data.mkdir()
    (data / "items.jsonl").write_text('{"item_id": "i1", "text": "stars"}')
    (data / "behaviors.csv").write_text("user_id,item_id\nann,i1\n")
    assert run("import", data, "--home", home.path)[0] == 0
    assert run("export", "--home", home.path)[0] == 0
    code, out, _ = run("backup", "--home", home.path, "--to", tmp_path / name / "backups", "--without-index")
    assert (code, "1 behaviors" in out) == (0, True)
    restored = Home(tmp_path / name / "restored")
    assert run("restore", "--from", tmp_path / name / "backups", "--home", restored.path)[0] == 0
    with Store.open(restored.database) as store, UserState.open(restored.state) as state:
        assert store.counts()["behaviors"] == 1
        assert not len(state.users(["ann"])[0].history)


@pytest.mark.parametrize("name", ["q?m", "?", "a/b?c/d", "back\\slash"])
def test_a_path_that_duckdb_reads_otherwise_is_refused_before_anything_is_written(
    tmp_path: Path, run: Run, name: str
) -> None:
    """The log of q?m/views.duckdb would be q.wal?m/views.duckdb, and back\\slash would be back/slash."""
    data, place = tmp_path / "data", tmp_path / name
    data.mkdir()
    (data / "behaviors.csv").write_text("user_id,item_id\nann,i1\n")
    (data / "items.csv").write_text("item_id\ni1\n")
    home = Home(tmp_path / "home")
    assert run("import", data, "--home", home.path)[0] == 0
    assert run("backup", "--home", home.path, "--to", tmp_path / "backups", "--without-index")[0] == 0
    for words in (["import", data], ["restore", "--from", tmp_path / "backups"]):
        code, _, err = run(*words, "--home", place / "new")
        assert (code, "in it, which DuckDB reads as something else" in err, "rename the folder" in err) == (
            1,
            True,
            True,
        )
        assert not (place / "new").exists()
    shutil.copytree(home.path, place, dirs_exist_ok=True)
    ended = run_server(Home(place), "--port", "0")
    assert (ended.returncode, "which DuckDB reads as something else" in ended.stderr) == (1, True)
    (tmp_path / "link").symlink_to(place)  # DuckDB looks through it
    with pytest.raises(UnusablePathError):
        Store.open(tmp_path / "link" / "views.duckdb")


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    file = tmp_path / "file"
    replace_file(file, "old")
    replace_file(file, "new")
    assert file.read_text() == "new"
    with pytest.raises(UnicodeEncodeError):
        replace_file(file, "half\ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "new"
