"""What each kind of process of a server has loaded when it ends: what it needs, and no more."""

import json
import os
from pathlib import Path

import pytest

from store.home import Home
from tests.live_server import SOON, copy_home, server, soon

# Runs at the start of each Python process that finds it, and tells at the end what was loaded.
TOLD = """
import atexit, json, os, sys

def tell():
    with open(os.path.join({folder!r}, str(os.getpid())), "w") as file:
        json.dump([sys.argv, sorted(sys.modules)], file)

atexit.register(tell)
"""
TRAINING = {"torch", "transformers", "sentence_transformers", "sklearn", "optuna", "evaluation", "matplotlib"}
OF_EXTRAS = {"pandas", "pymilvus", "ray", "s3fs", "valkey", "opentelemetry", "limits", "structlog", "rich"}
SERVES = {"numpy", "pyarrow", "faiss", "onnxruntime", "tokenizers", "scipy"}


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder into which each process that starts from now on writes its command and modules."""
    folder, told = tmp_path / "site", tmp_path / "told"
    folder.mkdir()
    told.mkdir()
    (folder / "sitecustomize.py").write_text(TOLD.format(folder=str(told)))
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), before))))
    return told


def modules_of(told: Path, kind: str) -> list[set[str]]:
    """Return the packages, and the modules with their dots, of the processes of a kind."""
    found = []
    for file in told.iterdir():
        command, modules = json.loads(file.read_text())
        if command[1] == kind:
            found.append({*modules, *(name.partition(".")[0] for name in modules)})
    return found


def test_a_server_of_one_process_loads_what_it_serves_with(
    small_home: Home, tmp_path: Path, loaded: Path
) -> None:
    with server(copy_home(small_home, tmp_path / "home")) as client:
        assert client.query(user_id="u00001", k=3).item_ids
        assert client.query(text="a lighthouse", k=3).item_ids
        client.process.terminate()
        assert client.process.wait(SOON) == 0
    (modules,) = modules_of(loaded, "--home")
    assert modules >= SERVES | {"duckdb"}
    assert not modules & (TRAINING | OF_EXTRAS)


def test_of_several_processes_each_loads_what_it_needs(
    small_home: Home, tmp_path: Path, loaded: Path
) -> None:
    with server(copy_home(small_home, tmp_path / "home"), "--processes", "2", "--no-spare") as client:
        soon(lambda: "with 2 query processes" in client.log.read_text())
        assert client.query(user_id="u00001", k=3).item_ids
        client.process.terminate()
        assert client.process.wait(SOON) == 0
    (parent,) = modules_of(loaded, "--home")
    assert not parent & (SERVES | TRAINING | OF_EXTRAS | {"duckdb", "server.app"})
    (owner,), queries = modules_of(loaded, "owner"), modules_of(loaded, "query")
    assert len(queries) == 2
    for modules in (owner, *queries):
        assert modules >= SERVES
        assert not modules & (TRAINING | OF_EXTRAS | {"pydantic", "server.settings"})
