"""The state of users in a Valkey or Redis cluster: written by the owner of a home, read by its replicas.

`keys` says where each thing lies and how its bytes are made. `connection` reaches the cluster. `backlog`
holds what the owner has committed and not written there yet; `mirror` writes it, in commit order, and fills
the cluster again where it has lost something. `reader` is the state as a replica reads it: it has the
interface of `store.state`.
"""

from store.valkey.connection import (
    AnotherOwnerError,
    Cluster,
    ClusterAddress,
    ClusterTlsError,
    EvictingClusterError,
    StateUnreachableError,
    ValkeyNotInstalledError,
    cluster_address,
)
from store.valkey.keys import Keys
from store.valkey.mirror import StateMirror, TextVectors
from store.valkey.reader import SharedState

__all__ = [
    "AnotherOwnerError",
    "Cluster",
    "ClusterAddress",
    "ClusterTlsError",
    "EvictingClusterError",
    "Keys",
    "SharedState",
    "StateMirror",
    "StateUnreachableError",
    "TextVectors",
    "ValkeyNotInstalledError",
    "cluster_address",
]
