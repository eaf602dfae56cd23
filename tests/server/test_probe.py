"""What containers ask a server: is it alive, does an index serve."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from server.app import running
from server.config import ServerConfig
from server.probe import problem
from store.home import Home
from tests.live_server import copy_home
from tests.small_stores import ROWS, make_store


def probe(home: Home, *words: str) -> tuple[int, str]:
    environment = os.environ | {"TRIPTYCH_HOME": str(home.path)}
    command = [sys.executable, "-m", "server.probe", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stderr


def test_a_server_whose_index_serves_is_ready(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with running(ServerConfig(home, port=0)):
        assert probe(home) == (0, "")
        left = home.server_file.read_text("utf-8")
    assert "no server has started" in problem(home)
    home.server_file.write_text(left, "utf-8")  # it was killed
    assert problem(home) == problem(home, alive=True) == "no answer: UNAVAILABLE"
    home.server_file.write_text("{", "utf-8")
    assert "cannot be read" in problem(home)
    home.server_file.write_text(json.dumps({"pid": 1}), "utf-8")
    assert probe(home)[0] == 1


def test_a_server_without_an_index_is_alive_and_not_ready(tmp_path: Path) -> None:
    home = make_store(tmp_path, ROWS)
    with running(ServerConfig(home, port=0)):
        assert problem(home) == "it is NOT_SERVING: no index serves"
        assert probe(home, "--alive") == (0, "")
    shutil.rmtree(home.path)
    assert probe(home, "--alive")[0] == 1


def test_it_wants_to_know_whom_to_ask() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRIPTYCH_HOME"}
    command = [sys.executable, "-m", "server.probe"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "--home or --address" in done.stderr
