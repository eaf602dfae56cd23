from collections.abc import Iterator
from typing import Any

import pytest

from encoder.jobs import Jobs, open_jobs
from tests.engines.ray_cluster import ray_cluster


@pytest.fixture(scope="package")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two machines with one processor each."""
    with ray_cluster(2) as started:
        yield started


@pytest.fixture(scope="module")
def jobs(request: pytest.FixtureRequest) -> Iterator[Jobs]:
    """The way to work that the parameter names: "in this process", "processes" or "ray"."""
    address = request.getfixturevalue("cluster").address if request.param == "ray" else None
    with open_jobs(1 if request.param == "in this process" else 2, address) as opened:
        yield opened
