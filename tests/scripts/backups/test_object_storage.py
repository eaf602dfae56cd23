"""`triptych backup --to s3://…` and `restore --from s3://…`, with a real S3 server."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec.registry  # noqa: F401  # looked up in sys.modules: the package hides it behind a mapping
import pytest

from scripts.backups.object_storage import BackupFolder
from server.app import running
from server.config import ServerConfig
from store.artifact import MANIFEST
from store.home import Home
from store.objects import ObjectStorage, ObjectStorageError
from tests.command_line import Run
from tests.engines.s3 import BUCKET, environment, s3_server
from tests.small_stores import table_rows
from triptych_client import Client


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3") / "data") as address:
        yield address


@pytest.fixture
def url(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{request.node.name}"


def test_a_home_restored_from_a_bucket_holds_the_same(home: Home, run: Run, url: str, tmp_path: Path) -> None:
    code, out, err = run("backup", "--home", home.path, "--to", url)
    assert (code, err.count("Error")) == (0, 0)
    (first,) = BackupFolder(url).backups()
    assert f"backup {url}/{first}: " in out
    code, out, _ = run("backup", "--home", home.path, "--to", f"{url}/")
    second = BackupFolder(url).backups()[1]
    sent, files = (int(word) for word in out.splitlines()[1].split() if word.isdigit())
    assert (code, 0 < sent < files / 2) == (0, True)  # the fresh export, and what tells of it
    code, out, _ = run("restore", "--from", url, "--home", tmp_path / "copy")
    assert (code, f"restored {url}/{second} to" in out) == (0, True)
    code, out, _ = run("restore", "--from", f"{url}/{first}", "--home", tmp_path / "first")
    assert (code, f"restored {url}/{first} to" in out) == (0, True)
    for name in ("copy", "first"):
        copy = Home(tmp_path / name)
        assert table_rows(copy) == table_rows(home)
        assert copy.current_index.read_text() == home.current_index.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "first", "home"]
    assert [path.name for path in home.path.iterdir() if path.name.startswith(".backing")] == []


@pytest.mark.parametrize("refused", [False, True])
def test_an_upload_that_does_not_end_is_no_backup(
    home: Home, run: Run, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    url = url.replace("[", "-").replace("]", "")
    assert run("backup", "--home", home.path, "--to", url, "--without-index")[0] == 0
    storage = BackupFolder(url)
    (first,), put = storage.backups(), BackupFolder._put

    def failing(self: BackupFolder, backup: Path, name: str) -> None:
        if name == MANIFEST:
            if refused:  # from here on, the removal, too
                patch.setenv("AWS_SECRET_ACCESS_KEY", "another")
                self.storage = ObjectStorage(self.url)
            else:
                raise ObjectStorageError(self.url, OSError("the line is dead"))
        put(self, backup, name)

    with monkeypatch.context() as patch:
        patch.setattr(BackupFolder, "_put", failing)
        code, _, err = run("backup", "--home", home.path, "--to", url, "--without-index")
    assert (code, "AWS_SECRET_ACCESS_KEY" in err) == (1, True)
    assert storage.backups() == [first]
    left = [file for file in storage.storage.files() if first not in file]
    assert bool(left) == refused  # removed where it can be
    code, out, _ = run("restore", "--from", url, "--home", tmp_path / "copy")
    assert (code, f"restored {url}/{first} to" in out) == (0, True)


@pytest.mark.parametrize("damage", ["a file is gone", "the manifest is none"])
def test_a_damaged_backup_does_not_keep_the_next_from_being_whole(
    home: Home, run: Run, url: str, tmp_path: Path, damage: str
) -> None:
    url = url.replace("[", "-").replace("]", "").replace(" ", "-")
    assert run("backup", "--home", home.path, "--to", url)[0] == 0
    storage = BackupFolder(url)
    (first,) = storage.backups()
    if damage == "a file is gone":
        name = next(one for one in storage._files_of(first) if one.endswith("vectors.safetensors"))
        storage.storage._files.rm_file(storage.storage._path(f"{first}/{name}"))
    else:
        storage.storage._files.pipe_file(storage.storage._path(f"{first}/{MANIFEST}"), b"[]")
    assert run("backup", "--home", home.path, "--to", url)[0] == 0
    assert run("restore", "--from", url, "--home", tmp_path / "copy")[0] == 0
    assert table_rows(Home(tmp_path / "copy")) == table_rows(home)


@pytest.mark.parametrize("missing", ["fsspec", "s3fs"])
def test_the_extra_that_is_missing_is_named(
    home: Home, run: Run, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    monkeypatch.setitem(sys.modules, missing, None)
    sys.modules["fsspec.registry"]._registry.pop("s3", None)  # type: ignore[attr-defined]
    code, _, err = run("backup", "--home", home.path, "--to", "s3://bucket/folder")
    assert (code, "pip install -e '.[s3]'" in err) == (1, True), err


def test_a_person_erased_after_a_backup_stays_erased(home: Home, run: Run, url: str, tmp_path: Path) -> None:
    assert run("backup", "--home", home.path, "--to", url, "--without-index")[0] == 0
    (first,) = BackupFolder(url).backups()
    with running(ServerConfig(home, port=0)) as address, Client(address) as client:
        client.erase_user("u00003")
    assert run("backup", "--home", home.path, "--to", url, "--without-index")[0] == 0
    assert run("restore", "--from", f"{url}/{first}", "--home", tmp_path / "copy")[0] == 0
    assert not any(
        "u00003" in map(str, row) for rows in table_rows(Home(tmp_path / "copy")).values() for row in rows
    )


def test_a_file_that_is_not_what_was_uploaded_is_refused(
    home: Home, run: Run, url: str, tmp_path: Path
) -> None:
    assert run("backup", "--home", home.path, "--to", url)[0] == 0
    storage = BackupFolder(url)
    (backup_id,) = storage.backups()
    name = next(name for name in storage._files_of(backup_id) if name.endswith("texts.parquet"))
    raw = bytearray(storage.storage._files.cat_file(storage.storage._path(f"{backup_id}/{name}")))
    raw[len(raw) // 2] ^= 1
    storage.storage._files.pipe_file(storage.storage._path(f"{backup_id}/{name}"), bytes(raw))
    code, _, err = run("restore", "--from", url, "--home", tmp_path / "copy")
    assert (code, "texts.parquet: is damaged" in err) == (1, True)
    storage.storage._files.rm_file(storage.storage._path(f"{backup_id}/{name}"))
    code, _, err = run("restore", "--from", url, "--home", tmp_path / "copy")
    assert (code, f"{name}: is not in {url}/{backup_id}" in err) == (1, True), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


@pytest.mark.parametrize("what", ["nobody", "no bucket", "no server", "no protocol", "no backup"])
def test_what_cannot_be_reached_is_named(
    home: Home, run: Run, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "nobody":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    elif what == "no bucket":
        url = "s3://nowhere/backups"
    elif what == "no server":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    elif what == "no protocol":
        url = "nonsense://x/y"
    url = url.replace("[", "-").replace("]", "").replace(" ", "-")
    code, _, err = run("restore", "--from", url, "--home", tmp_path / "copy")
    assert (code, url.split("/")[2] in err or "nonsense" in err) == (1, True), err
    if what not in ("no backup", "no bucket"):  # this server makes the bucket; others refuse
        code, _, err = run("backup", "--home", home.path, "--to", url)
        assert (code, url in err or "nonsense" in err) == (1, True), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]
