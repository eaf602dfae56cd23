"""An owner and two read replicas on three hosts, each with a node of Valkey: what holds, and what it costs.

    pytest -m nightly -s tests/server/processes/test_hosts.py

PAIRS sets how many writes are each read back, 10,000 where it does not.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from store.home import Home
from tests.engines.hosts import Host, three_hosts
from tests.engines.valkey import ValkeyCluster, valkey_cluster
from tests.live_server import SOON, soon
from tests.stored_home import unpack
from triptych_client import Behavior, Client, Tie
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

pytestmark = pytest.mark.nightly

STORED = Path(__file__).parents[2] / "golden" / "home-1"
PAIRS = int(os.environ.get("PAIRS", "10000"))
USERS, EVENTS, FRIENDS = 400, 100, 20
CUT_OFF_SECONDS = 12.0
MEASURED_SECONDS = 4.0
PORT = 50_061


@dataclass
class World:
    """The hosts, the cluster, the home of the owner on the first, and a client of each server."""

    hosts: list[Host]
    cluster: ValkeyCluster
    home: Home
    owner: Client
    replicas: list[Client]


@contextmanager
def serving(host: Host, log: Path, *options: str, port: int = PORT) -> Iterator[Client]:
    command = [*host.prefix, sys.executable, "-m", "server", "--host", host.address, "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--insecure", *options], stdout=output, stderr=output)
    try:
        with Client(f"{host.address}:{port}", timeout=SOON, connections=1) as client:
            soon(lambda: process.poll() is not None or _serves(client))
            assert process.poll() is None, log.read_text()
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(SOON)


def _serves(client: Client) -> bool:
    try:
        reply = rpc.AdminStub(client.channel).Status(pb.StatusRequest(), timeout=1.0)
    except grpc.RpcError:
        return False
    return bool(reply.serving)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("hosts")
    home = unpack(STORED, folder / "home")
    with ExitStack() as stack:
        hosts = stack.enter_context(three_hosts())
        cluster = stack.enter_context(valkey_cluster(folder / "valkey", hosts))
        both = ("--state-url", cluster.url, "--home", str(home.path), "--user-cache-mb", "0")
        owner = stack.enter_context(serving(hosts[0], folder / "owner.log", *both))
        _fill(owner)
        replicas = [
            stack.enter_context(
                serving(host, folder / f"replica-{number}.log", *both, "--read-only", "--no-spare")
            )
            for number, host in enumerate(hosts[1:])
        ]
        yield World(hosts, cluster, home, owner, replicas)


def _fill(owner: Client) -> None:
    """Give people events and friends."""
    items = [row.item_id for row in owner.find_items(limit=1_000).items]
    rng = np.random.default_rng(7)
    for start in range(0, USERS, 50):
        users = [f"p{number:04}" for number in range(start, start + 50)]
        owner.append_behaviors(
            Behavior(user, items[int(item)], f"action-{n % 9}", ts=None)
            for user in users
            for n, item in enumerate(rng.integers(len(items), size=EVENTS))
        )
        owner.put_friends(
            Tie(user, f"p{int(friend):04}") for user in users for friend in rng.integers(USERS, size=FRIENDS)
        )


def test_of_ten_thousand_writes_none_is_missed(world: World) -> None:
    began, stale = time.monotonic(), 0
    items = _items_that_say_something(world.owner)
    for number in range(PAIRS):
        user, item = f"pair-{number}", items[number % len(items)]
        commit = world.owner.append_behaviors([Behavior(user, item)]).commit
        reply = world.replicas[number % 2].query(user_id=user, min_commit=commit, k=100)
        stale += item in reply.item_ids or reply.fallback != pb.FALLBACK_NONE
    each = 1e3 * (time.monotonic() - began) / PAIRS
    own = "network namespaces" if world.hosts[0].own_network else "loopback addresses"
    print(f"\n{PAIRS} writes on three hosts ({own}), each read back: {stale} stale, {each:.1f} ms each")
    assert stale == 0


def _items_that_say_something(owner: Client) -> list[str]:
    """Return the items of which the model knows events: whoever has seen one gets an answer of their own."""
    items = [row.item_id for row in owner.find_items(limit=1_000).items]
    for item in items:
        owner.append_behaviors([Behavior(f"probe-{item}", item)])
    replies = owner.query_batch([{"user_id": f"probe-{item}"} for item in items])
    return [item for item, reply in zip(items, replies, strict=True) if reply.fallback == pb.FALLBACK_NONE]


def test_what_a_stored_user_costs_with_each_engine(world: World) -> None:
    """Records are read for each query: no user vectors are kept."""
    users = [f"p{number:04}" for number in range(USERS)]
    servers = {"LMDB": world.owner, "Valkey": world.replicas[0]}
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in servers}
    for _ in range(3):  # by turns
        for name, client in servers.items():
            figures[name].append((*_latency(client, users), _throughput(client, users)))
    print()
    for name, runs in figures.items():
        p50, p99, rate = np.median(np.array(runs), axis=0)
        print(f"{name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms alone; {rate:.0f} queries/s from 8 callers")
    assert all(rate > 0 for runs in figures.values() for *_, rate in runs)


def _latency(client: Client, users: Sequence[str]) -> tuple[float, float]:
    times = []
    for user in users:
        began = time.perf_counter()
        client.query(user_id=user, k=10)
        times.append(1e3 * (time.perf_counter() - began))
    return float(np.percentile(times, 50)), float(np.percentile(times, 99))


def _throughput(client: Client, users: Sequence[str]) -> float:
    counts, end = [0] * 8, time.monotonic() + MEASURED_SECONDS

    def call(place: int) -> None:
        while time.monotonic() < end:
            client.query(user_id=users[(place * 50 + counts[place]) % len(users)], k=10)
            counts[place] += 1

    threads = [threading.Thread(target=call, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / MEASURED_SECONDS


def test_a_host_that_is_cut_off_says_how_old_it_is_and_catches_up(world: World) -> None:
    if not world.hosts[0].own_network:
        pytest.fail("network namespaces are not allowed here: run this as root, with iproute2")
    cut, others = world.hosts[1], [world.hosts[0], world.hosts[2]]
    text = pb.QueryRequest(text="bread and butter", k=3)
    stub = rpc.RetrievalStub(world.replicas[0].channel)
    cut.cut_off_from(others)
    try:
        commit = world.owner.append_behaviors([Behavior("after-the-cut", "sea-03")]).commit
        soon(lambda: stub.Query(text, timeout=SOON).state_age_seconds > CUT_OFF_SECONDS)
        age = stub.Query(text, timeout=SOON).state_age_seconds
        behind = stub.Query.future(pb.QueryRequest(user_id="p0001", min_commit=commit), timeout=SOON)
        assert behind.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        cut.heal(others)
    healed = time.monotonic()
    soon(lambda: _knows(world.replicas[0], "after-the-cut", commit))
    print(
        f"\ncut off for {age:.1f} s by its own account; {time.monotonic() - healed:.1f} s later it knows all"
    )


def test_a_cluster_that_was_killed_and_is_empty_is_filled_again(world: World) -> None:
    users = [f"p{number:04}" for number in range(0, USERS, 10)]
    before = {user: list(world.owner.query(user_id=user, k=20).item_ids) for user in users}
    for node in world.cluster.nodes:
        node.kill()
    commit = world.owner.append_behaviors([Behavior("while-it-was-gone", "sea-03")]).commit
    for node in world.cluster.nodes:
        node.start()
    began = time.monotonic()
    for replica in world.replicas:
        soon(lambda replica=replica: _knows(replica, "while-it-was-gone", commit))  # type: ignore[misc]
    print(f"\nall nodes killed and empty: filled again {time.monotonic() - began:.1f} s after they ran")
    for replica in world.replicas:
        assert {user: list(replica.query(user_id=user, k=20).item_ids) for user in users} == before


def _knows(client: Client, user_id: str, commit: int) -> bool:
    call = rpc.RetrievalStub(client.channel).Query.future(
        pb.QueryRequest(user_id=user_id, min_commit=commit), timeout=SOON
    )
    return call.code() is grpc.StatusCode.OK and call.result().fallback == pb.FALLBACK_NONE
