"""Several processes behind one address: the calls of many connections are shared out among them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from store.home import Home
from tests.live_server import SOON, copy_home, server, soon
from tests.scripts.gateway.conftest import Open
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

CONNECTIONS, CALLS = 16, 400  # of each
USER = "u00001"


def queries_by_process(address: str, processes: int) -> dict[int, int]:
    """Return how many queries of stored users each process has answered, by its pid."""
    found: dict[int, int] = {}

    def all_told() -> bool:
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            told = rpc.AdminStub(channel).Status(pb.StatusRequest(), timeout=SOON).process
        found[told.pid] = told.user_vector_hits + told.user_vector_misses
        return len(found) == processes

    soon(all_told)
    return found


def ask(address: str) -> None:
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        query = rpc.RetrievalStub(channel).Query
        for _ in range(CALLS):
            query(pb.QueryRequest(user_id=USER, k=1), timeout=SOON)


def test_calls_of_sixteen_connections_are_shared_within_a_fifth(
    small_home: Home, tmp_path: Path, open_gateway: Open
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home, "--processes", "2", "--no-spare") as behind, open_gateway(behind.address) as gateway:
        soon(lambda: "with 2 query processes" in behind.log.read_text())
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(ask, [gateway.address] * CONNECTIONS))
        shares = queries_by_process(behind.address, 2)
        even = sum(shares.values()) / 2
        assert sum(shares.values()) == CONNECTIONS * CALLS
        assert all(abs(share - even) <= 0.2 * even for share in shares.values()), shares
