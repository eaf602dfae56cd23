"""Calls that wait are answered together: each as alone, none held up by another that fails or is slow."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2

from server.app import running
from server.config import ServerConfig
from server.query import QueryPriority, retriever, subject_vectors
from server.query.query import Candidates, Query
from server.status import Failure
from server.wire import micro_batches, servicers
from store.home import Home
from tests.live_server import copy_home, soon
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

SECONDS = 20.0
QUERY = "/triptych.v1.Retrieval/Query"
Retrieve = Callable[[Any, Sequence[Query]], list[Candidates]]


@pytest.fixture(scope="module")
def address(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = copy_home(small_home, tmp_path_factory.mktemp("together") / "home")
    with running(ServerConfig(home, port=0, workers=2, queue=64, grace_seconds=1)) as address:
        yield address


@pytest.fixture
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as channel:
        yield channel


class Held:
    """Holds the first retrieval until it is let go, and notes the sizes of all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on, self.began, self.sizes = threading.Event(), threading.Event(), list[int]()
        for name in ("retrieve", "retrieve_together"):
            monkeypatch.setattr(retriever.Retriever, name, self._holding(getattr(retriever.Retriever, name)))

    def _holding(self, retrieve: Retrieve) -> Retrieve:
        def held(one: Any, queries: Sequence[Query]) -> list[Candidates]:
            self.sizes.append(len(queries))
            if len(self.sizes) == 1:
                self.began.set()
                assert self.go_on.wait(SECONDS)
            return retrieve(one, queries)

        return held


def facts(reply: pb.QueryResponse) -> bytes:
    """A reply without what differs each time."""
    reply.ClearField("query_id")
    reply.ClearField("timings")
    return reply.SerializeToString(deterministic=True)


def requests() -> list[pb.QueryRequest]:
    """Of every kind: small ones, and those that are answered apart."""
    user = "u00001"
    return [
        *(pb.QueryRequest(user_id=f"u{number:05d}", k=number + 1) for number in range(12)),
        pb.QueryRequest(user_id="nobody"),
        pb.QueryRequest(user_id=user, exclude_seen=False),
        pb.QueryRequest(user_id=user, view_weights=pb.ViewWeights(text=2.0)),
        pb.QueryRequest(user_id=user, explain=True),
        pb.QueryRequest(user_id=user, exact=True),
        pb.QueryRequest(user_id=user, diversity=0.5),
        pb.QueryRequest(user_id=user, target=pb.TARGET_USERS),
        pb.QueryRequest(text="a garden"),
    ]


def test_each_of_many_at_once_has_the_answer_that_it_has_alone(channel: grpc.Channel) -> None:
    stub = rpc.RetrievalStub(channel)
    alone = [facts(stub.Query(one, timeout=SECONDS)) for one in requests()]
    for _ in range(5):
        calls = [stub.Query.future(one, timeout=SECONDS) for one in requests()]
        assert [facts(call.result()) for call in calls] == alone


