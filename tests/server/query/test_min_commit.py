"""A query that names a commit: its answer knows of it, or there is none."""

import asyncio
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from server.query import retriever
from tests.live_server import SOON, Client, refusal, server
from tests.stored_home import unpack
from triptych_client import AsyncClient, Behavior, CallError, Consent, Text, Tie
from triptych_client import Client as TypedClient
from triptych_client.pb.v1 import triptych_pb2 as pb

USER, OTHER = "u01", "u02"
STORED = Path(__file__).parents[2] / "golden" / "home-1"
NEVER = 2**63  # a commit that no server comes to


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with server(unpack(STORED, tmp_path_factory.mktemp("commits") / "home")) as client:
        yield client


@pytest.fixture
def typed(running: Client) -> Iterator[TypedClient]:
    with TypedClient(running.address, timeout=SOON) as client:
        yield client


def test_each_write_returns_a_commit_that_a_query_can_name(typed: TypedClient) -> None:
    (item,) = typed.query(user_id=USER, k=1).item_ids
    replies = [
        typed.append_behaviors([Behavior(USER, item)]),
        typed.append_texts([Text(USER, "a text of ours")]),
        typed.put_friends([Tie(USER, OTHER)]),
        typed.set_consent([Consent(USER, "S", use=True)]),
        typed.stream_behaviors([[Behavior(USER, item, "view")], [Behavior(USER, item, "like")]]),
        typed.erase_user("nobody"),
    ]
    commits = [reply.commit for reply in replies]
    assert commits == sorted(commits)
    assert commits[0] > 0
    for commit in commits:
        assert item not in typed.query(user_id=USER, min_commit=commit).item_ids
    assert typed.status().process.commit >= commits[-1]


def test_a_commit_that_does_not_come_is_no_answer(running: Client) -> None:
    assert math.isclose(retriever._LONGEST_WAIT_SECONDS, 2.0)  # as the API says
    query = pb.QueryRequest(user_id=USER, min_commit=NEVER)
    calls: list[Callable[[], object]] = [
        lambda: running.retrieval.Query(query, timeout=SOON),
        lambda: running.retrieval.QueryBatch(
            pb.QueryBatchRequest(requests=[pb.QueryRequest(user_id=USER), query]), timeout=SOON
        ),
        lambda: running.retrieval.EncodeUser(
            pb.EncodeUserRequest(user_id=USER, min_commit=NEVER), timeout=SOON
        ),
        lambda: running.retrieval.Predict(
            pb.PredictRequest(user_id=USER, item_ids=["i"], min_commit=NEVER), timeout=SOON
        ),
    ]
    for call in calls:
        found = refusal(call)
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "COMMIT_NOT_REACHED")
        assert str(NEVER) in found.message


def test_one_that_waits_holds_up_nobody_else(running: Client) -> None:
    waiting = running.retrieval.Query.future(pb.QueryRequest(user_id=USER, min_commit=NEVER), timeout=SOON)
    answers = [running.query(user_id=USER, k=3) for _ in range(5)]
    assert not waiting.done()
    assert all(len(answer.item_ids) == 3 for answer in answers)
    assert waiting.code() is grpc.StatusCode.UNAVAILABLE


def test_in_a_stream_it_fails_alone(running: Client) -> None:
    requests = [pb.QueryRequest(user_id=USER, min_commit=commit) for commit in (NEVER, 1)]
    first, second = running.retrieval.QueryStream(iter(requests), timeout=SOON)
    assert first.error.reason == "COMMIT_NOT_REACHED"
    assert second.response.item_ids


def test_a_client_that_reads_its_own_writes_names_the_last_one(running: Client) -> None:
    with (
        TypedClient(running.address, timeout=3.0, read_own_writes=True) as session,
        TypedClient(running.address, timeout=SOON) as other,
    ):
        (item,) = session.query(user_id=USER, k=1).item_ids
        session.append_behaviors([Behavior(USER, item)])
        assert session.commit > 0
        assert item not in session.query(user_id=USER, k=5).item_ids
        session.commit = other.commit = NEVER
        for call in (
            lambda: session.query(user_id=USER),
            lambda: session.query_batch([{"user_id": USER}]),
            lambda: session.encode_user(USER),
            lambda: session.predict(USER, ["i"]),
        ):
            with pytest.raises(CallError, match=r"is not here yet|DEADLINE_EXCEEDED"):
                call()
        assert other.query(user_id=USER).item_ids


def test_the_asynchronous_client_does_so_too(running: Client) -> None:
    async def run() -> int:
        async with AsyncClient(running.address, timeout=3.0, read_own_writes=True) as session:
            (item,) = (await session.query(user_id=USER, k=1)).item_ids
            await session.append_behaviors([Behavior(USER, item)])
            written = session.commit
            assert item not in (await session.query(user_id=USER, k=5)).item_ids
            session.commit = NEVER
            with pytest.raises(CallError, match=r"is not here yet|DEADLINE_EXCEEDED"):
                await session.query(user_id=USER)
            return written

    assert asyncio.run(run()) > 0
