"""A server of several processes: what one has acknowledged all know, and the death of one loses nothing."""

import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from store.home import Home
from tests.live_server import SOON, copy_home, refusal, run_server, server, soon, stopped
from triptych_client import Behavior, Client, Item, Text, Tie
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

USER, OTHER = "u00001", "u00002"


class Several:
    """A server of two query processes, with stubs for each of them and for callers that do not choose."""

    def __init__(self, home: Home, parent: int, stack: ExitStack) -> None:
        self.home = home
        self.parent = parent
        self._stack = stack

    @property
    def announced(self) -> dict[str, object]:
        return dict(json.loads(self.home.server_file.read_text()))

    @property
    def pids(self) -> list[int]:
        return list(self.announced["query_pids"])  # type: ignore[call-overload]

    @property
    def owner_pid(self) -> int:
        return int(str(self.announced["owner_pid"]))

    def client(self) -> Client:
        return self._stack.enter_context(Client(str(self.announced["address"]), timeout=SOON))

    def channel(self) -> grpc.Channel:
        """Return a connection of its own, which the kernel gives to either of the processes."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        return self._stack.enter_context(grpc.insecure_channel(str(self.announced["address"]), options))

    def channels(self) -> list[grpc.Channel]:
        """Return a connection to each process."""
        found: dict[int, grpc.Channel] = {}
        deadline = time.monotonic() + SOON
        while len(found) < 2:
            assert time.monotonic() < deadline, "the kernel gives all connections to one process"
            channel = self.channel()
            pid = _process_of(channel, self.pids, found)
            if pid is not None:
                found[pid] = channel
        return list(found.values())

    def to_each(self) -> list[rpc.RetrievalStub]:
        """Return a stub for each process."""
        return [rpc.RetrievalStub(channel) for channel in self.channels()]


def _process_of(channel: grpc.Channel, pids: list[int], found: dict[int, grpc.Channel]) -> int | None:
    """Return which process a new connection has reached, by the sockets of each before and after."""
    before = {pid: _connections(pid) for pid in pids}
    grpc.channel_ready_future(channel).result(SOON)
    for pid in pids:
        if _connections(pid) > before[pid] and pid not in found:
            return pid
    return None


def _connections(pid: int) -> int:
    return sum(os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:") for fd in _descriptors(pid))


def _descriptors(pid: int) -> list[str]:
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            continue
        found.append(fd)
    return found


def _children(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children()}


@contextmanager
def several(home: Home, *options: str) -> Iterator[Several]:
    with server(home, "--processes", "2", *options) as started, ExitStack() as stack:
        running = Several(home, started.process.pid, stack)
        soon(lambda: len(running.pids) == 2)
        yield running
        log = started.log.read_text()
    assert "Traceback" not in log, log


@pytest.fixture(scope="module")
def shared(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    with several(copy_home(small_home, tmp_path_factory.mktemp("several") / "home")) as running:
        yield running


def items_of(stub: rpc.RetrievalStub, **fields: object) -> list[str]:
    return list(stub.Query(pb.QueryRequest(**fields), timeout=SOON).item_ids)


def test_both_processes_answer_alike(shared: Several) -> None:
    replies = [stub.Query(pb.QueryRequest(user_id=USER, k=20), timeout=SOON) for stub in shared.to_each()]
    first, second = ((list(r.item_ids), list(r.scores), list(r.history_shares)) for r in replies)
    assert first == second
    assert len(first[0]) == 20


def test_what_one_process_acknowledges_the_next_query_to_any_finds(shared: Several) -> None:
    client, stubs = shared.client(), shared.to_each()
    for number in range(10):
        (best, *_) = items_of(stubs[number % 2], user_id=USER, k=10)
        client.append_behaviors([Behavior(USER, best, "view")])
        for stub in stubs:
            assert best not in items_of(stub, user_id=USER, k=10)


def test_a_friends_event_is_in_the_next_query(shared: Several) -> None:
    client, stubs = shared.client(), shared.to_each()
    client.put_friends([Tie("follower", OTHER)])
    before = [stub.EncodeUser(pb.EncodeUserRequest(user_id="follower"), timeout=SOON) for stub in stubs]
    assert before[0].social_part.values
    unseen = items_of(stubs[0], user_id=OTHER, k=1)
    client.append_behaviors([Behavior(OTHER, unseen[0], "view")])
    for stub, earlier in zip(stubs, before, strict=True):
        now = stub.EncodeUser(pb.EncodeUserRequest(user_id="follower"), timeout=SOON)
        assert not np.array_equal(now.social_part.values, earlier.social_part.values)


def test_an_item_that_was_put_is_found_and_one_deleted_is_gone(shared: Several) -> None:
    client, stubs = shared.client(), shared.to_each()
    text = "the only lighthouse keeper who collects porcelain elephants"
    client.put_items([Item("lighthouse", "Lighthouse", text, "film", {}, True, None)])
    for stub in stubs:
        soon(lambda stub=stub: "lighthouse" in items_of(stub, text=text, k=500))  # type: ignore[misc]
    assert all(items_of(stub, item_id="lighthouse", k=3) for stub in stubs)
    client.delete_items(["lighthouse"])
    for stub in stubs:
        assert "lighthouse" not in items_of(stub, text=text, k=500)


def test_an_erased_user_is_forgotten_at_once(shared: Several) -> None:
    client, stubs = shared.client(), shared.to_each()
    client.append_behaviors([Behavior("brief", items_of(stubs[0], user_id=USER, k=1)[0], "view")])
    for stub in stubs:
        reply = stub.Query(pb.QueryRequest(user_id="brief", k=3), timeout=SOON)
        assert reply.fallback == pb.FALLBACK_NONE
    client.erase_user("brief")
    for stub in stubs:
        reply = stub.Query(pb.QueryRequest(user_id="brief", k=3), timeout=SOON)
        assert reply.fallback == pb.FALLBACK_POPULARITY
        users = stub.Query(pb.QueryRequest(user_id=USER, k=200, target=pb.TARGET_USERS), timeout=SOON)
        assert "brief" not in users.user_ids


def test_a_text_counts_as_soon_as_it_is_encoded(shared: Several) -> None:
    client, stubs = shared.client(), shared.to_each()
    client.append_texts([Text("writer", "I like slow trains through the mountains")])
    for stub in stubs:
        soon(
            lambda stub=stub: bool(  # type: ignore[misc]
                stub.EncodeUser(pb.EncodeUserRequest(user_id="writer"), timeout=SOON).text_part.values
            )
        )


def test_an_explanation_names_the_texts_behind_a_result(shared: Several) -> None:
    client, stubs = shared.client(), shared.to_each()
    said = "I like glass bridges over deep canyons"
    client.append_texts([Text("explained", said)])
    for stub in stubs:
        request = pb.QueryRequest(user_id="explained", k=1, explain=True)
        soon(
            lambda stub=stub, request=request: any(  # type: ignore[misc]
                text.name == said
                for one in stub.Query(request, timeout=SOON).explanations
                for text in one.texts
            )
        )


def test_errors_of_the_owner_come_through_whole(shared: Several) -> None:
    channel = shared.channel()
    stub = ingest_rpc.IngestStub(channel)
    request = ingest.EraseUserRequest(user_id="")
    found = refusal(lambda: stub.EraseUser(request, timeout=SOON))
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (found.domain, found.reason) == ("triptych", "INVALID_REQUEST")
    unknown = pb.QueryRequest(item_id="unknown", k=1)
    found = refusal(lambda: rpc.RetrievalStub(channel).Query(unknown, timeout=SOON))
    assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "ITEM_NOT_FOUND")


def test_status_tells_of_the_process_that_answers(shared: Several) -> None:
    told = {}
    for channel in shared.channels():
        stub, admin = rpc.RetrievalStub(channel), rpc.AdminStub(channel)
        for _ in range(3):
            stub.Query(pb.QueryRequest(user_id=OTHER, k=1), timeout=SOON)
        status = admin.Status(pb.StatusRequest(), timeout=SOON)
        told[status.process.pid] = status.process
        assert status.serving
        assert status.rows["items"] > 0  # the owner's
    assert sorted(told) == sorted(shared.pids)
    for process in told.values():
        assert process.user_vector_hits >= 2
        assert process.user_vector_misses >= 1
        assert process.user_vectors >= 1
        assert process.user_vector_bytes > 0


def test_streams_are_passed_on(shared: Several) -> None:
    stub = ingest_rpc.IngestStub(shared.channel())
    (item_id,) = items_of(shared.to_each()[0], user_id=USER, k=1)
    row = ingest.BehaviorRow(user_id="streamer", item_id=item_id, action="view")
    requests = [ingest.AppendBehaviorsRequest(behaviors=[row], request_id=f"s{i}") for i in range(3)]
    total = stub.StreamBehaviors(iter(requests), timeout=SOON)
    assert total.inserted + total.updated + total.unchanged + len(total.rejected) == 3, total
    exported = list(stub.ExportUser(ingest.ExportUserRequest(user_id="streamer"), timeout=SOON))
    assert exported


def test_health_tells_of_queries_here_and_of_writes_at_the_owner(shared: Several) -> None:
    stub = health_pb2_grpc.HealthStub(shared.channel())

    def status(service: str) -> int:
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=SOON).status

    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ("", "triptych.v1.Retrieval", "triptych.v1.Ingest", "triptych.v1.Admin"):
        soon(lambda service=service: status(service) == serving)  # type: ignore[misc]


def test_a_folder_is_imported_through_a_query_process(shared: Several, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    (item_id,) = items_of(shared.to_each()[0], user_id=USER, k=1)
    (folder / "behaviors.jsonl").write_text(
        json.dumps({"user_id": "imported", "item_id": item_id, "action": "view"}) + "\n"
    )
    report = shared.client().import_folder(folder)
    assert report.tables
    for stub in shared.to_each():
        reply = stub.Query(pb.QueryRequest(user_id="imported", k=3), timeout=SOON)
        assert reply.fallback == pb.FALLBACK_NONE


def test_an_owner_that_hangs_holds_up_no_query_and_a_write_only_until_its_deadline(shared: Several) -> None:
    stubs, channel = shared.to_each(), shared.channel()
    (item_id,) = items_of(stubs[0], user_id=USER, k=1)
    row = ingest.BehaviorRow(user_id=USER, item_id=item_id, action="view")
    request = ingest.AppendBehaviorsRequest(behaviors=[row], request_id="once")
    with stopped(shared.owner_pid):
        for stub in stubs:
            assert items_of(stub, user_id=USER, k=5)
        with pytest.raises(grpc.RpcError) as caught:
            ingest_rpc.IngestStub(channel).AppendBehaviors(request, timeout=0.5)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    ingest_rpc.IngestStub(channel).AppendBehaviors(request, timeout=SOON)
    for stub in stubs:
        assert item_id not in items_of(stub, user_id=USER, k=5)


def test_a_query_process_that_dies_is_replaced_and_the_other_goes_on(shared: Several) -> None:
    client = shared.client()
    client.append_behaviors([Behavior(USER, "item-1", "view")])
    soon(lambda: len(_children(shared.parent)) == 4)  # the owner, two that answer, one to spare
    loaded, killed = _children(shared.parent), shared.pids[0]
    os.kill(killed, signal.SIGKILL)
    assert client.query(user_id=USER, k=1).item_ids  # repeated where the connection broke
    soon(lambda: killed not in shared.pids and len(shared.pids) == 2)
    assert set(shared.pids) <= loaded
    soon(lambda: len(_children(shared.parent)) == 4)
    best = client.query(user_id=USER, k=1).item_ids[0]
    client.append_behaviors([Behavior(USER, best, "view")])
    for stub in shared.to_each():
        assert best not in items_of(stub, user_id=USER, k=10)


def test_queries_go_on_while_the_owner_is_dead_and_nothing_acknowledged_is_lost(shared: Several) -> None:
    client, stubs = shared.client(), shared.to_each()
    text = "a violin made of river ice"
    client.put_items([Item("ice", "Ice violin", text, "film", {}, True, None)])
    written = items_of(stubs[0], user_id=USER, k=5)
    client.append_behaviors([Behavior(USER, written[0], "view")])
    owner = shared.owner_pid
    os.kill(owner, signal.SIGKILL)
    for stub in stubs:
        assert written[0] not in items_of(stub, user_id=USER, k=5)
    client.append_behaviors([Behavior(USER, written[1], "view")])  # waits for the new owner
    soon(lambda: shared.owner_pid != owner and len(shared.pids) == 2)
    client.delete_items(["ice"])
    for stub in stubs:
        assert not set(written[:2]) & set(items_of(stub, user_id=USER, k=5))
        assert "ice" not in items_of(stub, text=text, k=500)


def test_an_index_serves_in_all_processes_at_once_and_a_damaged_one_in_none(
    small_home: Home, tmp_path: Path
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    (first,) = sorted(path.name for path in home.indexes.iterdir() if path.is_dir())
    second = first[:-4] + "ffff"
    _copy_index(home, first, second)
    with several(home, "--no-spare") as running:
        client, stubs = running.client(), running.to_each()
        stop, seen, wrong = threading.Event(), set[str](), list[str]()
        threads = [threading.Thread(target=_watch, args=(stub, stop, seen, wrong)) for stub in stubs]
        for thread in threads:
            thread.start()
        admin = rpc.AdminStub(running.channel())
        for index_id in (second, first, second):
            admin.PublishIndex(pb.PublishIndexRequest(index_id=index_id), timeout=SOON)
            for stub in stubs:
                reply = stub.Query(pb.QueryRequest(user_id=USER, k=1), timeout=SOON)
                assert reply.index_id == index_id
        admin.RollbackIndex(pb.RollbackIndexRequest(), timeout=SOON)
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert seen == {first, second}

        broken = first[:-4] + "eeee"
        _copy_index(home, first, broken)
        (home.indexes / broken / "vectors.safetensors").write_bytes(b"nothing")
        found = refusal(lambda: admin.PublishIndex(pb.PublishIndexRequest(index_id=broken), timeout=SOON))
        assert found.reason == "DAMAGED_FILE"
        for stub in stubs:
            assert stub.Query(pb.QueryRequest(user_id=USER, k=1), timeout=SOON).index_id == first
        assert client.query(user_id=USER, k=1).index_id == first


def _copy_index(home: Home, index_id: str, name: str) -> None:
    shutil.copytree(home.indexes / index_id, home.indexes / name)


def _watch(stub: rpc.RetrievalStub, stop: threading.Event, seen: set[str], wrong: list[str]) -> None:
    while not stop.is_set():
        try:
            seen.add(stub.Query(pb.QueryRequest(user_id=USER, k=5), timeout=SOON).index_id)
        except grpc.RpcError as error:
            wrong.append(str(error))


def test_a_stop_ends_all_processes(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home, "--processes", "2") as started:
        soon(lambda: len(json.loads(home.server_file.read_text())["query_pids"]) == 2)
        said = json.loads(home.server_file.read_text())
        started.process.terminate()
        assert started.process.wait(SOON) == 0
        assert not home.server_file.exists()
        for pid in (said["owner_pid"], *said["query_pids"]):
            assert not Path(f"/proc/{pid}").exists()
        assert "Fatal" not in started.log.read_text()


def test_processes_that_drain_answer_and_pass_writes_on(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with (
        server(home, "--processes", "2", "--no-spare", "--drain", "3600") as live,
        Client(live.address) as client,
    ):
        soon(lambda: "with 2 query processes" in live.log.read_text())
        item = live.query(user_id=USER, k=1).item_ids[0]
        live.process.send_signal(signal.SIGTERM)
        check = health_pb2_grpc.HealthStub(live.channel).Check
        request = health_pb2.HealthCheckRequest()
        soon(lambda: check(request, timeout=SOON).status == health_pb2.HealthCheckResponse.NOT_SERVING)
        assert client.append_behaviors([Behavior("drained", item)]).inserted == 1
        assert live.query(user_id="drained", k=1).item_ids
        live.process.send_signal(signal.SIGTERM)  # a second one does not wait
        live.process.wait(SOON)


def test_no_process_outlives_a_parent_that_was_killed(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home, "--processes", "2") as started:
        soon(lambda: len(json.loads(home.server_file.read_text())["query_pids"]) == 2)
        said = json.loads(home.server_file.read_text())
        started.process.kill()
        for pid in (said["owner_pid"], *said["query_pids"]):
            soon(lambda pid=pid: not _alive(pid))  # type: ignore[misc]


def test_without_a_spare_one_a_new_process_takes_the_place(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home, "--processes", "2", "--no-spare") as started, ExitStack() as stack:
        running = Several(home, started.process.pid, stack)
        soon(lambda: len(running.pids) == 2)
        loaded, killed = _children(running.parent), running.pids[0]
        assert loaded == {running.owner_pid, *running.pids}
        os.kill(killed, signal.SIGKILL)
        soon(lambda: len(set(running.pids) - loaded) == 1)


def _alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and is not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--processes", "0"), "--processes is '0', not auto or a number in 1..256"),
        (("--processes", "some"), "--processes is 'some', not auto or a number in 1..256"),
        (("--processes", "2", "--host", "unix:/tmp/no.sock"), "needs a port that several processes share"),
    ],
)
def test_what_several_processes_cannot_do_is_said(
    small_home: Home, options: tuple[str, ...], said: str
) -> None:
    ended = run_server(small_home, *options)
    assert ended.returncode == 1
    assert said in ended.stderr


def test_a_process_that_cannot_start_ends_the_server(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    certificate = tmp_path / "certificate.pem"
    certificate.write_text("no certificate")
    ended = run_server(
        home, "--processes", "2", "--port", "0", "--tls-cert", str(certificate), "--tls-key", str(certificate)
    )
    assert ended.returncode == 1
    assert "the query process ended with code 1 before it answered" in ended.stderr
    assert str(certificate) in ended.stderr
    home.current_index.write_text("no-such-index\n")
    ended = run_server(home, "--processes", "2", "--port", "0")
    assert ended.returncode == 1
    assert "the owner process ended with code 1" in ended.stderr
    assert "no-such-index" in ended.stderr


def test_a_port_that_is_taken_is_refused(small_home: Home) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as a server of processes does
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run_server(small_home, "--processes", "2", "--port", str(port))
    assert ended.returncode == 1
    assert str(port) in ended.stderr
