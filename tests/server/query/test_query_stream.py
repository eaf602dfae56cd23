"""Options and streams through a real server and the client."""

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from store.home import Home
from tests.live_server import SOON, copy_home, refusal, server
from tests.live_server import Client as Live
from triptych_client import AsyncClient, CallError, Client, QueryFields
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

USER = "u00001"


@pytest.fixture(scope="module")
def live(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    home = copy_home(small_home, tmp_path_factory.mktemp("stream") / "home")
    with server(home, "--workers", "1") as live:  # and so one stream
        yield live


@pytest.fixture
def client(live: Live) -> Iterator[Client]:
    with Client(live.address) as client:
        yield client


OPTIONS: list[QueryFields] = [
    {"user_id": USER},
    {"user_id": USER, "view_weights": pb.ViewWeights(history=2, social=1)},
    {"user_id": USER, "text_query": "jazz", "text_query_weight": 0.7, "explain": True, "k": 4},
    {"user_id": "u-nobody", "text_query": "jazz"},
    {"text": "gardens", "diversity": 0.4, "exact": True, "k": 30},
    {"item_id": "", "k": 3},
    {"user_id": USER, "min_score": 0.01, "explain": True},
    {"vector": [0.5] * 32, "diversity": 0.0},
    {"vector": [0.5] * 3},
    {"item_id": "no such item"},
    {"user_id": USER, "diversity": 2.0},
    {"user_id": USER, "k": 2},
]


def ask(client: Client, fields: QueryFields) -> pb.QueryResponse | CallError:
    try:
        return client.query(**fields)
    except CallError as error:
        return error


def same(ours: pb.QueryResponse | CallError, theirs: pb.QueryResponse | CallError) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, CallError):
        assert isinstance(theirs, CallError)
        assert (ours.code, ours.reason, ours.message) == (theirs.code, theirs.reason, theirs.message)
        return
    for reply in (ours, theirs):
        reply.query_id = ""
        reply.ClearField("timings")
    assert ours == theirs


def test_a_stream_answers_each_request_as_query_does_and_goes_on_after_errors(client: Client) -> None:
    answers = list(client.query_stream(OPTIONS))
    assert len(answers) == len(OPTIONS)
    for fields, answer in zip(OPTIONS, answers, strict=True):
        same(answer, ask(client, fields))
    errors = [answer for answer in answers if isinstance(answer, CallError)]
    assert [error.reason for error in errors] == [
        *["INVALID_REQUEST"] * 2,
        "ITEM_NOT_FOUND",
        "INVALID_REQUEST",
    ]
    assert isinstance(answers[-1], pb.QueryResponse)


def test_shares_of_every_option_sum_to_the_scores(client: Client) -> None:
    for fields in OPTIONS:
        answer = ask(client, fields)
        if isinstance(answer, CallError) or "vector" in fields:
            continue
        arrays = [
            list(array) or [0.0] * len(answer.item_ids)
            for array in (
                answer.history_shares,
                answer.text_shares,
                answer.social_shares,
                answer.query_shares,
                answer.prior_shares,
            )
        ]
        for score, *shares in zip(answer.scores, *arrays, strict=True):
            assert sum(shares) == pytest.approx(score, rel=1e-5, abs=1e-6)
        assert bool(answer.query_shares) == ("text_query" in fields)
        assert len(answer.explanations) == (len(answer.item_ids) if fields.get("explain") else 0)
        assert answer.exact


def test_an_empty_stream_has_no_answers(client: Client) -> None:
    assert list(client.query_stream([])) == []


def test_a_stream_answers_while_it_is_open(client: Client) -> None:
    asked: queue.Queue[QueryFields | None] = queue.Queue()
    answers = client.query_stream(iter(asked.get, None))
    for k in (1, 2, 3):
        asked.put({"user_id": USER, "k": k})
        answer = next(answers)
        assert isinstance(answer, pb.QueryResponse)
        assert len(answer.item_ids) == k
    asked.put(None)
    assert list(answers) == []


