"""The Valkey cluster of `bench engines`, for tests: on addresses of this machine, or on hosts of its own."""

from scripts.bench.engines.valkey_cluster import ThreeNodeCluster as ValkeyCluster
from scripts.bench.engines.valkey_cluster import valkey_cluster

__all__ = ["ValkeyCluster", "valkey_cluster"]
