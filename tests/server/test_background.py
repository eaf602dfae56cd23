"""Background threads that fail: callers get answers, later writes too, health tells, nothing is lost."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from encoder.text.encoder import TextEncoder
from scripts.doctor.check import State
from scripts.doctor.store import store_checks
from server import cancellation
from server.app import running
from server.cancellation import AbandonedError
from server.config import ServerConfig
from server.live.commits import CommitListener
from server.live.items import LiveItems
from server.live.texts import LiveTexts
from server.live.users import LiveUsers
from server.live.writer import GroupCommit, StoppingError
from server.supervisor import Supervisor, Worker
from store.home import Home
from store.state.state import StateDraft, UserState
from store.store import Store
from store.writes.request import BehaviorRow, Behaviors, Request, WriteResult, WrittenChange
from store.writes.writer import Writer
from tests.live_server import copy_home, soon
from triptych_client import Behavior, CallError, Client, Item, Text

INGEST = "triptych.v1.Ingest"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class FaultError(Exception):
    """Whatever goes wrong."""


class Fault:
    """Makes methods raise while it is on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.on = False
        self.error: type[BaseException] = FaultError
        self.only = ""  # where it says something: calls whose arguments hold it

    def on_calls_of(self, kind: type, name: str) -> None:
        real = getattr(kind, name)

        def call(*args: Any, **options: Any) -> Any:
            if self.on and self.only in repr(args[1:]):
                raise self.error
            return real(*args, **options)

        self._patch.setattr(kind, name, call)


class WatchedHealth(health.HealthServicer):
    """Health whose changes can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()
        self.said: dict[str, list[int]] = {}

    def set(self, service: str, status: Any) -> None:
        super().set(service, status)
        with self.changed:
            said = self.said.setdefault(service, [])
            if not said or said[-1] != status:
                said.append(status)
            self.changed.notify_all()

    def wait_for(self, service: str, status: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.said.get(service, [None])[-1] == status, 30)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    return Fault(monkeypatch)


@pytest.fixture
def told() -> WatchedHealth:
    return WatchedHealth()


@pytest.fixture
def supervisor(told: WatchedHealth) -> Supervisor:
    supervisor = Supervisor(told)
    supervisor.ready()
    return supervisor


class Pen:
    """Writes nothing, as often as it is asked to."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.requests: list[Request] = []

    def write(self, requests: list[Request]) -> tuple[list[WriteResult], WrittenChange]:
        self.groups.append(len(requests))
        self.requests += requests
        return [WriteResult(inserted=1) for _ in requests], WrittenChange()

    def check(self) -> None:
        pass


REQUEST = Request(Behaviors([BehaviorRow("ann", "i1")]))


@pytest.mark.parametrize("error", [FaultError, MemoryError, SystemExit, KeyboardInterrupt])
def test_what_follows_a_commit_raises_and_the_write_is_told_as_written(
    supervisor: Supervisor, told: WatchedHealth, fault: Fault, error: type[BaseException]
) -> None:
    caught_up = []
    fault.error, fault.on = error, True

    class Follower:
        def changed(self, _: WrittenChange) -> None:
            pass

    fault.on_calls_of(Follower, "changed")
    commit = GroupCommit(Pen(), Follower().changed, lambda: caught_up.append(1), supervisor)  # type: ignore[arg-type]
    with commit:
        assert commit.submit(REQUEST).result(10) == WriteResult(inserted=1)
        assert caught_up == [1]  # by the time the caller is told
        fault.on = False
        assert commit.submit(REQUEST).result(10) == WriteResult(inserted=1)
        assert commit.alone(lambda: 5) == 5
    assert told.said[INGEST] == [NOT_SERVING, SERVING, NOT_SERVING, SERVING]
    assert supervisor.workers()[0].failures == 1
    assert supervisor.workers()[0].error == error.__name__


