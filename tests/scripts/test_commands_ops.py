"""split, index, doctor, backup, restore and tune, as a user runs them."""

import json
import os
import shutil
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import grpc
import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.config import TowerConfig
from indexer.building.users import indexes_with, stored_users
from indexer.users import open_users
from scripts import session
from scripts.doctor.check import Check, State
from scripts.doctor.command import checks
from scripts.doctor.machine import disk_check, faiss_check, package_checks
from scripts.doctor.store import row_checks
from scripts.index import created, index_state
from scripts.restore import (
    HomeInUseError,
    IncompleteRestoreError,
    NoBackupError,
    find_backup,
    restore,
)
from scripts.tune.closed_form import DAMPING, GATE, RIDGE, Space
from scripts.tune.command import study_name
from server.app import running
from server.config import ServerConfig
from server.pb.triptych.v1 import triptych_pb2 as pb
from server.pb.triptych.v1 import triptych_pb2_grpc as rpc
from store.artifact import DamagedArtifactError, artifacts, build, new_id, pointed, read_manifest
from store.export import Export
from store.home import Home
from store.imports.run import import_folder
from store.locks import workplace
from store.privacy.ledger import Erasure, user_hash, write_ledger
from store.store import Store

DEAD = 2**22 + 1  # no Linux process has such an id
Run = Callable[..., tuple[int, str, str]]
ROWS: list[tuple[str, str, int | None]] = [
    ("a", "x", 1),
    ("a", "y", 2),
    ("a", "z", 3),
    ("b", "x", 1),
    ("b", "y", 5),
    ("b", "z", 6),
    ("c", "x", 9),
]


@pytest.fixture
def home(small_home: Home, tmp_path: Path) -> Home:
    shutil.copytree(small_home.path, tmp_path / "home")
    return Home(tmp_path / "home")


def make_store(path: Path, rows: list[tuple[str, str, int | None]]) -> Home:
    folder = path / "tables"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"item_id": sorted({item for _, item, _ in rows})}), folder / "items.parquet")
    times = pa.array([row[2] for row in rows], pa.timestamp("us"))
    columns = {"user_id": [row[0] for row in rows], "item_id": [row[1] for row in rows], "ts": times}
    pq.write_table(pa.table(columns), folder / "behaviors.parquet")
    home = Home(path / "home")
    with Store.open(home.database) as store:
        import_folder(store, folder, rejects=home.rejects, strict=True)
    return home


def splits(home: Home) -> dict[tuple[Any, ...], str | None]:
    with Store.open(home.database) as store:
        rows = store.visible_events(held_out=True).to_pylist()
    return {(row["user_id"], row["item_id"], row["action"], row["ts"]): row["split"] for row in rows}


