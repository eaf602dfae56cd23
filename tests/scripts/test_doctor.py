"""`triptych doctor`: what it finds wrong with a home, a server or the machine."""

import json
import os
import shutil
import socket
import socketserver
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from indexer.building.users import indexes_with, stored_users
from indexer.users import open_users
from scripts import home_access
from scripts.doctor.check import Check, State
from scripts.doctor.command import checks
from scripts.doctor.machine import disk_check, faiss_check, package_checks
from scripts.doctor.store import row_checks
from store.artifact import artifacts, read_manifest, read_pointer
from store.home import Home
from store.ledger import Erasure, user_hash, write_ledger
from store.locks import locked_directory
from store.store import Store
from tests.command_line import Run
from tests.live_server import flip
from tests.small_stores import ROWS, make_store

DEAD = 2**22 + 1  # no Linux process has such an id


def named(found: list[Check], name: str) -> Check:
    return next(check for check in found if check.name == name)


def described(home: Home) -> tuple[Path, dict[str, Any]]:
    directory = home.indexes / artifacts(home.indexes)[0]
    return directory, read_manifest(directory)


def test_doctor_finds_nothing_wrong_with_a_sound_home(home: Home, run: Run) -> None:
    code, out, _ = run("doctor", "--home", home.path)
    assert code == 0
    assert "0 failed" in out
    for name in ("python", "faiss", "onnxruntime", "disk", "store", "LATEST", "CURRENT", "text model"):
        assert f"│ {name} " in out


def test_doctor_names_the_damaged_file_and_exits_1(home: Home, run: Run) -> None:
    model = read_pointer(home.latest_model, home.models)
    flip(model / "item_tables.safetensors")
    assert run("doctor", "--home", home.path)[0] == 1
    found = [check for check in checks(home) if check.state is State.FAILED]
    assert {check.name for check in found} == {"models", "CURRENT"}
    assert all("item_tables.safetensors" in check.found and check.hint for check in found)


def test_doctor_sees_what_is_missing_and_what_was_left_behind(home: Home) -> None:
    home.server_file.write_text(json.dumps({"local": "127.0.0.1:1", "pid": DEAD}))
    (home.indexes / ".building-x").mkdir()
    export_id = read_manifest(read_pointer(home.latest_model, home.models))["export_id"]
    shutil.rmtree(home.exports / export_id)
    home.current_index.write_text("gone\n")
    shutil.rmtree(next(path for path in home.text_models.iterdir() if path.name != "cache"))
    with locked_directory(home.indexes / ".building-y"):
        found = list(checks(home))
    assert named(found, "server").state is State.WARNING
    assert named(found, "server").found.endswith("a server that does not serve this home")
    left = named(found, "leftovers")
    assert (left.state, left.found) == (State.WARNING, str(home.indexes / ".building-x"))
    assert named(found, "CURRENT").state is State.FAILED
    assert named(found, "LATEST").state is State.FAILED
    assert named(found, "text model").state is State.FAILED


def test_doctor_names_a_reindex_that_can_go_on(home: Home) -> None:
    (home.indexes / ".spool-abc").mkdir()
    left = named(list(checks(home)), "leftovers")
    assert (left.state, left.found) == (State.WARNING, str(home.indexes / ".spool-abc"))
    assert "goes on there" in left.hint


def test_doctor_names_indexes_with_vectors_of_people_who_were_erased(home: Home) -> None:
    assert "erased people" not in [check.name for check in checks(home)]
    user = str(open_users(*described(home)).ids[0])
    later, earlier = datetime(2100, 1, 1), datetime(2000, 1, 1)
    entries = [
        Erasure(earlier, "salt", user_hash("salt", user)),
        Erasure(later, "salt", user_hash("salt", "x")),
    ]
    write_ledger(home.erasures, entries)
    found = named(list(checks(home)), "erased people")  # its export knows no erasure, whenever that was
    assert found.state is State.WARNING
    for export_id in artifacts(home.exports):
        shutil.rmtree(home.exports / export_id)
    assert "erased people" not in [check.name for check in checks(home)]  # now the time decides
    write_ledger(home.erasures, [Erasure(later, "salt", user_hash("salt", user))])
    found = named(list(checks(home)), "erased people")
    assert found.state is State.WARNING
    assert f"index {artifacts(home.indexes)[0]}: 1" in found.found
    assert "triptych index prune" in found.hint


