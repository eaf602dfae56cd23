"""A Ray cluster on this machine alone, which is started and stopped with a block."""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from encoder.jobs.cluster import RayMissingError

_TOKEN = secrets.token_hex(32)  # one for all clusters: Ray reads it once in a process
_OBJECT_STORE_BYTES = 80 << 20  # parts are paths and numbers
_TRIES = 4


@contextmanager
def ray_cluster(machines: int = 1, processors: int = 1) -> Iterator[str]:
    """Yield the address of a cluster, which asks for a token; this process knows it meanwhile.

    Args:
        machines: how many Ray takes it for; their processes run here.
        processors: of each machine.

    Raises:
        RayMissingError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise RayMissingError
    said = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": _TOKEN,
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    with _environment(said):
        from ray.cluster_utils import Cluster

        machine = {
            "num_cpus": processors,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
        cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args=machine))
        try:
            for _ in range(machines - 1):
                _patiently(lambda: cluster.add_node(**machine))
            yield cluster.address
        finally:
            cluster.shutdown()


def _patiently(start: Callable[[], Any]) -> Any:
    """Start a machine; again where this one is so busy that Ray's half minute for it is over."""
    for tries in range(_TRIES):
        try:
            return start()
        except Exception:  # Ray has no class for it
            if tries == _TRIES - 1:
                raise
    raise AssertionError


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment, which Ray's processes inherit, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