def test_a_client_that_does_not_read_is_not_read_from(live: Live, client: Client) -> None:
    sent = 0
    stop = threading.Event()

    def endless() -> Iterator[pb.QueryRequest]:
        nonlocal sent
        while not stop.is_set():
            sent += 1
            yield pb.QueryRequest(user_id=USER, k=1000, text_query="x" * 5_000, text_query_weight=0.0)

    call = rpc.RetrievalStub(live.channel).QueryStream(endless())
    next(call)
    held = settled(lambda: sent)
    assert held < 2_000
    for _ in range(20):
        next(call)
    stop.set()
    call.cancel()
    wait_for_a_place(client)


def settled(value: Callable[[], int]) -> int:
    """The value once it has not changed for a second."""
    last, since = value(), time.monotonic()
    while time.monotonic() < since + 1.0:
        time.sleep(0.05)
        if value() != last:
            last, since = value(), time.monotonic()
    return last


def test_so_many_streams_may_run_and_their_places_come_back(live: Live, client: Client) -> None:
    stub = rpc.RetrievalStub(live.channel)
    hold = threading.Event()

    def slow() -> Iterator[pb.QueryRequest]:
        yield pb.QueryRequest(user_id=USER)
        hold.wait(SOON)

    first = stub.QueryStream(slow())
    next(first)
    refused = refusal(lambda: next(stub.QueryStream(iter([pb.QueryRequest(user_id=USER)]))))
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
    assert client.query(user_id=USER).item_ids  # other calls go on
    first.cancel()  # the client goes away
    hold.set()
    wait_for_a_place(client)


def wait_for_a_place(client: Client) -> None:
    """Until a stream is let in again: one that the client has left ends soon, not at once."""
    deadline = time.monotonic() + SOON
    while True:
        try:
            assert len(list(client.query_stream([{"user_id": USER}]))) == 1
        except CallError as error:
            if error.reason != "TOO_MANY_STREAMS" or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def test_the_stream_of_an_event_loop(live: Live, client: Client) -> None:
    async def collect() -> list[pb.QueryResponse | CallError]:
        async with AsyncClient(live.address) as aio:
            return [answer async for answer in aio.query_stream(itertools.chain(OPTIONS[:2], OPTIONS[-3:]))]

    answers = asyncio.run(collect())
    for fields, answer in zip([*OPTIONS[:2], *OPTIONS[-3:]], answers, strict=True):
        same(answer, ask(client, fields))


def test_a_batch_takes_the_same_options(client: Client) -> None:
    good = [fields for fields in OPTIONS if not isinstance(ask(client, fields), CallError)]
    for fields, reply in zip(good, client.query_batch(good), strict=True):
        alone = ask(client, fields)
        assert isinstance(alone, pb.QueryResponse)
        assert reply.scores == pytest.approx(alone.scores, rel=1e-5, abs=1e-6)
        assert len(reply.explanations) == len(alone.explanations)
        assert list(reply.views_used) == list(alone.views_used)


def test_the_command_line_asks_with_every_option(
    live: Live, run: Callable[..., tuple[int, str, str]]
) -> None:
    words = ["query", USER, "--address", live.address, "-k", 3]
    more = ["--view-weights", "1,0.5,2", "--text-query", "jazz", "--text-query-weight", 0.4]
    code, out, err = run(*words, *more, "--min-score", -9, "--diversity", 0.5, "--explain", "--exact")
    assert (code, err) == (0, "")
    assert "text query" in out
    assert "owed to" in out
    code, out, err = run(*words)
    assert code == 0
    assert "text query" not in out
    code, _, err = run(*words, "--view-weights", "1,2")
    assert code == 2
    assert "'1,2' is not three numbers like 1,0.5,0" in err


def test_the_command_line_asks_for_users(live: Live, run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run("query", USER, "--address", live.address, "-k", 3, "--users")
    assert (code, err) == (0, "")
    assert "┃ user " in out
    assert "prior" not in out  # no shares: a user is owed to no view
    assert run("query", "--text", "jazz", "--users", "--address", live.address, "--explain")[0] == 1
