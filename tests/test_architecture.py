"""The house is as docs/architecture.md says: its files exist, folders are small, walks are short."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from store.home import Home
from tests.conftest import LONGEST_FILES
from tests.live_server import copy_home

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "architecture.md"
CLIENT = Path("clients/python")
PACKAGES = (
    "clients/python/triptych_client",
    "store",
    "encoder",
    "indexer",
    "server",
    "evaluation",
    "console",
    "scripts",
)
MOST_MODULES = 18  # of a folder
MOST_FILES = 15  # of a walk
# Around every call: which threads it runs on, who still waits for it, what an error is called.
AROUND = {
    "server/wire/admission.py",
    "server/wire/micro_batches.py",
    "server/wire/observed.py",
    "server/telemetry/stages.py",
    "server/query/drift.py",
    "server/status.py",
    "server/cancellation.py",
}


def modules() -> list[Path]:
    return [
        path
        for package in (*PACKAGES, "tests")
        for path in sorted((ROOT / package).rglob("*.py"))
        if "pb" not in path.relative_to(ROOT).parts
    ]


def walk(name: str) -> list[str]:
    """The files of a numbered list below a heading, in order."""
    section = DOCUMENT.read_text("utf-8").split(f"\n## {name}\n")[1].split("\n## ")[0]
    return re.findall(r"^\d+\. `([\w/]+\.py)`", section, re.MULTILINE)


def test_every_file_that_the_document_names_exists() -> None:
    named = re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?)`", DOCUMENT.read_text("utf-8"))
    assert len(named) > 40
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_folder_is_named_and_none_is_crowded() -> None:
    folders = Counter(path.parent.relative_to(ROOT) for path in modules())
    assert {str(folder): count for folder, count in folders.items() if count > MOST_MODULES} == {}
    text = DOCUMENT.read_text("utf-8")
    assert [str(f) for f in folders if f.parts[0] != "tests" and f"`{f}/`" not in text] == []


def test_the_longest_files_of_tests_exist() -> None:
    assert [name for name in LONGEST_FILES if not (ROOT / "tests" / name).is_file()] == []


def test_a_public_class_has_a_name_of_its_own() -> None:
    names = Counter(
        node.name
        for path in modules()
        if path.relative_to(ROOT).parts[0] != "tests"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_the_inside_of_a_folder_is_imported_by_itself_alone() -> None:
    """But for folders of encoder and scripts, whose modules may load torch, ONNX or Optuna."""
    relative = [path.relative_to(ROOT) for path in modules() if path.relative_to(ROOT).parts[0] != "tests"]
    ours = [path.relative_to(CLIENT) if path.is_relative_to(CLIENT) else path for path in relative]
    folders = {".".join(path.parent.parts) for path in ours if len(path.parts) > 2}
    strict = {folder for folder in folders if folder.split(".")[0] not in ("encoder", "scripts")}
    strict.add("triptych_client")
    found = [
        f"{path}: {node.module}"
        for path, file in zip(ours, relative, strict=True)
        for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8")))
        if isinstance(node, ast.ImportFrom)
        and node.module
        and (folder := node.module.rpartition(".")[0]) in strict
        and ".".join(path.parent.parts) != folder
    ]
    assert found == []


def test_no_name_of_a_folder_hides_one_of_its_modules() -> None:
    for init in (path for path in modules() if path.name == "__init__.py"):
        exported = {
            alias.asname or alias.name
            for node in ast.parse(init.read_text("utf-8")).body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert not exported & {path.stem for path in init.parent.glob("*.py")}, init


@pytest.mark.parametrize("name", ["From `user_id` to the reply", "From an item's text to FAISS"])
def test_a_walk_is_short(name: str) -> None:
    assert 5 < len(walk(name)) == len(set(walk(name))) <= MOST_FILES


# A process of its own prints the files of ours in which the thread of a query called a function.
TRACED = """
import sys, threading
from pathlib import Path
root, home_path = sys.argv[1:3]
files, tracing = set(), False

def note(frame, event, _):
    in_call = threading.current_thread().name.startswith("queries")
    if tracing and in_call and event == "call" and frame.f_code.co_name != "<module>":
        files.add(frame.f_code.co_filename)

threading.setprofile(note)
import grpc
from server.app import running
from server.config import ServerConfig
from triptych_client.pb.v1 import triptych_pb2 as pb, triptych_pb2_grpc as rpc
from store.home import Home

config = ServerConfig(home=Home(Path(home_path)), port=0)
with running(config) as address, grpc.insecure_channel(address) as channel:
    query = rpc.RetrievalStub(channel).Query
    query(pb.QueryRequest(user_id="u00000"), timeout=60)  # what is made once is made now
    for _ in range(2):  # the vector is made, then it is kept
        files.clear()
        tracing = True
        reply = query(pb.QueryRequest(user_id="u00001"), timeout=60)
        tracing = False
        assert len(reply.item_ids) == 10 and len(reply.views_used) == 3, reply
        ours = [Path(file).relative_to(root) for file in files if file.startswith(root + "/")]
        print(*(file for file in ours if "pb" not in file.parts and ".venv" not in file.parts))
"""


def test_a_query_opens_what_the_document_says(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    ended = subprocess.run(
        [sys.executable, "-c", TRACED, str(ROOT), str(home.path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    made, kept = (set(line.split()) - AROUND for line in ended.stdout.splitlines())
    to_reply, to_vector = set(walk("From `user_id` to the reply")), walk("From a person's rows to a vector")
    assert made == to_reply | set(to_vector)
    assert kept == to_reply | set(to_vector[:1])
