"""What is installed, what a bare process may import, and stubs that are what protoc makes."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from scripts.cli import app
from scripts.stubs.__main__ import write_stubs

ROOT = Path(__file__).resolve().parent.parent
STUBS = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
HEAVY = ("torch", "sentence_transformers", "transformers", "optuna", "sklearn", "matplotlib", "evaluation")


def commands() -> dict[str, list[str]]:
    """The words of every command, by name."""
    found: dict[str, list[str]] = {}

    def walk(command: object, words: list[str]) -> None:
        for name, one in getattr(command, "commands", {}).items():
            found[" ".join([*words, name])] = [*words, name]
            walk(one, [*words, name])

    walk(typer.main.get_command(app), [])
    return found


def python(code: str) -> str:
    """What a fresh Python prints."""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=200, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("package", ["server", "indexer", "encoder", "store", "evaluation", "scripts"])
def test_our_packages_are_ours(package: str) -> None:
    assert set(packages_distributions()[package]) == {"triptych"}


def test_every_command_of_the_design_is_there() -> None:
    design = (
        "import train reindex serve query evaluate split export tune doctor backup restore index bench demo"
    )
    parts = (
        "index list,index show,index publish,index rollback,index prune,bench serve,bench index,bench faults"
    )
    assert {*design.split(), *parts.split(",")} <= commands().keys()


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_help_shows_an_example(name: str) -> None:
    result = CliRunner().invoke(app, [*commands()[name], "--help"])
    assert result.exit_code == 0
    if name not in ("index", "bench", "token"):  # which only hold others
        assert f"Example: triptych {name}" in " ".join(result.output.split())


def test_the_server_module_has_help() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "server", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
        check=True,
    )
    assert "--home" in ended.stdout
    assert "Example: triptych serve" in ended.stdout


def test_serving_and_indexing_load_nothing_heavy() -> None:
    loaded = python("import sys, server.app, server.__main__, indexer.reindex; print(*sys.modules)").split()
    assert {"server.query.retriever", "indexer.index", "faiss", "onnxruntime"} <= set(loaded)
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)


def test_serving_and_indexing_work_without_torch() -> None:
    block = "; ".join(f"sys.modules['{name}'] = None" for name in HEAVY)
    assert python(f"import sys; {block}; import server.app, indexer.reindex; print('fine')") == "fine\n"


def test_the_command_line_starts_without_heavy_libraries() -> None:
    loaded = {
        name.partition(".")[0] for name in python("import sys, scripts.cli; print(*sys.modules)").split()
    }
    assert not loaded & set(HEAVY[:-1])


def test_the_client_is_a_distribution_of_its_own() -> None:
    assert set(packages_distributions()["triptych_client"]) == {"triptych-client"}


def test_the_stubs_are_what_protoc_makes(tmp_path: Path) -> None:
    write_stubs(ROOT / "proto", tmp_path)
    made = {p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()}
    public, internal = Path("clients/python/triptych_client/pb/v1"), Path("server/pb/triptych/internal/v1")
    names = (public / "triptych", public / "ingest", internal / "owner")
    assert made == {name.with_name(name.name + ending) for name in names for ending in STUBS}
    for name in made:
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes(), f"{name}: run `make proto`"


def test_the_stubs_run_with_what_the_client_asks_for() -> None:
    """Generated code refuses an older grpcio or protobuf, so the least that pip may install is no older."""
    project = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text("utf-8"))["project"]
    stubs = (ROOT / "clients/python/triptych_client/pb/v1/triptych_pb2").with_suffix(".py").read_text("utf-8")
    rpc = (ROOT / "clients/python/triptych_client/pb/v1/triptych_pb2_grpc.py").read_text("utf-8")
    protobuf = re.findall(r"Protobuf Python Version: ([\d.]+)", stubs)
    grpcio = re.findall(r"GRPC_GENERATED_VERSION = '([\d.]+)'", rpc)
    major = int(protobuf[0].split(".")[0])
    assert project["dependencies"] == [f"grpcio>={grpcio[0]}", f"protobuf>={protobuf[0]},<{major + 2}"]
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert f"triptych-client=={project['version']}" in ours["dependencies"]
