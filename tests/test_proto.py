"""What the check of the API lets pass, and what it refuses."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PROTO = Path(__file__).resolve().parent.parent / "proto"
BIN = Path(sys.executable).parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PROTO, tmp_path / "proto"))


def buf(*words: str, proto: Path) -> "subprocess.CompletedProcess[str]":
    """How buf ends and what it says; without a network or an earlier run to lean on."""
    program = shutil.which("buf", path=os.pathsep.join([str(BIN), os.environ["PATH"]]))
    assert program, "buf is not installed: it comes with the extra `dev`"
    with tempfile.TemporaryDirectory() as cache:
        nowhere = {"HTTPS_PROXY": "127.0.0.1:9", "BUF_CACHE_DIR": cache, "PATH": ""}
        command = [program, *words]
        return subprocess.run(command, cwd=proto, env=nowhere, text=True, capture_output=True, check=False)


def breaking(proto: Path) -> str:
    """What breaks clients of the released API; empty: nothing."""
    ended = buf("breaking", ".", "--against", "released.txtpb", proto=proto)
    assert ended.returncode in (0, 100), ended.stderr
    assert bool(ended.returncode) == bool(ended.stdout)
    return ended.stdout


def change(proto: Path, old: str, new: str) -> None:
    file = proto / "triptych" / "v1" / "triptych.proto"
    text = file.read_text("utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), "utf-8")


def test_the_api_is_clean_and_breaks_no_client() -> None:
    assert buf("lint", proto=PROTO).stdout == ""
    assert breaking(PROTO) == ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("string friend_id = 1;", "string name = 1;", 'changed name from "friend_id" to "name"'),
        ("string friend_id = 1;", "", 'field "1" with name "friend_id"'),
        ("string friend_id = 1;", "bytes friend_id = 1;", 'changed type from "string" to "bytes"'),
        ("string friend_id = 1;", "string friend_id = 7;", 'field "1" with name "friend_id"'),
        ("rpc RollbackIndex(", "rpc Undo(", '"RollbackIndex" on service "Admin"'),
        ("  VIEW_SOCIAL = 3;\n", "", 'enum value "3" on enum "View"'),
    ],
    ids=["name", "gone", "type", "number", "rpc", "enum"],
)
def test_what_breaks_a_client_is_refused(copy: Path, old: str, new: str, said: str) -> None:
    change(copy, old, new)
    assert said in breaking(copy)


def test_additions_pass(copy: Path) -> None:
    change(copy, "string friend_id = 1;", "string friend_id = 1;\n  string note = 3;")
    change(copy, "  VIEW_SOCIAL = 3;", "  VIEW_SOCIAL = 3;\n  VIEW_PLACE = 4;")
    change(copy, "service Admin {", "service Admin {\n  rpc Ping(PingRequest) returns (PingResponse);")
    with (copy / "triptych" / "v1" / "triptych.proto").open("a", encoding="utf-8") as file:
        file.write("message PingRequest {}\nmessage PingResponse {}\n")
    assert breaking(copy) == ""
    assert buf("lint", proto=copy).stdout == ""