def test_a_writer_that_cannot_catch_up_is_not_serving_until_it_can(
    supervisor: Supervisor, told: WatchedHealth, fault: Fault
) -> None:
    class Follower:
        def changed(self, _: WrittenChange) -> None:
            pass

        def catch_up(self) -> None:
            pass

    fault.on_calls_of(Follower, "changed")
    fault.on_calls_of(Follower, "catch_up")
    follower = Follower()
    fault.on = True
    with GroupCommit(Pen(), follower.changed, follower.catch_up, supervisor) as commit:  # type: ignore[arg-type]
        for _ in range(3):
            assert commit.submit(REQUEST).result(10) == WriteResult(inserted=1)
        told.wait_for(INGEST, NOT_SERVING)
        told.wait_for("triptych.worker.writer", NOT_SERVING)
        told.wait_for("triptych.v1.Retrieval", SERVING)
        fault.on = False
        told.wait_for(INGEST, SERVING)  # without another write
        told.wait_for("triptych.worker.writer", SERVING)


def test_a_writer_that_cannot_write_answers_and_recovers_by_itself(
    supervisor: Supervisor, told: WatchedHealth, fault: Fault
) -> None:
    class Broken(Pen):
        def write(self, requests: list[Request]) -> tuple[list[WriteResult], WrittenChange]:
            return super().write(requests)

        def check(self) -> None:
            super().check()

    fault.on_calls_of(Broken, "write")
    fault.on_calls_of(Broken, "check")
    fault.on = True
    with GroupCommit(Broken(), lambda _: None, lambda: None, supervisor) as commit:  # type: ignore[arg-type]
        for _ in range(2):
            with pytest.raises(FaultError):
                commit.submit(REQUEST).result(10)
        told.wait_for(INGEST, NOT_SERVING)
        fault.on = False
        told.wait_for(INGEST, SERVING)
        assert commit.submit(REQUEST).result(10) == WriteResult(inserted=1)


@contextmanager
def waiting(commit: GroupCommit) -> Iterator[threading.Event]:
    """Keep the writer in a job until the event is set, so that what is submitted meanwhile waits."""
    gate = threading.Event()
    job = threading.Thread(target=commit.alone, args=[lambda: gate.wait(10)])
    job.start()
    soon(lambda: not commit._queue and job.is_alive())
    try:
        yield gate
    finally:
        gate.set()
        job.join()


def test_a_request_that_fails_alone_is_not_the_writer_s_fault(
    supervisor: Supervisor, told: WatchedHealth, fault: Fault
) -> None:
    fault.only, fault.on = "'bad'", True
    fault.on_calls_of(Pen, "write")
    with GroupCommit(Pen(), lambda _: None, lambda: None, supervisor) as commit:  # type: ignore[arg-type]
        bad = Request(Behaviors([BehaviorRow("ann", "bad")]))
        with waiting(commit):
            results = [commit.submit(one) for one in (REQUEST, bad, REQUEST)]
        with pytest.raises(FaultError):
            results[1].result(10)
        assert results[0].result(10) == results[2].result(10) == WriteResult(inserted=1)
    assert told.said[INGEST] == [NOT_SERVING, SERVING]  # before and since it is ready


def test_what_its_caller_no_longer_waits_for_is_not_written(supervisor: Supervisor) -> None:
    pen = Pen()
    with GroupCommit(pen, lambda _: None, lambda: None, supervisor) as commit:  # type: ignore[arg-type]
        with waiting(commit):
            cancelled, kept = commit.submit(REQUEST), commit.submit(REQUEST)
            assert cancelled.cancel()
        assert kept.result(10) == WriteResult(inserted=1)
    assert pen.groups == [1]


