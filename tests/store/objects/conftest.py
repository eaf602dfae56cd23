from collections.abc import Iterator
from pathlib import Path

import pytest

from store.artifact import build
from tests.engines.s3 import BUCKET, environment, s3_server


@pytest.fixture(scope="package")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3") / "data") as address:
        yield address


@pytest.fixture
def url(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The URL of a home of this test alone."""
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    test = "".join(one if one.isalnum() else "-" for one in request.node.name)
    return f"s3://{BUCKET}/{test}/home"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """An artifact of three files, below indexes/ of a home that is no other."""
    parent = tmp_path / "made" / "indexes"
    with build(parent, "a1") as draft:
        (draft.path / "part").mkdir()
        (draft.path / "part" / "二.bin").write_bytes(bytes(range(64)))
        (draft.path / "one.txt").write_text("eins")
        (draft.path / "two.txt").write_text("zwei")
        draft.facts["kind"] = "test"
    return parent / "a1"