def rows_of(home: Home) -> dict[str, list[tuple[Any, ...]]]:
    with duckdb.connect(str(home.database), read_only=True) as db:
        names = ("items", "behaviors", "texts", "social")
        return {name: sorted(db.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names}


def answers(home: Home, users: list[str]) -> list[tuple[list[str], list[float]]]:
    with running(ServerConfig(home, port=0)) as address, grpc.insecure_channel(address) as channel:
        requests = [pb.QueryRequest(user_id=user, k=20) for user in users]
        reply = rpc.RetrievalStub(channel).QueryBatch(pb.QueryBatchRequest(requests=requests))
        return [(list(one.item_ids), list(one.scores)) for one in reply.responses]


def damage(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


def named(found: list[Check], name: str) -> Check:
    return next(check for check in found if check.name == name)


# split


def test_split_by_last_marks_each_users_last_two_events(tmp_path: Path, run: Run) -> None:
    home = make_store(tmp_path, ROWS)
    code, out, _ = run("split", "--home", home.path, "--by", "last")
    assert code == 0
    by_user = Counter((key[0], split) for key, split in splits(home).items())
    assert by_user == {
        ("a", None): 1,
        ("a", "valid"): 1,
        ("a", "test"): 1,
        ("b", None): 1,
        ("b", "valid"): 1,
        ("b", "test"): 1,
        ("c", None): 1,
    }
    assert "2 of 3 users with behaviour have held-out rows" in out
    assert "triptych train" in out
    assert "triptych reindex" in out


def test_a_random_split_depends_on_the_rows_and_the_seed_only(tmp_path: Path, run: Run) -> None:
    rows: list[tuple[str, str, int | None]] = [(f"u{n % 9}", f"i{n}", n) for n in range(90)]
    one = make_store(tmp_path / "1", rows)
    other = make_store(tmp_path / "2", rows[::-1])
    for home in (one, other):
        assert run("split", "--home", home.path, "--by", "random", "--seed", 3)[0] == 0
    first = splits(one)
    assert first == splits(other)
    assert {"valid", "test"} <= set(first.values())
    assert run("split", "--home", one.path, "--by", "random", "--seed", 4, "--replace")[0] == 0
    assert splits(one) != first


def test_split_replaces_marks_only_when_told_to(tmp_path: Path, run: Run) -> None:
    home = make_store(tmp_path, ROWS)
    assert run("split", "--home", home.path, "--by", "last")[0] == 0
    before = splits(home)
    code, _, err = run("split", "--home", home.path, "--by", "random")
    assert code == 1
    assert "4 behaviours are held out already" in err
    assert "--replace" in err
    assert splits(home) == before
    words = ("--by", "random", "--valid", 0, "--test", 0, "--replace")
    assert run("split", "--home", home.path, *words)[0] == 0
    assert set(splits(home).values()) == {None}


@pytest.mark.parametrize("by", ["random", "time", "last"])
def test_a_split_that_holds_out_nothing_fails(tmp_path: Path, run: Run, by: str) -> None:
    home = make_store(tmp_path, [("a", "x", 1), ("a", "y", 2), ("b", "x", 3)])
    code, _, err = run("split", "--home", home.path, "--by", by)
    assert code == 1
    assert (
        f"--by {by} would hold out none of 3 behaviours of 2 users: rows are only taken from users with 3"
        in err
    )
    assert set(splits(home).values()) == {None}


def test_evaluate_before_reindex_says_what_to_run(tmp_path: Path, run: Run) -> None:
    home = make_store(tmp_path, ROWS)
    code, _, err = run("evaluate", "--home", home.path)
    assert code == 1
    assert "nothing is published there yet; run `triptych reindex` first" in err


def test_no_message_of_the_database_itself_is_told(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_store(tmp_path, ROWS)

    def fail(*args: object, **named: object) -> None:
        raise duckdb.InternalException("INTERNAL Error: Assertion triggered in file row_group.cpp")

    monkeypatch.setattr("scripts.split.split_store", fail)
    code, _, err = run("split", "--home", home.path, "--by", "random")
    assert (code, err.count("\n")) == (1, 1)
    assert "the store failed in a way that is not expected (InternalException): -v shows where" in err


def test_split_says_what_is_wrong(tmp_path: Path, run: Run) -> None:
    undated = make_store(tmp_path / "undated", [*ROWS, ("a", "w", None)])
    code, _, err = run("split", "--home", undated.path, "--by", "time")
    assert (code, "1 of 8 rows have none: `--by random` needs none" in err) == (1, True)
    assert set(splits(undated).values()) == {None}
    assert run("split", "--home", undated.path, "--by", "random", "--valid", 0.5, "--test", 0.5)[0] == 2
    empty = Home(tmp_path / "empty")
    Store.open(empty.database).close()
    code, _, err = run("split", "--home", empty.path, "--by", "random")
    assert (code, "no behaviours to split" in err) == (1, True)
    code, _, err = run("split", "--home", tmp_path / "nothing", "--by", "random")
    assert (code, "triptych import" in err) == (1, True)
    assert not (tmp_path / "nothing").exists()


# index


def test_index_list_marks_what_serves_and_what_is_damaged(home: Home, run: Run) -> None:
    (first,) = artifacts(home.indexes)
    second = "20990101T000000000000-ffff"
    shutil.copytree(home.indexes / first, home.indexes / second)
    damage(home.indexes / second / "vectors.safetensors")
    (home.indexes / "20990102T000000000000-ffff").mkdir()
    code, out, _ = run("index", "list", "--home", home.path)
    assert code == 0
    lines = {line.split("│")[2].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert lines[first].startswith("│ * │")
    assert "│ ok " in lines[first]
    assert "vectors.safetensors is damaged" in lines[second]
    assert "2099-01-01 00:00:00 UTC" in lines[second]
    assert "manifest.json is missing" in lines["20990102T000000000000-ffff"]
    assert run("index", "show", second, "--home", home.path)[0] == 1
    code, out, _ = run("index", "show", first, "--home", home.path)
    assert (code, "it is CURRENT" in out) == (0, True)
    code, _, err = run("index", "show", "nope", "--home", home.path)
    assert (code, "there is no index 'nope'" in err) == (1, True)


def test_an_index_without_its_model_is_of_no_use(home: Home) -> None:
    (first,) = artifacts(home.indexes)
    model_id = read_manifest(home.indexes / first)["model_id"]
    assert index_state(home, first).damage is None
    shutil.rmtree(home.models / model_id)
    assert index_state(home, first).damage == f"of no use: model {model_id} is missing"
    with build(home.indexes, "a") as draft:
        draft.facts["kind"] = "export"
    assert index_state(home, "a").damage == "damaged: it is a 'export', not an index"
    assert created("a") == "–"


def test_publish_rollback_and_prune(home: Home, run: Run) -> None:
    (first,) = artifacts(home.indexes)
    ids = [f"2099010{n}T000000000000-ffff" for n in range(1, 5)]
    for index_id in ids:
        shutil.copytree(home.indexes / first, home.indexes / index_id)
    assert run("index", "publish", ids[0], "--home", home.path)[0] == 0
    assert pointed(home.current_index, home.indexes).name == ids[0]
    code, out, _ = run("index", "rollback", "--home", home.path)
    assert (code, out.strip()) == (0, f"index {first} serves")
    code, _, err = run("index", "rollback", "--home", home.path)
    assert (code, "no index older" in err) == (1, True)
    code, out, _ = run("index", "prune", "--keep", 2, "--home", home.path)
    assert (code, "3 of 5 indexes stay" in out) == (0, True)
    assert artifacts(home.indexes) == [first, *ids[2:]]  # what serves stays, however old
    assert run("index", "prune", "--keep", 0, "--home", home.path)[0] == 2


def test_a_home_without_indexes_says_what_to_do(tmp_path: Path, run: Run) -> None:
    home = make_store(tmp_path, ROWS)
    code, out, _ = run("index", "list", "--home", home.path)
    assert (code, "triptych reindex" in out) == (0, True)


# a running server


def test_commands_go_through_the_running_server(home: Home, run: Run, tmp_path: Path) -> None:
    (first,) = artifacts(home.indexes)
    second = "20990101T000000000000-ffff"
    shutil.copytree(home.indexes / first, home.indexes / second)
    with running(ServerConfig(home, port=0)) as address, grpc.insecure_channel(address) as channel:
        code, _, err = run("split", "--home", home.path, "--by", "random", "--replace")
        assert (code, f"a server on {address} owns" in err) == (1, True)
        status = rpc.AdminStub(channel).Status
        assert run("index", "publish", second, "--home", home.path)[0] == 0
        assert status(pb.StatusRequest()).index_id == second
        assert run("index", "rollback", "--home", home.path)[0] == 0
        assert status(pb.StatusRequest()).index_id == first
        assert run("index", "rollback", "--home", home.path)[0] == 1
        found = list(checks(home))
        assert named(found, "server").found.endswith(f"on {address}: SERVING")
        assert named(found, "store").found.startswith("owned by the server")
        assert named(found, "behaviors").state is State.OK
        code, out, _ = run("backup", "--home", home.path, "--to", tmp_path / "backups")
        assert (code, first in out) == (0, True)


# doctor


def test_doctor_finds_nothing_wrong_with_a_sound_home(home: Home, run: Run) -> None:
    code, out, _ = run("doctor", "--home", home.path)
    assert code == 0
    assert "0 failed" in out
    for name in ("python", "faiss", "onnxruntime", "disk", "store", "LATEST", "CURRENT", "text model"):
        assert f"│ {name} " in out


def test_doctor_names_the_damaged_file_and_exits_1(home: Home, run: Run) -> None:
    model = pointed(home.latest_model, home.models)
    damage(model / "item_tables.safetensors")
    assert run("doctor", "--home", home.path)[0] == 1
    found = [check for check in checks(home) if check.state is State.FAILED]
    assert {check.name for check in found} == {"models", "CURRENT"}
    assert all("item_tables.safetensors" in check.found and check.hint for check in found)


def test_doctor_sees_what_is_missing_and_what_was_left_behind(home: Home) -> None:
    home.server_file.write_text(json.dumps({"local": "127.0.0.1:1", "pid": DEAD}))
    (home.indexes / ".building-x").mkdir()
    export_id = read_manifest(pointed(home.latest_model, home.models))["export_id"]
    shutil.rmtree(home.exports / export_id)
    home.current_index.write_text("gone\n")
    shutil.rmtree(next(path for path in home.text_models.iterdir() if path.name != "cache"))
    with workplace(home.indexes / ".building-y"):
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


def described(home: Home) -> tuple[Path, dict[str, Any]]:
    directory = home.indexes / artifacts(home.indexes)[0]
    return directory, read_manifest(directory)


def test_index_list_names_a_damaged_file_of_the_user_index(home: Home) -> None:
    directory, _ = described(home)
    damage(directory / "users" / "vectors.safetensors")
    assert "users/vectors.safetensors" in str(index_state(home, directory.name).damage)


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
        monkeypatch.setattr(session, "_ANSWER_SECONDS", 0.2)
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


def test_checks_of_the_machine(tmp_path: Path) -> None:
    lines = ["numpy==0.0.1", 'no-such-package==1; extra == "train"', 'other==1; extra == "dev"']
    core, train = package_checks(lines)
    assert (core.state, core.found.startswith("numpy ")) == (State.WARNING, True)
    assert (train.state, train.found) == (State.WARNING, "missing: no-such-package")
    assert next(package_checks(["no-such-package==1"])).state is State.FAILED
    assert "build, GPUs: " in faiss_check().found
    assert disk_check(tmp_path / "not" / "there").found.endswith(f"free at {tmp_path}")


# backup and restore


def test_a_restored_home_holds_and_answers_the_same(home: Home, run: Run, tmp_path: Path) -> None:
    vectors = {"user_id": ["u-new"] * 2, "text": ["seen"] * 2, "vector": [[0.6, 0.8]] * 2}
    (tmp_path / "more").mkdir()
    pq.write_table(pa.table(vectors | {"text_model_id": ["m"] * 2}), tmp_path / "more" / "texts.parquet")
    assert run("import", tmp_path / "more", "--home", home.path, "--strict")[0] == 0
    assert run("backup", "--home", home.path, "--to", tmp_path / "backups")[0] == 0
    code, out, _ = run("backup", "--home", home.path, "--to", tmp_path / "backups")
    assert (code, "412 texts" in out) == (0, True)
    copy = Home(tmp_path / "copy")
    copy.path.mkdir()  # an empty directory is free
    code, out, _ = run("restore", "--from", tmp_path / "backups", "--home", copy.path)
    assert (code, artifacts(tmp_path / "backups")[1] in out) == (0, True)
    assert rows_of(copy) == rows_of(home)
    assert copy.latest_model.read_text() == home.latest_model.read_text()
    assert copy.current_index.read_text() == home.current_index.read_text()
    assert [check for check in checks(copy) if check.state is State.FAILED] == []
    shutil.copytree(home.text_cache, copy.text_cache)  # saves the test from encoding again
    users = [f"u{n:05d}" for n in range(40)] + ["nobody"]
    assert answers(copy, users) == answers(home, users)


def test_a_damaged_byte_is_refused_and_leaves_no_home(home: Home, run: Run, tmp_path: Path) -> None:
    assert run("backup", "--home", home.path, "--to", tmp_path / "backups")[0] == 0
    (backup,) = (tmp_path / "backups").iterdir()
    damaged = next(backup.glob("exports/*/texts.parquet"))
    damage(damaged)
    code, _, err = run("restore", "--from", backup, "--home", tmp_path / "copy")
    assert (code, str(damaged) in err) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backups", "home"]
    damage(damaged)  # the same bit back
    left = tmp_path / ".restoring-copy-1"
    left.mkdir()  # of a restore that was killed
    assert run("restore", "--from", backup, "--home", tmp_path / "copy")[0] == 0
    assert not left.exists()


def test_a_backup_of_damaged_files_fails_and_leaves_nothing(home: Home, run: Run, tmp_path: Path) -> None:
    file = pointed(home.current_index, home.indexes) / "vectors.safetensors"
    damage(file)
    code, _, err = run("backup", "--home", home.path, "--to", tmp_path / "backups")
    assert (code, str(file) in err) == (1, True)
    assert artifacts(tmp_path / "backups") == []
    assert run("backup", "--home", home.path, "--to", tmp_path / "backups", "--without-index")[0] == 0
    code, out, _ = run("restore", "--from", tmp_path / "backups", "--home", tmp_path / "copy")
    assert (code, "triptych train" in out) == (0, True)
    copy = Home(tmp_path / "copy")
    assert rows_of(copy) == rows_of(home)
    assert not copy.current_index.exists()
    assert not copy.models.exists()


def test_restore_overwrites_nothing(tmp_path: Path) -> None:
    source = make_store(tmp_path, ROWS)
    used = Home(tmp_path / "used")
    used.path.mkdir()
    (used.path / "a file").write_text("mine")
    with pytest.raises(HomeInUseError, match="is not empty"):
        restore(tmp_path, used)
    with pytest.raises(HomeInUseError, match="is a file"):
        restore(tmp_path, Home(used.path / "a file"))
    with pytest.raises(HomeInUseError, match="is a mount point"):
        restore(tmp_path, Home(Path("/")))
    with pytest.raises(NoBackupError):
        find_backup(source.path)
    with build(tmp_path / "backups", new_id()) as draft:
        draft.facts["kind"] = "export"
    with pytest.raises(DamagedArtifactError, match="is a 'export', not a backup"):
        restore(find_backup(tmp_path / "backups"), Home(tmp_path / "copy"))


def test_a_backup_whose_rows_do_not_add_up_is_refused(tmp_path: Path, run: Run) -> None:
    source = make_store(tmp_path, ROWS)
    assert run("backup", "--home", source.path, "--to", tmp_path / "backups")[0] == 0
    whole = find_backup(tmp_path / "backups")
    facts = read_manifest(whole)
    del facts["files"]
    with build(tmp_path / "backups", new_id()) as draft:
        shutil.copytree(whole / "exports", draft.path / "exports")
        draft.facts = facts | {"counts": facts["counts"] | {"texts": 7}}
    with pytest.raises(IncompleteRestoreError, match="'texts': 7"):
        restore(find_backup(tmp_path / "backups"), Home(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()


# tune


def test_tune_resumes_and_writes_settings_that_train_takes(home: Home, run: Run) -> None:
    model = pointed(home.latest_model, home.models)
    settings = TowerConfig.from_json(read_manifest(model)["settings"])
    code, out, err = run("tune", "--home", home.path, "--trials", 1, "--fusion", "ridge")
    assert (code, "0 trials are done on this data, 1 to go" in out) == (0, True), err
    code, out, _ = run("tune", "--home", home.path, "--trials", 2, "--fusion", "ridge")
    assert (code, "1 trials are done on this data, 1 to go" in out) == (0, True)
    assert f"triptych train --home {home.path} --config {home.path / 'tuned.json'}" in out
    tuned = TowerConfig.from_json(json.loads((home.path / "tuned.json").read_text()))
    (summary,) = optuna.get_all_study_summaries(f"sqlite:///{home.reports / 'tune.db'}")
    assert summary.n_trials == 2
    assert summary.best_trial is not None
    assert TowerConfig.from_json(summary.best_trial.user_attrs["config"]) == tuned
    first = optuna.load_study(
        study_name=summary.study_name, storage=f"sqlite:///{home.reports / 'tune.db'}"
    ).trials[0]
    assert TowerConfig.from_json(first.user_attrs["config"]) == settings  # those of LATEST are tried first


def test_a_study_belongs_to_rows_text_model_fusion_and_actions(tmp_path: Path, run: Run) -> None:
    home, base = make_store(tmp_path, ROWS), TowerConfig()
    for words in (["export"], ["export"], ["split", "--by", "last"], ["export"]):
        assert run(*words, "--home", home.path)[0] == 0
    first, again, other = (Export.open(home.exports / one) for one in artifacts(home.exports))
    assert study_name(first, "m", base) == study_name(again, "m", base)
    names = {
        study_name(first, "m", base),
        study_name(other, "m", base),
        study_name(first, "n", base),
        study_name(first, "m", TowerConfig(fusion="maxvar")),
        study_name(first, "m", TowerConfig(actions={"share": 2.0})),
    }
    assert len(names) == 5


def test_tune_needs_rows_to_choose_on_and_a_readable_file(home: Home, run: Run) -> None:
    home.reports.mkdir()
    (home.reports / "tune.db").write_bytes(b"no database, but long enough to be looked at" * 100)
    code, _, err = run("tune", "--home", home.path)
    assert (code, "tune.db cannot be read" in err) == (1, True)
    words = ("--by", "random", "--valid", 0, "--test", 0.2, "--replace")
    assert run("split", "--home", home.path, *words)[0] == 0
    code, _, err = run("tune", "--home", home.path)
    assert (code, "no rows with split 'valid'" in err and "triptych split" in err) == (1, True)


@given(
    dim=st.integers(16, 64),
    weighting=st.sampled_from(["log", "binary"]),
    steps=st.integers(0, 20),
    damping=st.just(0.0) | st.floats(*DAMPING),
    ridge=st.floats(*RIDGE),
    gates=st.tuples(st.floats(*GATE), st.floats(*GATE)),
)
def test_settings_within_the_space_are_drawn_as_they_are(
    dim: int, weighting: Any, steps: int, damping: float, ridge: float, gates: tuple[float, float]
) -> None:
    space = Space(TowerConfig(fusion="maxvar", actions={"share": 2.0}), (16, 64), text=True, social=True)
    exponents = {"user_exponent": round(steps * 0.05, 2), "item_exponent": round((20 - steps) * 0.05, 2)}
    config = TowerConfig(
        dim=dim, weighting=weighting, damping=damping, fusion="maxvar", ridge=ridge, gates=(1.0, *gates),
        actions={"share": 2.0}, **exponents,
    )  # fmt: skip
    drawn = space.draw(optuna.trial.FixedTrial(space.nearest(config)))  # type: ignore[arg-type]
    assert drawn == config


def test_settings_beyond_the_space_are_brought_to_its_edge() -> None:
    space = Space(TowerConfig(), (16, 64), text=True, social=False)
    config = TowerConfig(dim=512, user_exponent=0.52, damping=9.0, ridge=0.0, gates=(2.0, 8.0, 1.0))
    drawn = space.draw(optuna.trial.FixedTrial(space.nearest(config)))  # type: ignore[arg-type]
    assert drawn == TowerConfig(dim=64, user_exponent=0.5, damping=3.0, ridge=0.1, gates=(1.0, 2.0, 0.0))
    assert np.isclose(sum(drawn.gates), 3.0)
