import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.home import Home
from store.objects import LocalCopy
from tests.engines.s3 import BUCKET, environment, s3_server

CACHE = "cache"


@pytest.fixture(scope="package")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3") / "data") as address:
        yield address


@pytest.fixture
def bare_url(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """The URL of a home of this test alone, whose local copies are in cache/ of its folder."""
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / CACHE))
    test = "".join(one if one.isalnum() else "-" for one in request.node.name)
    return f"s3://{BUCKET}/{test}/home"


@pytest.fixture
def url(bare_url: str, small_home: Home, tmp_path: Path) -> str:
    """As `bare_url`; its copy has the texts of the small home encoded, which takes a command seconds."""
    with LocalCopy(bare_url, tmp_path / CACHE) as copy:
        shutil.copytree(small_home.text_cache, copy.home.text_cache)
    return bare_url
