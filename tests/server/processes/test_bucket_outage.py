"""A bucket that answers nobody for a minute, while an owner and a read replica serve under load."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from scripts.bench.faults.watchers import Expected, ask_for, watching
from store.home import Home
from store.ledger import read_ledger
from store.objects import CURRENT, HomeBucket
from tests.engines.s3 import BUCKET, environment, s3_process
from tests.engines.valkey import valkey_cluster
from tests.live_server import SOON, refusal, server, soon, stopped
from tests.live_server import Client as Owner
from tests.server.processes.test_read_replicas import STORED, USERS, Replica, replica_of
from tests.stored_home import unpack
from triptych_client import Behavior, Client
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

OUTAGE_SECONDS = 60.0
ASKED = USERS[:20]


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    words = (sys.executable, "-m", "scripts.cli", *words)
    return subprocess.run(words, capture_output=True, text=True, timeout=SOON, check=False)


@dataclass
class Shop:
    """An owner and a read replica of a home whose artifacts are in a bucket, and what serves the bucket.

    Attributes:
        serving, other: indexes, of which the first serves.
    """

    home: Home
    owner: Owner
    client: Client
    replica: Replica
    bucket: HomeBucket
    storage: "subprocess.Popen[bytes]"
    serving: str
    other: str

    def failing(self) -> bool:
        (worker,) = (one for one in self.client.status().workers if one.name == "artifacts")
        return worker.failing

    def write(self, user_id: str) -> None:
        """Give a new person the item that is best for them; the next answer of the replica knows of it."""
        (best,) = self.client.query(user_id=user_id, k=1).item_ids
        commit = self.client.append_behaviors([Behavior(user_id, best, "view")]).commit
        assert best not in self.replica.items(user_id, k=10, min_commit=commit)

    def serves_on(self) -> bool:
        well = (
            self.client.status().serving and self.replica.serves("") and self.replica.serves("triptych.state")
        )
        return well and self.replica.status.index_id == self.serving

    def knows_the_erased(self) -> bool:
        return self.bucket.ledger() == list(read_ledger(self.home.erasures)) != []

    def publish(self) -> None:
        self.client.publish_index(self.other)
        soon(lambda: self.replica.status.index_id == self.other)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    home, url = unpack(STORED, tmp_path / "home"), f"s3://{BUCKET}/home"
    with ExitStack() as stack:
        cluster = stack.enter_context(valkey_cluster(tmp_path / "valkey"))
        endpoint, storage = stack.enter_context(s3_process(tmp_path / "s3"))
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_MAX_ATTEMPTS")  # as many as the library makes
        assert command("artifacts", "copy", "--from", str(home.path), "--to", url).returncode == 0
        owner = stack.enter_context(server(home, "--state-url", cluster.url, "--artifacts", url))
        client = stack.enter_context(Client(owner.address, timeout=SOON))
        cache = ("--cache", str(tmp_path / "cache"))
        replica = stack.enter_context(replica_of(url, cluster.url, tmp_path / "replica.log", *cache))
        first = client.status().index_id
        made = command("reindex", "--home", url, "--full", "--cache", str(tmp_path / "elsewhere"))
        assert made.returncode == 0, made.stderr
        bucket = HomeBucket(url)
        second = bucket.pointer(CURRENT).artifact_id
        for index_id in (second, first):
            client.publish_index(index_id)
            soon(lambda index_id=index_id: replica.status.index_id == index_id)  # type: ignore[misc]
        yield Shop(home, owner, client, replica, bucket, storage, first, second)


def seconds_of(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def refused_publish(shop: Shop) -> None:
    call = rpc.AdminStub(shop.owner.channel).PublishIndex
    refused = refusal(lambda: call(pb.PublishIndexRequest(index_id=shop.other), timeout=SOON))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNREACHABLE")


@pytest.mark.nightly
def test_a_bucket_that_does_not_answer_for_a_minute(shop: Shop, tmp_path: Path) -> None:
    shop.client.append_behaviors([Behavior("erased-one", "sea-03", "view")])
    expected: Expected = {shop.serving: ask_for(shop.owner.address, ASKED, 20)}
    writes = 2
    with ExitStack() as load:
        watched = [
            load.enter_context(watching(address, expected, tmp_path, processes=1))
            for address in (shop.owner.address, shop.replica.address)
        ]
        end = time.monotonic() + OUTAGE_SECONDS
        with stopped(shop.storage.pid):
            shop.write("new-0")
            told = seconds_of(lambda: soon(shop.failing))
            shop.write("new-1")
            refused = seconds_of(lambda: refused_publish(shop))
            by_command = command("index", "publish", shop.other, "--home", shop.bucket.name)
            assert (by_command.returncode, "no answer within" in by_command.stderr) == (1, True)
            assert {one.location for one in shop.client.list_indexes()} == {pb.INDEX_LOCATION_UNKNOWN}
            shop.client.erase_user("erased-one")
            while time.monotonic() < end:
                shop.write(f"new-{writes}")  # whom nobody follows: the answers that are watched stay the same
                writes += 1
                assert shop.serves_on()
            assert shop.failing()
        well = seconds_of(lambda: soon(lambda: not shop.failing()))
        known = seconds_of(lambda: soon(shop.knows_the_erased))
    for one in watched:
        assert (one.wrong, one.failures) == ([], [])
    published = seconds_of(shop.publish)
    assert shop.bucket.pointer(CURRENT).artifact_id == shop.other
    assert max(well, known, published) < 30
    answers = " and ".join(f"{one.answers:,}" for one in watched)
    print(
        f"\nstopped for {OUTAGE_SECONDS:.0f} s\n"
        f"told after {told:.1f} s, a publish refused in {refused:.1f} s\n"
        f"{answers} right answers of owner and replica, none failed\n"
        f"{writes} writes, each in the next answer of the replica\n"
        f"well {well:.1f} s after, the ledger in the bucket {known:.1f} s later\n"
        f"an index published, and on the replica, in {published:.1f} s"
    )
