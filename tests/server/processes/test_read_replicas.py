"""Read replicas: users from a Valkey cluster, index and model from the home, whatever fails meanwhile."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.probe import problem_at
from store.artifact import artifacts
from store.home import Home
from tests.command_line import Run
from tests.engines.s3 import BUCKET, environment, s3_server
from tests.engines.valkey import ValkeyCluster, valkey_cluster
from tests.live_server import SOON, refusal, server, soon, stopped
from tests.live_server import Client as Owner
from tests.stored_home import unpack
from triptych_client import Behavior, Client, Consent, Item, Text, Tie
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

STORED = Path(__file__).parents[2] / "golden" / "home-1"
USERS = [f"u{number:02}" for number in range(1, 40) if number not in (10, 14)]
USER = USERS[0]


@dataclass
class Replica:
    """A read replica, its address, and its log."""

    process: "subprocess.Popen[bytes]"
    address: str
    channel: grpc.Channel
    log: Path

    @property
    def retrieval(self) -> rpc.RetrievalStub:
        return rpc.RetrievalStub(self.channel)

    def query(self, user_id: str = USER, **fields: object) -> pb.QueryResponse:
        return self.retrieval.Query(pb.QueryRequest(user_id=user_id, **fields), timeout=SOON)  # type: ignore[arg-type]

    def items(self, user_id: str = USER, **fields: object) -> list[str]:
        return list(self.query(user_id, **fields).item_ids)

    @property
    def status(self) -> pb.StatusResponse:
        return rpc.AdminStub(self.channel).Status(pb.StatusRequest(), timeout=SOON)

    def serves(self, service: str) -> bool:
        request = health_pb2.HealthCheckRequest(service=service)
        reply = health_pb2_grpc.HealthStub(self.channel).Check(request, timeout=SOON)
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


@dataclass
class World:
    """An owner, a replica that knows it, one that does not, and the cluster between them."""

    cluster: ValkeyCluster
    home: Home
    owner: Owner
    client: Client
    replica: Replica
    alone: Replica

    @property
    def replicas(self) -> list[Replica]:
        return [self.replica, self.alone]

    def see(self, user_id: str = USER) -> int:
        """Give a user the item that is best for them; return the commit."""
        (best,) = self.client.query(user_id=user_id, k=1).item_ids
        return self.client.append_behaviors([Behavior(user_id, best, "view")]).commit

    def alike(self, *user_ids: str, commit: int = 0) -> None:
        """Compare the answers of all servers."""
        for user_id in user_ids:
            wanted = self.client.query(user_id=user_id, k=20)
            for replica in self.replicas:
                found = replica.query(user_id, k=20, min_commit=commit)
                assert list(found.item_ids) == list(wanted.item_ids)
                assert list(found.text_shares) == list(wanted.text_shares)
                assert list(found.social_shares) == list(wanted.social_shares)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def replica_of(home: Path | str, url: str, log: Path, *options: str) -> Iterator[Replica]:
    port = _free_port()
    command = [sys.executable, "-m", "server", "--read-only", "--home", str(home), "--state-url", url]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--port", str(port), *options], stdout=output, stderr=output)
    address = f"127.0.0.1:{port}"
    options_of_channel = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    try:
        with grpc.insecure_channel(address, options_of_channel) as channel:
            replica = Replica(process, address, channel, log)
            deadline = time.monotonic() + SOON
            while not _answers(replica):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield replica
    finally:
        process.terminate()
        process.wait(SOON)


def _answers(replica: Replica) -> bool:
    try:
        return replica.serves("") and replica.serves("triptych.state")
    except grpc.RpcError:
        return False


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("replicas")
    home = unpack(STORED, folder / "home")
    with ExitStack() as stack:
        cluster = stack.enter_context(valkey_cluster(folder / "valkey"))
        owner = stack.enter_context(server(home, "--state-url", cluster.url))
        client = stack.enter_context(Client(owner.address, timeout=SOON))
        known = replica_of(
            home.path, cluster.url, folder / "replica.log", "--no-spare", "--owner", owner.address
        )
        unknown = replica_of(home.path, cluster.url, folder / "alone.log", "--no-spare")
        world = World(cluster, home, owner, client, stack.enter_context(known), stack.enter_context(unknown))
        yield world
    for log in (owner.log, world.replica.log, world.alone.log):
        said = log.read_text()
        assert "Traceback" not in said or "StateUnreachableError" in said, said


def test_a_replica_is_probed_at_its_address(world: World) -> None:
    assert problem_at(world.alone.address) == problem_at(world.replica.address, alive=True) == ""


def test_a_replica_answers_as_the_owner_does(world: World) -> None:
    world.alike(*USERS, "u-new", "nobody")


def test_a_write_is_in_the_next_answer_that_names_its_commit(world: World) -> None:
    for number in range(60):
        user_id = USERS[number % len(USERS)]
        (best,) = world.client.query(user_id=user_id, k=1).item_ids
        commit = world.client.append_behaviors([Behavior(user_id, best, "view")]).commit
        assert best not in world.replicas[number % 2].items(user_id, min_commit=commit)


def test_friends_consents_and_texts_reach_a_replica(world: World) -> None:
    client = world.client
    client.put_friends([Tie("watcher", "u05"), Tie("watcher", "u07")])
    commit = client.append_behaviors([Behavior("u07", "sea-03", "like")]).commit
    world.alike("watcher", commit=commit)
    assert world.replica.query("watcher", min_commit=commit).views_used == [pb.VIEW_SOCIAL]
    commit = client.set_consent([Consent("u05", "H", share=False), Consent("u07", "H", share=False)]).commit
    assert world.replica.query("watcher", min_commit=commit).fallback == pb.FALLBACK_POPULARITY
    client.append_texts([Text("writer", "the telescope and the moon")])
    soon(lambda: list(world.replica.query("writer").views_used) == [pb.VIEW_TEXT])
    world.alike("writer")


def test_an_item_that_is_deleted_is_found_no_more_and_a_new_one_is(world: World) -> None:
    client = world.client
    client.put_items([Item("sea-most", "the harbour and the tide", "gulls, sailing and a storm", "book")])
    query = pb.QueryRequest(text="the harbour and the tide", k=100)
    soon(lambda: "sea-most" in world.alone.retrieval.Query(query, timeout=SOON).item_ids)
    query.min_commit = client.delete_items(["sea-most"]).commit
    for replica in world.replicas:
        assert "sea-most" not in replica.retrieval.Query(query, timeout=SOON).item_ids


def test_rows_of_the_store_are_asked_of_the_owner_or_refused(world: World) -> None:
    wanted = world.client.query(item_id="sea-03", k=5)
    found = world.replica.retrieval.Query(pb.QueryRequest(item_id="sea-03", k=5), timeout=SOON)
    assert list(found.item_ids) == list(wanted.item_ids)
    explained = world.replica.query("u08", k=3, explain=True)
    assert any(one.texts and one.texts[0].name for one in explained.explanations)
    for query in (pb.QueryRequest(item_id="sea-03"), pb.QueryRequest(user_id="u08", explain=True)):
        refused = refusal(lambda query=query: world.alone.retrieval.Query(query, timeout=SOON))  # type: ignore[misc]
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "READ_REPLICA")
    missing = refusal(
        lambda: world.replica.retrieval.Query(pb.QueryRequest(item_id="no-such-item"), timeout=SOON)
    )
    assert missing.reason == "ITEM_NOT_FOUND"


def test_writes_are_passed_on_to_the_owner_or_refused(world: World) -> None:
    with Client(world.replica.address, timeout=SOON, read_own_writes=True) as session:
        (best,) = session.query(user_id=USER, k=1).item_ids
        session.append_behaviors([Behavior(USER, best, "view")])
        assert best not in session.query(user_id=USER, k=10).item_ids
    stub = ingest_rpc.IngestStub(world.alone.channel)
    refused = refusal(lambda: stub.EraseUser(ingest.EraseUserRequest(user_id="nobody"), timeout=SOON))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "READ_REPLICA")
    assert "--owner" in refused.message
    assert locations(world.alone) == {world.alone.status.index_id: pb.INDEX_LOCATION_DISK}  # by itself


def test_an_erased_user_is_gone_from_the_cluster(world: World) -> None:
    world.client.append_behaviors([Behavior("erased-one", "sea-03"), Behavior("erased-one", "sea-04")])
    world.client.append_texts([Text("erased-one", "anchor and storm")])
    commit = world.client.erase_user("erased-one").commit
    assert world.replica.query("erased-one", min_commit=commit).fallback == pb.FALLBACK_POPULARITY
    names = [key for node in world.cluster.nodes for key in node.client().scan_iter(count=1_000)]
    assert not [name for name in names if b"erased-one" in name]


def test_what_is_published_is_served_and_a_replica_says_what(world: World) -> None:
    before = world.client.status().index_id
    for index_id in (index_of(world.home, before), before):
        world.client.publish_index(index_id)
        for replica in world.replicas:
            soon(lambda replica=replica, index_id=index_id: replica.status.index_id == index_id)  # type: ignore[misc]
        world.alike(*USERS[:5], commit=world.see())


def index_of(home: Home, other: str) -> str:
    """Copy an index under another id: an index of the same content."""
    made = f"{other}-again"
    shutil.copytree(home.indexes / other, home.indexes / made)
    return made


def test_a_replica_knows_how_old_its_state_is(world: World) -> None:
    commit = world.see()
    reply = world.replica.query(min_commit=commit)
    assert reply.HasField("state_age_seconds")
    process = world.replica.status.process
    assert process.commit >= commit
    assert process.HasField("state_age_seconds")
    assert not world.client.query(user_id=USER).HasField("state_age_seconds")


def test_a_cluster_that_is_emptied_is_filled_again(world: World) -> None:
    commit = world.see()
    assert world.replica.query(min_commit=commit)
    world.cluster.flush()
    _until_filled(world, commit)
    commit = world.see()
    world.alike(*USERS[:10], "writer", commit=commit)


def test_a_node_that_lost_everything_is_not_believed(world: World) -> None:
    for node in world.cluster.nodes:
        commit = world.see()
        _until_filled(world, commit)  # without that, an answer of before the commit would be right as well
        node.kill()
        node.start()
        for user_id in USERS:  # an answer is right, or there is none
            found = _items_or_none(world.alone, user_id)
            assert found in (None, list(world.client.query(user_id=user_id, k=20).item_ids))
        _until_filled(world, commit)
    world.alike(*USERS, commit=world.see())


def _items_or_none(replica: Replica, user_id: str) -> list[str] | None:
    """Return the items of a user, None where the replica says that it cannot know."""
    call = replica.retrieval.Query.future(pb.QueryRequest(user_id=user_id, k=20), timeout=SOON)
    if call.code() is grpc.StatusCode.UNAVAILABLE:
        return None
    return list(call.result().item_ids)


def _until_filled(world: World, commit: int) -> None:
    """Wait until both replicas read users whom they have not kept, so many that some lie on each node."""
    fresh = iter(range(1_000_000))

    def filled() -> bool:
        try:
            for replica in world.replicas * 24:
                replica.query(f"unknown-{time.monotonic_ns()}-{next(fresh)}", min_commit=commit)
        except grpc.RpcError:
            return False
        return True

    soon(filled)


def test_a_replica_that_is_cut_off_answers_what_it_has_and_says_how_old_that_is(world: World) -> None:
    commit = world.see()
    known = world.alone.query(USER, k=10, min_commit=commit)
    with stopped(*(node.pid for node in world.cluster.nodes if node.pid is not None)):
        soon(lambda: world.alone.query(USER, k=10).state_age_seconds > 2.5)
        assert list(world.alone.query(USER, k=10).item_ids) == list(known.item_ids)
        assert list(world.alone.retrieval.Query(pb.QueryRequest(text="bread", k=3), timeout=SOON).item_ids)
        refused = refusal(lambda: world.alone.query("not-kept"))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "STATE_UNREACHABLE")
        later = world.see()  # the owner does not wait for the cluster
        began = time.monotonic()
        refused = refusal(lambda: world.alone.query(USER, min_commit=later))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "COMMIT_NOT_REACHED")
        assert time.monotonic() - began < 1.5
        soon(lambda: not world.alone.serves("triptych.state"))
        assert world.alone.serves("")
    _until_filled(world, later)
    soon(lambda: world.alone.serves("triptych.state"))
    world.alike(USER, commit=later)


def test_two_owners_of_a_home_do_not_write_to_one_place(world: World, tmp_path: Path) -> None:
    url = world.cluster.url.replace("/home", "/copies")
    first, second = (unpack(STORED, tmp_path / name) for name in ("first", "second"))
    with server(first, "--state-url", url) as one:
        soon(lambda: "users written" in one.log.read_text())
        with server(second, "--state-url", url) as other:
            soon(lambda: "users written" in other.log.read_text())
            soon(lambda: "AnotherOwnerError" in one.log.read_text())
            assert "AnotherOwnerError" not in other.log.read_text()
            with Client(one.address, timeout=SOON) as client:  # it serves on, and its health says what fails
                assert client.query(user_id=USER).item_ids
                assert next(w for w in client.status().workers if w.name == "state").failing


def locations(replica: Replica) -> dict[str, int]:
    """Where the indexes are that a replica lists."""
    listed = rpc.AdminStub(replica.channel).ListIndexes(pb.ListIndexesRequest(), timeout=SOON).indexes
    assert [one.index_id for one in listed if one.serving] == [replica.status.index_id]
    return {one.index_id: one.location for one in listed}


def test_a_bucket_that_cannot_be_reached_stops_nobody(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    home, bucket = unpack(STORED, tmp_path / "home"), f"s3://{BUCKET}/home"
    state_url = world.cluster.url.replace("/home", "/in-a-bucket")
    with ExitStack() as stack:
        with s3_server(tmp_path / "s3") as endpoint:
            for name, value in environment(endpoint).items():
                monkeypatch.setenv(name, value)
            code, _, err = run("artifacts", "copy", "--from", home.path, "--to", bucket, "--serving")
            assert code == 0, err
            options = ("--state-url", state_url, "--artifacts", bucket)
            owner = stack.enter_context(server(home, *options))
            client = stack.enter_context(Client(owner.address, timeout=SOON))
            cache = ("--cache", str(tmp_path / "cache"), "--no-spare")
            replica = stack.enter_context(replica_of(bucket, state_url, tmp_path / "replica.log", *cache))
            assert replica.status.index_id == client.status().index_id
            assert locations(replica) == {replica.status.index_id: pb.INDEX_LOCATION_BOTH}
            (published,) = artifacts(home.indexes)
            shutil.copytree(home.indexes / published, home.indexes / f"{published}-more")
            code, _, err = run("artifacts", "copy", "--from", home.path, "--to", bucket)
            assert code == 0, err
            assert locations(replica)[f"{published}-more"] == pb.INDEX_LOCATION_BUCKET
        for number in range(2):  # the bucket is gone
            (best,) = client.query(user_id=USER, k=1).item_ids
            commit = client.append_behaviors([Behavior(USER, best, "view")]).commit
            wanted = client.query(user_id=USER, k=20)
            assert list(wanted.item_ids) == replica.items(USER, k=20, min_commit=commit)
            assert locations(replica) == {published: pb.INDEX_LOCATION_UNKNOWN}
            if number == 0:  # another process takes over, and loads the copy
                pid = replica.status.process.pid
                os.kill(pid, signal.SIGKILL)
                soon(lambda pid=pid: _answers(replica) and replica.status.process.pid != pid)  # type: ignore[misc]
