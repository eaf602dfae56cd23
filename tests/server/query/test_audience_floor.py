"""A floor on audiences: people are named in whole groups, without scores, or not at all."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from indexer.publish import current_index, load_index
from server.query.query import Candidates, Query, StoredUser, Target
from server.query.user_search import AudienceGroupError, AudienceTooSmallError, check_groups, in_groups
from store.home import Home
from tests.live_server import copy_home, refusal, server
from triptych_client import Client
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

FLOOR = 7


@pytest.fixture(scope="module")
def home(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return copy_home(small_home, tmp_path_factory.mktemp("floor") / "home")


@pytest.fixture(scope="module")
def address(home: Home) -> Iterator[str]:
    with server(home, "--audience-floor", str(FLOOR)) as live:
        yield live.address


def everybody(home: Home) -> list[str]:
    users = load_index(home, current_index(home).name).users
    assert users is not None
    return users.item_ids(np.arange(len(users)))


def test_people_are_named_in_whole_groups_that_no_two_answers_cut(home: Home, address: str) -> None:
    with Client(address) as client:
        user, *_ = people = everybody(home)
        subjects: list[dict[str, object]] = [
            {"user_id": user},
            {"item_id": client.query(user_id=user, k=1).item_ids[0]},
            {"text": "gardens and music"},
            {"vector": list(client.encode_user(user).vector.values)},
        ]
        for subject in subjects:
            pages = [
                client.query(**subject, k=k, offset=offset, target=pb.TARGET_USERS)  # type: ignore[arg-type]
                for k, offset in ((FLOOR, 0), (2 * FLOOR, 0), (FLOOR, FLOOR))
            ]
            assert not any(page.scores for page in pages)
            first, both, second = (list(page.user_ids) for page in pages)
            assert (len(first), both) == (FLOOR, first + second)
            assert (first, second) == (sorted(first), sorted(second))
            found = client.query(**subject, k=FLOOR * 100, target=pb.TARGET_USERS)  # type: ignore[arg-type]
            there = len(people) - ("user_id" in subject)
            assert len(found.user_ids) == there // FLOOR * FLOOR  # who fill no group are not named


def test_what_would_single_people_out_is_refused(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = rpc.RetrievalStub(channel)
        for k, offset, said in ((1, 0, "k is 1"), (0, 0, "k is 10"), (FLOOR, 1, "offset is 1")):
            request = pb.QueryRequest(text="music", k=k, offset=offset, target=pb.TARGET_USERS)
            refused = refusal(lambda request=request: stub.Query(request))
            assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
            assert f"{said}, and people are named in groups of {FLOOR}" in refused.message
        nobody = pb.QueryRequest(user_id="never seen", k=FLOOR, target=pb.TARGET_USERS)
        refused = refusal(lambda: stub.Query(nobody))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "AUDIENCE_TOO_SMALL")
        assert refused.message == f"fewer than {FLOOR} people are found, and no answer names fewer"
        assert len(stub.Query(pb.QueryRequest(text="music", k=3)).item_ids) == 3  # items have no floor


def found(ids: list[str]) -> Candidates:
    return Candidates(ids, np.ones(len(ids), np.float32), None, (), True, "m", "i", Target.USERS)


def test_an_answer_that_fills_no_group_names_nobody() -> None:
    with pytest.raises(AudienceTooSmallError) as error:
        in_groups(found(["b", "a"]), 3)
    assert error.value.floor == 3
    named = in_groups(found(["d", "b", "c", "a", "e"]), 2)
    assert (named.ids, len(named.scores)) == (["b", "d", "a", "c"], 0)
    assert in_groups(found(["b", "a"]), 0).ids == ["b", "a"]
    with pytest.raises(AudienceGroupError) as group:
        check_groups(Query(StoredUser("u"), 4, offset=3), 2)
    assert (group.value.field, group.value.value, group.value.floor) == ("offset", 3, 2)
    check_groups(Query(StoredUser("u"), 4, offset=3), 0)
