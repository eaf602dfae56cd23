"""A server proves which home it serves: no command writes into another one, whatever server.json says."""

import json
import os
import shutil
import socket
import socketserver
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import server.live.publisher
from scripts import home_access
from scripts.home_access import (
    ServerOwnsStoreError,
    SilentServerError,
    publish_index,
    server_of,
    writable_store,
)
from scripts.index import roll_back
from server.app import running
from server.config import ServerConfig
from server.identity import Identity, is_server_of
from store.artifact import artifacts
from store.database import StoreLockedError
from store.home import Home
from store.store import Store
from tests.command_line import Run
from tests.live_server import Client, copy_home
from tests.live_server import server as server_process
from triptych_client.pb.v1 import triptych_pb2 as pb


@pytest.fixture(scope="module")
def client(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    home = copy_home(small_home, tmp_path_factory.mktemp("identity") / "home")
    with server_process(home) as client:
        yield client


@pytest.fixture
def copy(client: Client, tmp_path: Path) -> Home:
    """A copy of the running home, as `cp -a` makes it: with server.json, and with the store's id."""
    shutil.copytree(client.home.path, tmp_path / "copy")
    return Home(tmp_path / "copy")


@pytest.fixture
def rows(tmp_path: Path, small_home: Home) -> Path:
    with Store.open(copy_home(small_home, tmp_path / "ids").database) as store:
        item_id = next(iter(store.item_hashes().column("item_id").to_pylist()))
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "behaviors.jsonl").write_text(json.dumps({"user_id": "only-in-copy", "item_id": item_id}))
    return folder


def rows_of(client: Client) -> dict[str, int]:
    return dict(client.admin.Status(pb.StatusRequest()).rows)


def said_of(home: Home) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(home.server_file.read_text())
    return said


def test_status_tells_the_home_and_the_start(client: Client) -> None:
    told = client.admin.Status(pb.StatusRequest()).home
    said, file = said_of(client.home), os.stat(client.home.database)
    assert (told.home_id, told.server_id) == (said["home_id"], said["server_id"])
    assert (told.device, told.inode) == (file.st_dev, file.st_ino)
    assert server_of(client.home) == said["local"]
    assert said["address"] == client.address


def test_a_home_keeps_its_id_and_no_other_has_it(tmp_path: Path) -> None:
    ids = []
    for name in ("a", "a", "b"):
        with Store.open(tmp_path / name / "views.duckdb") as store:
            ids.append(store.home_id)
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == len(ids[2]) == 32
    with Store.open(tmp_path / "a" / "views.duckdb") as store:
        first, second = (Identity.of(Home(tmp_path / "a"), store) for _ in range(2))
    assert first.server_id != second.server_id


def test_what_is_written_to_a_copy_of_a_running_home_lands_in_the_copy(
    client: Client, copy: Home, rows: Path, run: Run
) -> None:
    assert said_of(copy) == said_of(client.home)
    assert server_of(copy) is None
    before = rows_of(client)
    exports, current = artifacts(client.home.exports), client.home.current_index.read_text()
    assert run("import", rows, "--home", copy.path)[0] == 0
    assert run("export", "--home", copy.path)[0] == 0
    assert run("backup", "--home", copy.path, "--to", copy.path.parent / "backups")[0] == 0
    assert run("split", "--home", copy.path, "--by", "random", "--replace")[0] == 0
    shutil.copytree(copy.indexes / current.strip(), copy.indexes / "20990101T000000000000-0000")
    assert run("index", "publish", "20990101T000000000000-0000", "--home", copy.path)[0] == 0
    assert run("index", "rollback", "--home", copy.path)[0] == 0
    assert rows_of(client) == before
    assert (artifacts(client.home.exports), client.home.current_index.read_text()) == (exports, current)
    with writable_store(copy) as store:
        assert len(store.user_views("only-in-copy").history) == 1
        assert store.counts()["behaviors"] == before["behaviors"] + 1
    assert artifacts(copy.exports) != exports


def test_a_copy_can_be_served_beside_its_original(client: Client, copy: Home) -> None:
    copy.server_file.unlink()  # so that the address is known to be the new server's
    with server_process(copy) as other:
        mine, theirs = (one.admin.Status(pb.StatusRequest()).home for one in (client, other))
        assert mine.home_id == theirs.home_id
        locals_ = said_of(copy)["local"], said_of(client.home)["local"]
        assert (server_of(copy), server_of(client.home)) == locals_
        assert len(set(locals_)) == 2
        # And one that was copied again while both run is nobody's.
        shutil.copy(client.home.server_file, copy.server_file)
        assert server_of(copy) is None


def test_a_home_that_was_moved_while_it_is_served_is_known(small_home: Home, tmp_path: Path) -> None:
    with server_process(copy_home(small_home, tmp_path / "home")) as client:
        client.home.path.rename(tmp_path / "moved")
        moved = Home(tmp_path / "moved")
        assert server_of(moved) == said_of(moved)["local"]
        (tmp_path / "link").symlink_to(tmp_path / "moved")
        assert server_of(Home(tmp_path / "link")) == server_of(moved)
        with pytest.raises(ServerOwnsStoreError), writable_store(Home(tmp_path / "link")):
            pass
        # Another store in its place: the server still writes the old one.
        moved = Home(tmp_path / "moved")
        moved.database.rename(tmp_path / "old.duckdb")
        assert server_of(moved) is None
        shutil.copy(tmp_path / "old.duckdb", moved.database)
        assert server_of(moved) is None