def test_requests_are_written_in_their_order_and_in_transactions_of_bounded_rows(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.live.writer.MOST_ROWS", 3)
    pen, ran = Pen(), []
    requests = [Request(Behaviors([BehaviorRow(f"u{n}", "i1")])) for n in range(7)]
    with GroupCommit(pen, lambda _: None, lambda: None, supervisor) as commit:  # type: ignore[arg-type]
        with waiting(commit):
            results = [commit.submit(one) for one in requests[:5]]
            job = threading.Thread(target=commit.alone, args=[lambda: ran.append(len(pen.requests))])
            job.start()
            soon(lambda: len(commit._queue) == 6)
            results += [commit.submit(one) for one in requests[5:]]
        assert all(result.result(10) == WriteResult(inserted=1) for result in results)
        job.join()
    assert pen.requests == requests
    assert pen.groups == [3, 2, 2]
    assert ran == [5]  # the job had its turn between two transactions


def test_what_waits_when_the_writer_stops_is_written(supervisor: Supervisor) -> None:
    pen = Pen()
    commit = GroupCommit(pen, lambda _: None, lambda: None, supervisor)  # type: ignore[arg-type]
    with commit, waiting(commit) as gate:
        result = commit.submit(REQUEST)
        stop = threading.Thread(target=commit.__exit__)
        stop.start()
        soon(lambda: commit.stopping)
        with pytest.raises(StoppingError):
            commit.submit(REQUEST)
        gate.set()
        stop.join()
        assert result.result(0) == WriteResult(inserted=1)
    assert pen.requests == [REQUEST]


class EndedCall:
    """The context of a call whose caller goes away."""

    def add_callback(self, end: Any) -> bool:
        self.end = end
        return True

    def time_remaining(self) -> float:
        return 60.0


def test_a_job_whose_caller_goes_away_before_its_turn_is_not_run(supervisor: Supervisor) -> None:
    ran: list[int] = []
    context: Any = EndedCall()
    errors: list[BaseException] = []

    def call() -> None:
        cancellation.begin(context)
        try:
            commit.alone(lambda: ran.append(1))
        except AbandonedError as error:
            errors.append(error)

    with GroupCommit(Pen(), lambda _: None, lambda: None, supervisor) as commit:  # type: ignore[arg-type]
        with waiting(commit):
            caller = threading.Thread(target=call)
            caller.start()
            soon(lambda: len(commit._queue) == 1)
            context.end()
            caller.join()
        assert commit.alone(lambda: len(ran)) == 0
    assert len(errors) == 1


def test_a_result_that_does_not_fit_its_group_leaves_nobody_waiting(supervisor: Supervisor) -> None:
    class Forgetful(Pen):
        def write(self, requests: list[Request]) -> tuple[list[WriteResult], WrittenChange]:
            return [], WrittenChange()

    with GroupCommit(Forgetful(), lambda _: None, lambda: None, supervisor) as commit:  # type: ignore[arg-type]
        for _ in range(2):
            with pytest.raises(ValueError, match="zip"):
                commit.submit(REQUEST).result(10)


def test_a_worker_repeats_what_failed_ever_more_rarely(
    supervisor: Supervisor, told: WatchedHealth, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, done = [], threading.Event()

    class Failing(Worker):
        def _has_work(self) -> bool:
            return False

        def _work(self) -> None:
            raise AssertionError

        def _catch_up(self) -> bool:
            tried.append(self._pause)
            if len(tried) < 4:
                raise FaultError
            done.set()
            return True

    monkeypatch.setattr("server.supervisor._FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("server.supervisor._LONGEST_PAUSE_S", 0.004)
    with Failing("w", supervisor) as worker:
        worker.failed(FaultError())
        assert done.wait(10)
        told.wait_for("triptych.worker.w", SERVING)
    assert tried == [0.002, 0.004, 0.004, 0.004]
    assert (worker.state().failures, worker.state().failing) == (4, False)


def test_health_tells_nothing_as_serving_before_an_index_does(told: WatchedHealth) -> None:
    supervisor = Supervisor(told)
    assert {said[-1] for said in told.said.values()} == {NOT_SERVING}
    supervisor.ready()
    assert {said[-1] for said in told.said.values()} == {SERVING}


def test_a_state_that_fails_after_the_commit_does_not_undo_it(tmp_path: Path, fault: Fault) -> None:
    """The store has committed: the request is written once, told so, and in the state of users."""
    with Store.open(tmp_path / "views.duckdb") as store, UserState.open(tmp_path / "state") as state:
        with store.writing() as cursor:
            cursor.execute("INSERT INTO data.items (item_id) VALUES ('i1')")
        writer = Writer(store, state)
        writer.check()
        fault.on_calls_of(StateDraft, "set_commit_id")
        fault.on = True
        request = Request(REQUEST.content, "r1", "d")
        (done,), change = writer.write([request])
        assert done == WriteResult(inserted=1)
        assert isinstance(change.failed, FaultError)
        assert not len(state.users(["ann"])[0].history)
        fault.on = False
        assert writer.write([request])[0] == [WriteResult(inserted=1, repeated=True)]
        assert len(state.users(["ann"])[0].history) == len(store.user_views("ann").history) == 1
        fault.on = True
        with pytest.raises(FaultError):
            writer.check()
        fault.on = False
        writer.check()
        assert state.commit_id == store.last_commit.commit_id


def test_a_failed_state_is_caught_up_before_the_caller_is_told(tmp_path: Path, fault: Fault) -> None:
    from store.state.rebuild import bring_up_to_date

    with Store.open(tmp_path / "views.duckdb") as store, UserState.open(tmp_path / "state") as state:
        with store.writing() as cursor:
            cursor.execute("INSERT INTO data.items (item_id) VALUES ('i1')")
        writer = Writer(store, state)
        writer.check()
        fault.on_calls_of(StateDraft, "set_commit_id")

        def catch_up() -> None:
            fault.on = False
            bring_up_to_date(store, state)

        with GroupCommit(writer, lambda _: None, catch_up) as commit:
            fault.on = True
            assert commit.submit(REQUEST).result(10) == WriteResult(inserted=1)
            assert len(state.users(["ann"])[0].history) == 1


@pytest.fixture
def home(small_home: Home, tmp_path: Path) -> Home:
    return copy_home(small_home, tmp_path / "home")


@pytest.fixture
def client(home: Home) -> Iterator[Client]:
    with running(ServerConfig(home, port=0)) as address, Client(address, timeout=20) as client:
        yield client


def wait_for(client: Client, service: str, status: int) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    for reply in health_pb2_grpc.HealthStub(client.channel).Watch(request, timeout=30):
        if reply.status == status:
            return


def failing(client: Client) -> list[str]:
    return [worker.name for worker in client.status().workers if worker.failing]


def treatise(item_id: str, text: str = "a treatise on zebra husbandry") -> Item:
    return Item(item_id, None, text, "treatise", {}, available=True, updated_at=None)


def treatises(client: Client) -> list[str]:
    return [name for name in client.query(text="zebra", k=1000).item_ids if name.startswith("new")]


def test_every_worker_is_told_of(client: Client) -> None:
    workers = client.status().workers
    assert {worker.name for worker in workers} == {"writer", "texts", "items", "users", "forgetting"}
    assert not any(worker.failing or worker.failures or worker.error for worker in workers)
    for worker in workers:
        wait_for(client, f"triptych.worker.{worker.name}", SERVING)


def test_texts_that_cannot_be_encoded_stop_no_others_and_come_later(client: Client, fault: Fault) -> None:
    fault.only, fault.on = "poison", True
    fault.on_calls_of(TextEncoder, "encode")
    client.append_texts([Text("sick", "words of poison"), Text("well", "words of honey")])
    wait_for(client, "triptych.worker.texts", NOT_SERVING)
    assert failing(client) == ["texts"]
    soon(lambda: bool(client.query(user_id="well", k=1).views_used))
    assert not client.query(user_id="sick", k=1).views_used
    client.append_texts([Text("later", "other words")])
    soon(lambda: bool(client.query(user_id="later", k=1).views_used))
    wait_for(client, INGEST, SERVING)
    fault.on = False
    wait_for(client, "triptych.worker.texts", SERVING)
    assert client.query(user_id="sick", k=1).views_used
    assert failing(client) == []


def test_items_that_cannot_be_put_come_later(client: Client, fault: Fault) -> None:
    for method in ("_put", "_catch_up"):
        fault.on_calls_of(LiveItems, method)
    fault.on = True
    assert client.put_items([treatise("new-1")]).inserted == 1
    wait_for(client, "triptych.worker.items", NOT_SERVING)
    assert failing(client) == ["items"]
    assert client.put_items([treatise("new-2")]).inserted == 1
    assert treatises(client) == []
    fault.on = False
    wait_for(client, "triptych.worker.items", SERVING)
    soon(lambda: sorted(treatises(client)) == ["new-1", "new-2"])


def test_users_that_cannot_be_encoded_stop_no_others_and_come_later(client: Client, fault: Fault) -> None:
    item_id = client.query(text="stars", k=1).item_ids[0]
    people = ("sick", "well", "later")

    encoded: list[str] = []
    real = LiveUsers._encode

    def encode(self: LiveUsers, user_ids: list[str]) -> None:
        real(self, user_ids)
        encoded.extend(user_ids)

    fault._patch.setattr(LiveUsers, "_encode", encode)
    fault.on_calls_of(LiveUsers, "_encode")
    fault.only, fault.on = "sick", True
    client.append_behaviors([Behavior(user_id, item_id) for user_id in people[:2]])
    wait_for(client, "triptych.worker.users", NOT_SERVING)
    client.append_behaviors([Behavior(people[2], item_id)])
    soon(lambda: {"well", "later"} <= set(encoded))
    assert "sick" not in encoded
    fault.on = False
    wait_for(client, "triptych.worker.users", SERVING)
    assert "sick" in encoded


def test_a_followed_commit_that_fails_is_caught_up_with(client: Client, fault: Fault) -> None:
    fault.on_calls_of(LiveItems, "committed")
    fault.on_calls_of(LiveTexts, "_add")
    fault.on = True
    assert client.put_items([treatise("new-1")]).inserted == 1
    assert client.append_texts([Text("writes", "words of honey")]).inserted == 1
    soon(lambda: treatises(client) == ["new-1"])
    soon(lambda: bool(client.query(user_id="writes", k=1).views_used))
    assert client.delete_items(["new-1"]).updated == 1
    soon(lambda: treatises(client) == [])
    assert {worker.name: worker.failures for worker in client.status().workers}["writer"] == 3


def test_an_import_whose_following_fails_is_told_as_done(
    client: Client, fault: Fault, tmp_path: Path, home: Home
) -> None:
    item_id = client.query(text="stars", k=1).item_ids[0]
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "behaviors.csv").write_text(f"user_id,item_id\nimported,{item_id}\n")
    (folder / "items.csv").write_text("item_id,text,kind\nnew-1,zebra husbandry,treatise\n")
    for method in ("imported", "catch_up"):
        fault.on_calls_of(CommitListener, method)
    fault.on = True
    report = client.import_folder(folder)
    assert {one.table: one.inserted for one in report.tables} == {"behaviors": 1, "items": 1}
    wait_for(client, INGEST, NOT_SERVING)
    fault.on = False
    wait_for(client, INGEST, SERVING)
    soon(lambda: treatises(client) == ["new-1"])
    assert client.query(user_id="imported", k=1).views_used


def test_a_server_whose_store_fails_answers_and_comes_back(client: Client, fault: Fault, home: Home) -> None:
    fault.error = sqlite3.OperationalError  # one that nobody expects
    for method in ("write", "check"):
        fault.on_calls_of(Writer, method)
    fault.on = True
    item_id = client.query(text="stars", k=1).item_ids[0]
    with pytest.raises(CallError) as refused:
        client.append_behaviors([Behavior("ann", item_id)])
    assert refused.value.code is grpc.StatusCode.INTERNAL
    wait_for(client, INGEST, NOT_SERVING)
    wait_for(client, "triptych.v1.Retrieval", SERVING)
    assert failing(client) == ["writer"]
    (store,) = (check for check in store_checks(home) if check.name == "store")
    assert (store.state, "repeating what fails: writer (OperationalError)" in store.found) == (
        State.FAILED,
        True,
    )
    assert client.query(text="stars", k=1).item_ids
    fault.on = False
    wait_for(client, INGEST, SERVING)
    assert client.append_behaviors([Behavior("ann", item_id)]).inserted == 1