@pytest.mark.parametrize("name", ["items.arrow", "lookup.safetensors", "delta.arrow", "delta.safetensors"])
def test_an_index_that_cannot_be_read_may_hold_anybody(home: Home, name: str) -> None:
    directory, _ = described(home)
    user = stored_users(directory)[0]
    assert indexes_with(home.indexes, user) == (directory.name,)
    assert indexes_with(home.indexes, "never seen") == ()
    write_ledger(home.erasures, [Erasure(datetime(2100, 1, 1), "salt", user_hash("salt", user))])
    path = directory / "users" / name
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises((OSError, ValueError)):
        stored_users(directory)
    assert indexes_with(home.indexes, "never seen") == (directory.name,)
    path.write_bytes(whole[: len(whole) // 2])
    assert indexes_with(home.indexes, "never seen") == (directory.name,)
    found = list(checks(home))  # which name the file, and go on
    assert f"users/{name}" in next(check.found for check in found if check.state is State.FAILED)
    assert "erased people" not in [check.name for check in found]


def test_doctor_on_a_server_that_is_silent_and_a_damaged_server_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_store(tmp_path, ROWS)
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        said = {"local": f"127.0.0.1:{listener.server_address[1]}", "pid": os.getpid()}
        home.server_file.write_text(json.dumps(said))
        assert "does not serve this home" in named(list(checks(home)), "server").found
        listener.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as listener:  # takes calls and never answers
        home.server_file.write_text(json.dumps({"local": f"127.0.0.1:{listener.getsockname()[1]}", "pid": 1}))
        monkeypatch.setattr(home_access, "_ANSWER_SECONDS", 0.2)
        found = list(checks(home))
        assert named(found, "server").state is State.FAILED
        assert "does not answer: DEADLINE_EXCEEDED" in named(found, "server").found
    home.server_file.write_text("{")
    found = list(checks(home))
    assert "is damaged" in named(found, "server").found
    assert named(found, "store").state is State.OK
    assert named(found, "texts").state is State.WARNING
    assert named(found, "CURRENT").hint == "triptych reindex --home HOME"


def test_doctor_on_stores_that_do_not_open(tmp_path: Path, run: Run) -> None:
    assert run("doctor", "--home", tmp_path / "none")[0] == 1
    assert not (tmp_path / "none").exists()
    home = Home(tmp_path)
    assert named(list(checks(home)), "store").state is State.FAILED
    assert not home.database.exists()
    home.database.write_bytes(b"no database")
    assert "is no Triptych store" in named(list(checks(home)), "store").found
    home.database.unlink()
    with Store.open(home.database):
        assert named(list(checks(home)), "store").state is State.WARNING
    found = list(row_checks({"items": 0, "users": 0, "behaviors": 0, "texts": 1, "social": 0}))
    states = [State.FAILED, State.WARNING, State.OK, State.WARNING]
    assert [check.state for check in found] == states
    *_, shown = row_checks(
        {"items": 1, "users": 1, "behaviors": 1, "texts": 1, "social": 1, "impressions": 5}
    )
    assert (shown.state, shown.found) == (State.OK, "5 rows (no view)")


def test_checks_of_the_machine(tmp_path: Path) -> None:
    lines = ["numpy==0.0.1", 'no-such-package==1; extra == "train"', 'other==1; extra == "dev"']
    core, train = package_checks(lines)
    assert (core.state, core.found.startswith("numpy ")) == (State.WARNING, True)
    assert (train.state, train.found) == (State.WARNING, "missing: no-such-package")
    assert next(package_checks(["no-such-package==1"])).state is State.FAILED
    assert "build, GPUs: " in faiss_check().found
    assert disk_check(tmp_path / "not" / "there").found.endswith(f"free at {tmp_path}")
