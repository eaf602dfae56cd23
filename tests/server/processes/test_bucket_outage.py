"""A bucket that answers nobody for a minute, while an owner and a read replica serve under load."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from scripts.bench.faults.watchers import Expected, ask_for, watching
from store.ledger import read_ledger
from store.objects import CURRENT, HomeBucket
from tests.engines.s3 import BUCKET, environment, s3_process
from tests.engines.valkey import valkey_cluster
from tests.live_server import SOON, refusal, server, soon
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


def seconds_until(holds: Callable[[], bool]) -> float:
    began = time.monotonic()
    soon(holds)
    return time.monotonic() - began


def failing(client: Client) -> bool:
    (worker,) = (one for one in client.status().workers if one.name == "artifacts")
    return worker.failing


def serves(replica: Replica, index_id: str) -> bool:
    return replica.status.index_id == index_id


@pytest.mark.nightly
def test_a_bucket_that_does_not_answer_for_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, url = unpack(STORED, tmp_path / "home"), f"s3://{BUCKET}/home"
    with ExitStack() as stack:
        cluster = stack.enter_context(valkey_cluster(tmp_path / "valkey"))
        endpoint, storage = stack.enter_context(s3_process(tmp_path / "s3"))
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_MAX_ATTEMPTS")  # as many as the library makes
        assert command("artifacts", "copy", "--from", str(home.path), "--to", url).returncode == 0
        options = ("--state-url", cluster.url, "--artifacts", url)
        owner = stack.enter_context(server(home, *options))
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
            soon(lambda index_id=index_id: serves(replica, index_id))  # type: ignore[misc]
        client.append_behaviors([Behavior("erased-one", "sea-03", "view")])
        expected: Expected = {first: ask_for(owner.address, ASKED, 20)}
        load = stack.enter_context(ExitStack())
        watched = [
            load.enter_context(watching(address, expected, tmp_path, processes=1))
            for address in (owner.address, replica.address)
        ]
        publish = rpc.AdminStub(owner.channel).PublishIndex
        storage.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            told = seconds_until(lambda: failing(client))
            refused = refusal(lambda: publish(pb.PublishIndexRequest(index_id=second), timeout=SOON))
            said = time.monotonic() - stopped - told  # seconds that the call took
            assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNREACHABLE")
            by_command = command("index", "publish", second, "--home", url)
            assert (by_command.returncode, "no answer within" in by_command.stderr) == (1, True)
            locations = {one.location for one in client.list_indexes()}
            assert locations == {pb.INDEX_LOCATION_UNKNOWN}
            client.erase_user("erased-one")
            writes = 0
            while time.monotonic() - stopped < OUTAGE_SECONDS:
                user_id = f"new-{writes}"  # whom nobody follows: the answers that are watched stay the same
                (best,) = client.query(user_id=user_id, k=1).item_ids
                commit = client.append_behaviors([Behavior(user_id, best, "view")]).commit
                assert best not in replica.items(user_id, k=10, min_commit=commit)
                writes += 1
                assert client.status().serving
                assert serves(replica, first)
                assert replica.serves("")
                assert replica.serves("triptych.state")
            assert failing(client)
        finally:
            storage.send_signal(signal.SIGCONT)
        well = seconds_until(lambda: not failing(client))
        erased = seconds_until(lambda: bucket.ledger() == list(read_ledger(home.erasures)) != [])
        load.close()
        began = time.monotonic()
        client.publish_index(second)
        soon(lambda: serves(replica, second))
        published = time.monotonic() - began
        assert bucket.pointer(CURRENT).artifact_id == second
    for one in watched:
        assert (one.wrong, one.failures) == ([], [])
    assert max(well, erased, published) < 30
    answers = " and ".join(f"{one.answers:,}" for one in watched)
    print(
        f"\nstopped for {OUTAGE_SECONDS:.0f} s: told after {told:.1f} s, a publish refused in {said:.1f} s; {answers} "
        f"right answers of owner and replica, none failed; {writes} writes, each in the next answer of the replica; "
        f"well {well:.1f} s after, the ledger there {erased:.1f} s later, an index on the replica in {published:.1f} s"
    )
