from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.s3 import BUCKET, environment, s3_server


@pytest.fixture(scope="package")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3") / "data") as address:
        yield address


@pytest.fixture
def url(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """The URL of a home of this test alone, whose local copies are in cache/ of its folder."""
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    test = "".join(one if one.isalnum() else "-" for one in request.node.name)
    return f"s3://{BUCKET}/{test}/home"
