"""What all commands share: one-line reasons, and a running server that they go through."""

import json
import shutil
from pathlib import Path

import duckdb
import grpc
import pytest

from scripts.doctor.check import Check, State
from scripts.doctor.command import checks
from server.app import running
from server.config import ServerConfig
from store.artifact import artifacts
from store.home import Home
from tests.command_line import Run
from tests.small_stores import ROWS, make_store
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc


def named(found: list[Check], name: str) -> Check:
    return next(check for check in found if check.name == name)


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


def test_commands_go_through_the_running_server(home: Home, run: Run, tmp_path: Path) -> None:
    (first,) = artifacts(home.indexes)
    second = "20990101T000000000000-ffff"
    shutil.copytree(home.indexes / first, home.indexes / second)
    with running(ServerConfig(home, port=0)) as address, grpc.insecure_channel(address) as channel:
        code, _, err = run("split", "--home", home.path, "--by", "random", "--replace")
        local = json.loads(home.server_file.read_text("utf-8"))["local"]
        assert (code, f"a server on {local} owns" in err) == (1, True)
        status = rpc.AdminStub(channel).Status
        assert run("index", "publish", second, "--home", home.path)[0] == 0
        assert status(pb.StatusRequest()).index_id == second
        assert run("index", "rollback", "--home", home.path)[0] == 0
        assert status(pb.StatusRequest()).index_id == first
        assert run("index", "rollback", "--home", home.path)[0] == 1
        found = list(checks(home))
        assert named(found, "server").found.endswith(f"on {local}: SERVING")
        assert named(found, "store").found.startswith("owned by the server")
        assert named(found, "behaviors").state is State.OK
        code, out, _ = run("backup", "--home", home.path, "--to", tmp_path / "backups")
        assert (code, first in out) == (0, True)