def test_a_server_file_from_before_says_nothing_about_who_has_the_port_now(
    client: Client, small_home: Home, tmp_path: Path
) -> None:
    """As a killed server leaves it: process 1 runs, and another home's server took the port."""
    home = copy_home(small_home, tmp_path / "home")
    said = {"address": client.address, "local": client.address, "pid": 1, "tls": False}
    home.server_file.write_text(json.dumps(said))
    assert server_of(home) is None
    home.server_file.write_text(
        json.dumps(said | {"server_id": "before", "home_id": said_of(client.home)["home_id"]})
    )
    assert server_of(home) is None
    with writable_store(home):
        pass


def test_a_hidden_server_file_does_not_open_the_store_twice(client: Client, tmp_path: Path) -> None:
    hidden = client.home.server_file.rename(tmp_path / "server.json")
    try:
        assert server_of(client.home) is None
        with pytest.raises(StoreLockedError), writable_store(client.home):
            pass
    finally:
        hidden.rename(client.home.server_file)
    assert server_of(client.home) == said_of(client.home)["local"]


@pytest.mark.parametrize(
    ("change", "believed"),
    [({}, True), ({"server_id": "x"}, False), ({"device": 1}, False), ({"inode": 1}, False)],
)
def test_every_part_of_the_proof_counts(tmp_path: Path, change: dict[str, Any], believed: bool) -> None:
    home = Home(tmp_path)
    with Store.open(home.database) as store:
        identity = Identity.of(home, store)
    told = identity.message()
    for name, value in change.items():
        setattr(told, name, value)
    assert is_server_of(home, {"server_id": identity.server_id}, told) is believed
    assert not is_server_of(home, {}, pb.ServedHome(device=told.device, inode=told.inode))
    home.database.unlink()
    assert not is_server_of(home, {"server_id": identity.server_id}, identity.message())


def test_what_is_no_triptych_is_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    assert server_of(home) is None

    def name(port: int) -> Home:
        home.server_file.write_text(json.dumps({"local": f"127.0.0.1:{port}", "pid": os.getpid()}))
        return home

    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as hangs_up:
        threading.Thread(target=hangs_up.serve_forever, daemon=True).start()
        assert server_of(name(hangs_up.server_address[1])) is None
        hangs_up.shutdown()
    assert server_of(home) is None  # nobody listens any more
    with ThreadPoolExecutor(1) as pool:
        other = grpc.server(pool)
        port = other.add_insecure_port("127.0.0.1:0")
        other.start()
        assert server_of(name(port)) is None
        other.stop(None).wait()
    monkeypatch.setattr(home_access, "_ANSWER_SECONDS", 0.2)
    silent = r"does not answer: DEADLINE_EXCEEDED; try again"
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(SilentServerError, match=silent):
        server_of(name(listener.getsockname()[1]))


@contextmanager
def loading(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Run a server that stands in the midst of loading its index until the event is set."""
    begun, go_on, stop = threading.Event(), threading.Event(), threading.Event()
    load = server.live.publisher.load_index

    def gate(*args: Any, **options: Any) -> Any:
        pair = load(*args, **options)
        begun.set()
        assert go_on.wait(60)
        return pair

    def serve() -> None:
        with running(ServerConfig(home, port=0)):
            monkeypatch.undo()
            stop.wait(60)

    monkeypatch.setattr(server.live.publisher, "load_index", gate)
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        try:
            assert begun.wait(60)
            yield go_on
        finally:
            go_on.set()
            stop.set()
        served.result()


@pytest.mark.parametrize("how", ["publish", "rollback"])
def test_a_publish_while_the_server_loads_is_not_undone(
    small_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    loaded = home.current_index.read_text().strip()
    other = "20000101T000000000000-0000"  # older, so that a rollback finds it
    shutil.copytree(home.indexes / loaded, home.indexes / other)
    waits = threading.Event()
    monkeypatch.setattr("store.locks.log.info", lambda message, *_: waits.set())
    with loading(home, monkeypatch) as go_on, ThreadPoolExecutor(1) as pool:
        command = (
            pool.submit(publish_index, home, other) if how == "publish" else pool.submit(roll_back, home)
        )
        command.add_done_callback(lambda _: waits.set())
        assert waits.wait(60)  # until the server is there, or, where nothing holds CURRENT, until it is done
        go_on.set()
        command.result(60)
        assert home.current_index.read_text().strip() == other
        address = server_of(home)
        assert address is not None
        with home_access.admin(address) as stub:
            assert stub.Status(pb.StatusRequest()).index_id == other


def test_a_start_never_writes_current(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    before = home.current_index.stat()
    with running(ServerConfig(home, port=0)):
        pass
    after = home.current_index.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
