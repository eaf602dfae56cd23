"""A Ray cluster of small machines, all of them processes of this one, which tests start and stop."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

_TOKEN = secrets.token_hex(32)  # one for all clusters: Ray reads it once in a process
_TRIES = 4


@contextmanager
def ray_cluster(machines: int) -> Iterator[Any]:
    """Yield a cluster of machines of one processor each, which asks for a token; `address` is where it is."""
    said = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": _TOKEN,
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    with mock.patch.dict(os.environ, said):
        from ray.cluster_utils import Cluster

        machine = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
        cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args=machine))
        try:
            for _ in range(machines - 1):
                _patiently(lambda: cluster.add_node(**machine))
            yield cluster
        finally:
            cluster.shutdown()


def _patiently(start: Callable[[], Any]) -> Any:
    """Start a machine; again where this one is so busy that Ray's half minute for it is over."""
    for tries in range(_TRIES):
        try:
            return start()
        except Exception:
            if tries == _TRIES - 1:
                raise
    raise AssertionError
