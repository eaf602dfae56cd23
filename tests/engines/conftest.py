from collections.abc import Iterator

import pytest

from encoder.jobs import Jobs, open_jobs
from scripts.bench.ray_cluster import ray_cluster


@pytest.fixture(scope="package")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of two machines with one processor each."""
    with ray_cluster(machines=2) as address:
        yield address


@pytest.fixture(scope="module")
def jobs(request: pytest.FixtureRequest) -> Iterator[Jobs]:
    """The way to work that the parameter names: "in this process", "processes" or "ray"."""
    address = request.getfixturevalue("cluster") if request.param == "ray" else None
    with open_jobs(1 if request.param == "in this process" else 2, address) as opened:
        yield opened