def test_those_that_wait_are_answered_together_and_no_more_than_the_bound(
    channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, stub = Held(monkeypatch), rpc.RetrievalStub(channel)
    first = stub.Query.future(pb.QueryRequest(user_id="u00001"), timeout=SECONDS)
    assert held.began.wait(SECONDS)
    arrived = count_arrivals(monkeypatch)
    waiting = [stub.Query.future(pb.QueryRequest(user_id=f"u{n:05d}"), timeout=SECONDS) for n in range(20)]
    soon(lambda: len(arrived) == 20)
    held.go_on.set()
    assert all(call.result().item_ids for call in [first, *waiting])
    assert held.sizes == [1, micro_batches.MOST_TOGETHER, 20 - micro_batches.MOST_TOGETHER]


def count_arrivals(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The calls whose message has come from here on."""
    arrived, receive = list[object](), micro_batches.UnaryCall.receive

    def counted(self: micro_batches.UnaryCall, put: Callable[[micro_batches.UnaryCall], None]) -> None:
        def both(call: micro_batches.UnaryCall) -> None:
            put(call)
            arrived.append(call)

        receive(self, both)

    monkeypatch.setattr(micro_batches.UnaryCall, "receive", counted)
    return arrived


def test_one_that_fails_does_not_fail_the_others(
    channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, stub = Held(monkeypatch), rpc.RetrievalStub(channel)
    first = stub.Query.future(pb.QueryRequest(user_id="u00001"), timeout=SECONDS)
    assert held.began.wait(SECONDS)
    arrived = count_arrivals(monkeypatch)
    user = pb.QueryRequest(user_id="u00002")
    good = [stub.Query.future(user, timeout=SECONDS) for _ in range(2)]
    moved = stub.Query.future(pb.QueryRequest(user_id="u00003", index_id="another"), timeout=SECONDS)
    wrong = stub.Query.future(pb.QueryRequest(user_id="u00003", k=5_000), timeout=SECONDS)
    short = stub.Query.future(pb.QueryRequest(vector=pb.Vector(values=[1.0])), timeout=SECONDS)
    raw = channel.unary_unary(QUERY).future(b"\xff\xff", timeout=SECONDS)
    soon(lambda: len(arrived) == 6)
    held.go_on.set()
    assert first.result().item_ids
    assert len({facts(call.result()) for call in good}) == 1
    codes = [call.code() for call in (moved, wrong, short, raw)]
    assert codes == [grpc.StatusCode.FAILED_PRECONDITION, *[grpc.StatusCode.INVALID_ARGUMENT] * 3]
    assert "another" in moved.details()


def test_slow_ones_hold_nobody(channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    held, stub = Held(monkeypatch), rpc.RetrievalStub(channel)
    slow = stub.Query.future(pb.QueryRequest(text="a garden"), timeout=SECONDS)
    assert held.began.wait(SECONDS)
    assert stub.Query(pb.QueryRequest(user_id="u00001"), timeout=SECONDS).item_ids
    assert not slow.done()
    held.go_on.set()
    assert slow.result().item_ids


def test_who_has_too_many_events_holds_nobody(channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    stub, many = rpc.RetrievalStub(channel), pb.QueryRequest(user_id="u00150")
    on, make = list[str](), subject_vectors.all_raw_views

    def noted(*arguments: Any) -> Any:
        on.append(threading.current_thread().name)
        return make(*arguments)

    monkeypatch.setattr(subject_vectors, "all_raw_views", noted)
    monkeypatch.setattr(subject_vectors, "_MOST_EVENTS", 2)
    new = facts(stub.Query(many, timeout=SECONDS))
    assert [name.rpartition("_")[0] for name in on] == ["queries"]  # a thread of the pool
    assert facts(stub.Query(many, timeout=SECONDS)) == new
    assert len(on) == 1  # kept since


def test_a_micro_batch_that_breaks_is_answered_one_by_one(
    channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> list[bytes | Failure | None]:
        raise RuntimeError("broken")

    monkeypatch.setattr(servicers, "_answer_small", broken)
    stub = rpc.RetrievalStub(channel)
    assert stub.Query(pb.QueryRequest(user_id="u00001"), timeout=SECONDS).item_ids
    assert "answered one by one" in caplog.text
    monkeypatch.undo()
    assert stub.Query(pb.QueryRequest(user_id="u00001"), timeout=SECONDS).item_ids


def test_a_call_without_a_message_is_refused(channel: grpc.Channel) -> None:
    call = channel.stream_unary(QUERY)
    with pytest.raises(grpc.RpcError) as caught:
        call(iter(()), timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]


def test_a_call_that_is_cancelled_before_its_message_comes_holds_no_place(channel: grpc.Channel) -> None:
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(SECONDS)
        yield b""

    calls = [channel.stream_unary(QUERY).future(nothing()) for _ in range(66)]  # as many as may wait and run
    stub = rpc.RetrievalStub(channel)
    full = lambda: code_of(lambda: stub.Query(pb.QueryRequest(user_id="u00001"), timeout=SECONDS))  # noqa: E731
    soon(lambda: full() is grpc.StatusCode.RESOURCE_EXHAUSTED)
    for call in calls:
        call.cancel()
    never.set()
    soon(lambda: full() is grpc.StatusCode.OK)


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()  # type: ignore[attr-defined]
        return code
    return grpc.StatusCode.OK


def test_a_server_that_stops_under_load_ends(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with ThreadPoolExecutor(8) as pool, ExitStack() as server:
        address = server.enter_context(running(ServerConfig(home, port=0, grace_seconds=5)))
        stub, request = rpc.RetrievalStub(grpc.insecure_channel(address)), pb.QueryRequest(user_id="u00001")
        assert stub.Query(request, timeout=SECONDS).item_ids
        asked = [pool.submit(code_of, lambda: stub.Query(request, timeout=SECONDS)) for _ in range(256)]
        asked[0].result(SECONDS)
        server.close()
        codes = [one.result(SECONDS) for one in asked]
    # CANCELLED is what gRPC answers those whom it had not handed over yet.
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


class Waiting:
    """A call that waits, with so many seconds until its deadline."""

    request, wanted = "question", True

    def __init__(self, seconds_left: float) -> None:
        self.seconds_left = seconds_left
        self.outcome: bytes | Failure | None = None

    def send(self, reply: bytes) -> None:
        self.outcome = reply

    fail = send


def test_a_call_that_cannot_be_answered_in_time_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    now, computed = [0.0], list[int]()
    monkeypatch.setattr(micro_batches.time, "perf_counter", lambda: now[0])

    def answer(requests: Sequence[Any]) -> list[bytes | Failure | None]:
        computed.append(len(requests))
        now[0] += 1.0
        return [b"answer"] * len(requests)

    batcher = micro_batches.CallBatcher(answer, lambda _: pytest.fail("apart"), "test", QueryPriority())
    ample = [Waiting(60.0) for _ in range(100)]
    for call in ample:
        batcher._answer_all([call])  # type: ignore[list-item]
    assert {call.outcome for call in ample} == {b"answer"}

    hopeless, hopeful = Waiting(0.9), Waiting(1.1)
    batcher._answer_all([hopeless, hopeful])  # type: ignore[list-item]
    assert hopeful.outcome == b"answer"
    assert isinstance(hopeless.outcome, Failure)
    assert (hopeless.outcome.reason, computed[-1]) == ("TOO_LATE", 1)

    again = [Waiting(0.5) for _ in range(20)]  # refusals are doubted, so that one of them is tried
    for call in again:
        batcher._answer_all([call])  # type: ignore[list-item]
    assert b"answer" in {call.outcome for call in again}
    batcher.shutdown()


def test_what_was_waited_for_in_vain_is_not_how_long_answers_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now, gone = [0.0], Failure(code_pb2.UNAVAILABLE, "INDEX_UNREACHABLE", "the index does not answer")
    monkeypatch.setattr(micro_batches.time, "perf_counter", lambda: now[0])

    def answer(requests: Sequence[Any]) -> list[bytes | Failure | None]:
        now[0] += 10.0
        return [gone] * len(requests)

    batcher = micro_batches.CallBatcher(answer, lambda _: pytest.fail("apart"), "test", QueryPriority())
    asked = [Waiting(60.0) for _ in range(20)] + [Waiting(0.5)]
    for call in asked:
        batcher._answer_all([call])  # type: ignore[list-item]
    assert {call.outcome for call in asked} == {gone}  # the last one is told the reason, too
    batcher.shutdown()


def test_who_writes_waits_for_calls_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retriever, "_LONGEST_PAUSE_SECONDS", SECONDS)
    priority, began, go_on = QueryPriority(), threading.Event(), threading.Event()

    def answer(requests: Sequence[Any]) -> list[bytes | Failure | None]:
        began.set()
        assert go_on.wait(SECONDS)
        return [b"answer"] * len(requests)

    batcher = micro_batches.CallBatcher(answer, lambda _: pytest.fail("apart"), "test", priority)
    first, second = Waiting(60.0), Waiting(60.0)
    batcher._take(first)  # type: ignore[arg-type]
    assert began.wait(SECONDS)
    batcher._take(second)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as pool:
        paused = pool.submit(lambda: (priority.pause(), first.outcome, second.outcome))
        go_on.set()
        assert paused.result(SECONDS) == (None, b"answer", b"answer")  # at once, if nobody were counted
    priority.pause()  # nobody is counted any more
    batcher.shutdown()
