"""The client alone: what its wheel holds and installs, and every call from there to a running server."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from store.home import Home
from tests.live_server import copy_home, server
from triptych_client.pb.v1 import ingest_pb2, triptych_pb2

ROOT = Path(__file__).parents[2]
CALLER = Path(__file__).with_name("every_call.py")
MOST_MEGABYTES = 60


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the client, built from a copy of its source."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__", "build")
    shutil.copytree(ROOT / "clients/python", folder / "source", ignore=ignored)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Python environment that holds what the wheel installs, and nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    try:
        pip("--python", folder / "bin/python", "install", wheel)
    except subprocess.CalledProcessError as error:
        if "No matching distribution" in error.stderr or "Connection" in error.stderr:
            pytest.skip(f"pip reaches no package index: {error.stderr.strip().splitlines()[-1]}")
        raise
    return folder


def pip(*words: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=240, env=environment)


def size_of(folder: Path) -> float:
    """Megabytes of the files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def test_the_wheel_has_types_stubs_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"triptych_client/py.typed", "triptych_client/pb/v1/ingest_pb2.pyi"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"triptych_client"}


def test_every_call_works_from_an_environment_that_has_the_client_alone(
    bare: Path, wheel: Path, small_home: Home, tmp_path: Path
) -> None:
    home, folder = copy_home(small_home, tmp_path / "home"), tmp_path / "data"
    folder.mkdir()
    (folder / "behaviors.csv").write_text("user_id,item_id,ts\nann,new,2026-01-01\n", "utf-8")
    with server(home) as live:
        command = [bare / "bin/python", "-I", CALLER, live.address, folder]
        said = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    packages = {one.name for one in (bare / "lib").glob("python*/site-packages/*") if one.is_dir()}
    size = size_of(bare / "lib")
    print(
        f"\na wheel of {wheel.stat().st_size / 1e3:.0f} kB and what it needs, "
        f"{', '.join(found['installed'])}: {size:.1f} MB"
    )
    assert set(found["installed"]) <= {"triptych-client", "grpcio", "protobuf", "typing_extensions"}
    assert packages & {"grpc", "google", "triptych_client"} == {"grpc", "google", "triptych_client"}
    assert size < MOST_MEGABYTES
    files = (triptych_pb2.DESCRIPTOR, ingest_pb2.DESCRIPTOR)
    services = [service for file in files for service in file.services_by_name.values()]
    rpcs = {method.name for service in services for method in service.methods}
    refused = {  # of a home without these
        "predict": "HEAD_NOT_FITTED",
        "rollback_index": "NO_OLDER_INDEX",
        "get_report": "REPORT_NOT_FOUND",
    }
    for kind in ("threads", "asyncio"):
        outcomes: dict[str, str] = found[kind]
        assert {name.title().replace("_", "") for name in outcomes} == rpcs
        assert {name: said for name, said in outcomes.items() if said.isupper()} == refused, kind
        assert outcomes["query_stream"] == "list"
        assert outcomes["stream_items"] == "StreamResponse"
        assert outcomes["export_user"] == "dict"


def test_the_examples_of_the_readme_run(bare: Path, small_home: Home, tmp_path: Path) -> None:
    text = (ROOT / "clients/python/README.md").read_text("utf-8")
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    with server(copy_home(small_home, tmp_path / "home")) as live:
        ended = [
            subprocess.run(
                [bare / "bin/python", "-I", "-c", example.replace("127.0.0.1:50051", live.address)],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            for example in examples
        ]
    assert [one.returncode for one in ended] == [0, 0], [one.stderr for one in ended]
    assert "INVALID_ARGUMENT INVALID_REQUEST {'k': " in ended[0].stdout
    assert ended[1].stdout.count("query_id") == 2
