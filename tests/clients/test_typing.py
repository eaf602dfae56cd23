"""What a type checker says of code that uses the client: kinds of results, and wrong arguments."""

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "clients" / "python"

RIGHT = """
from collections.abc import AsyncIterator
from typing import assert_type

from triptych_client import AsyncClient, CallError, Client, Item
from triptych_client.pb.v1 import ingest_pb2, triptych_pb2 as pb

with Client("127.0.0.1:50051", connections=2) as client:
    assert_type(client.query(user_id="alice", k=5), pb.QueryResponse)
    assert_type(client.stream_items([[Item("a", kind="film")]]), ingest_pb2.StreamResponse)
    assert_type(client.create_export(), str)

async def ask() -> None:
    async with AsyncClient("127.0.0.1:50051") as client:
        assert_type(await client.publish_index("i"), pb.PublishIndexResponse)
        assert_type(client.query_stream([{"user_id": "alice"}]), AsyncIterator[pb.QueryResponse | CallError])
"""
WRONG = """
from triptych_client import AsyncClient, Client, Item

def ask(client: Client, aio: AsyncClient) -> None:
    client.query(usr_id="alice")
    client.put_items(["a"])
    client.stream_texts([[Item("a")]])
    aio.query(user_id="alice").item_ids
"""


def checked(code: str, folder: Path) -> list[str]:
    """The errors that mypy finds in strict mode, each as its line and its kind."""
    (folder / "code.py").write_text(code, "utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", "cache", "code.py"],
        cwd=folder,
        env={"MYPYPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert not ended.stderr, ended.stderr
    return [line for line in ended.stdout.splitlines() if ": error: " in line]


def test_results_have_types_and_mistakes_are_found(tmp_path: Path) -> None:
    assert checked(RIGHT, tmp_path) == []
    found = [(line.split(":")[1], line.rpartition("[")[2]) for line in checked(WRONG, tmp_path)]
    assert found == [("5", "call-arg]"), ("6", "list-item]"), ("7", "list-item]"), ("8", "attr-defined]")]
