"""A Milvus in a process of its own, which tests start and stop: milvus-lite, and the real server where it is.

The real one is that of the variable TRIPTYCH_MILVUS_URL, else that of the wheel `milvus`, which is too large
to be installed with the others.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.bench.engines.milvus_server import (
    LITE,
    STANDALONE,
    has_standalone,
    milvus_lite,
    milvus_standalone,
)

URL = "TRIPTYCH_MILVUS_URL"
EVERY_MILVUS = [LITE, STANDALONE]


@contextmanager
def milvus_server(folder: Path, kind: str = LITE) -> Iterator[str]:
    """Yield the address of a Milvus that keeps its data in a folder, or of the one that runs already."""
    if kind == LITE:
        with milvus_lite(folder) as running:
            yield running.uri
    elif url := os.environ.get(URL):
        yield url
    elif has_standalone():
        with milvus_standalone(folder, _programs()) as running:
            yield running.uri
    else:
        pytest.skip(f"no Milvus server here: name one in {URL}, or pip install milvus")


def _programs() -> Path:
    """Return where the wheel unpacks its programs, once in a run."""
    return Path(os.environ["XDG_CACHE_HOME"]) / "milvus"
