"""What bare FAISS takes for the searches behind queries, at the effort of the index that serves."""

import statistics
import time
from collections.abc import Sequence

import grpc
import numpy as np

from indexer.files import FloatArray
from indexer.index import Index
from scripts.bench.index.bare import BareFaiss, search_params_of
from scripts.connection import metadata_of_environment
from store.artifact import read_pointer
from store.home import Home
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

SEARCHED = 256  # users
_CALL_SECONDS = 60.0


def bare_search_ms(home: Home, vectors: FloatArray, k: int, rounds: int) -> float:
    """Return the median milliseconds of a search for one vector (D,) by one thread, the k best.

    The FAISS files, the probes and the candidates are those of the index that CURRENT names.

    Args:
        home: of the index.
        vectors: (Q, D), each searched for alone.
        k: results.
        rounds: over all vectors; one more before them is not counted.
    """
    directory = read_pointer(home.current_index, home.indexes)
    index = Index.load(directory, check=False)
    bare, probes = BareFaiss(index, directory), search_params_of(index).nprobe
    bare.use_threads(1)
    singles = [vectors[row : row + 1] for row in range(len(vectors))]
    for single in singles:
        bare.find(single, k, probes)
    taken: list[float] = []
    for single in singles * rounds:
        began = time.perf_counter()
        bare.find(single, k, probes)
        taken.append(time.perf_counter() - began)
    return 1e3 * statistics.median(taken)


def query_vectors(address: str, users: Sequence[str]) -> FloatArray:
    """Return the vectors (Q, D) float32 by which a server searches for users."""
    with grpc.insecure_channel(address) as channel:
        stub = rpc.RetrievalStub(channel)
        some = [pb.EncodeUserRequest(user_id=user) for user in users]
        metadata = metadata_of_environment()
        found = [stub.EncodeUser(one, timeout=_CALL_SECONDS, metadata=metadata).vector.values for one in some]
    return np.array(found, dtype=np.float32)
