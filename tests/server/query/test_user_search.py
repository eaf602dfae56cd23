"""Similar users and audiences of a real server, also after users wrote and were erased."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from indexer.publish import current_index, load_index
from indexer.users import vectors_of
from server.query.snapshot import Snapshot
from server.query.user_search import user_index_of
from server.status import Failure, outcome
from store.home import Home
from tests.live_server import copy_home, server, soon
from triptych_client import Behavior, CallError, Client
from triptych_client.pb.v1 import triptych_pb2 as pb


@pytest.fixture(scope="module")
def home(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return copy_home(small_home, tmp_path_factory.mktemp("users") / "home")


@pytest.fixture(scope="module")
def client(home: Home) -> Iterator[Client]:
    with server(home) as live, Client(live.address) as client:
        yield client


@pytest.fixture(scope="module")
def vectors(home: Home) -> dict[str, np.ndarray]:
    """Return the vector of every indexed user."""
    users = load_index(home, current_index(home).name).users
    assert users is not None
    return dict(zip(users.main.ids.column.to_pylist(), vectors_of(users, np.arange(len(users))), strict=True))


def test_similar_users_are_those_of_the_highest_cosine(
    client: Client, vectors: dict[str, np.ndarray]
) -> None:
    user = next(iter(vectors))
    own = np.array(client.encode_user(user).vector.values)
    np.testing.assert_allclose(vectors[user], own, rtol=1e-4, atol=1e-5)
    cosine = {
        u: float(v @ own / np.linalg.norm(v) / np.linalg.norm(own)) for u, v in vectors.items() if u != user
    }
    best = sorted(cosine, key=lambda u: -cosine[u])[:10]
    for fields in ({"user_id": user}, {"user_id": user, "exact": True}):
        reply = client.query(**fields, target=pb.TARGET_USERS)
        assert list(reply.user_ids) == best
        assert not reply.item_ids
        np.testing.assert_allclose(reply.scores, [cosine[u] for u in best], atol=1e-5)
    assert client.query(vector=own, k=1, target=pb.TARGET_USERS).user_ids == [user]


def test_the_audience_of_an_item_has_the_highest_inner_products(
    client: Client, home: Home, vectors: dict[str, np.ndarray]
) -> None:
    index = load_index(home, current_index(home).name).index
    item = index.item_ids(np.array([3]))[0]
    scores = {u: float(v @ index.main.vectors[3]) for u, v in vectors.items()}
    reply = client.query(item_id=item, k=20, target=pb.TARGET_USERS)
    assert list(reply.user_ids) == sorted(scores, key=lambda u: -scores[u])[:20]
    assert reply.exact
    assert len(client.query(text="gardens and music", k=7, target=pb.TARGET_USERS).user_ids) == 7


def test_a_user_without_any_view_has_no_similar_users(client: Client) -> None:
    reply = client.query(user_id="never seen", target=pb.TARGET_USERS)
    assert not reply.user_ids
    assert not reply.views_used


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"filter": pb.Filter(kinds=["video"])}, "filter does not go with TARGET_USERS"),
        ({"explain": True}, "explain does not go with TARGET_USERS"),
        ({"diversity": 0.5}, "diversity does not go with TARGET_USERS"),
    ],
)
def test_what_does_not_go_with_users_is_refused(client: Client, fields: dict[str, object], said: str) -> None:
    with pytest.raises(CallError, match=said):
        client.query(user_id="u", target=pb.TARGET_USERS, **fields)
    with pytest.raises(CallError, match="target is 7"):
        client.query(user_id="u", target=7)


def test_users_who_wrote_are_found_and_erased_ones_are_not_also_after_a_kill(
    small_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = copy_home(small_home, tmp_path_factory.mktemp("erased") / "home")
    with server(home) as live, Client(live.address) as client:
        known = client.query(
            item_id=client.query(user_id="x", k=1).item_ids[0], k=1000, target=pb.TARGET_USERS
        )
        gone = known.user_ids[0]
        liked = client.query(user_id=gone, k=3, exclude_seen=False).item_ids
        client.append_behaviors([Behavior("newcomer", item) for item in liked])
        soon(lambda: "newcomer" in everyone(client, gone))
        client.erase_user(gone)
        assert gone not in everyone(client, "newcomer")
        live.process.kill()
        live.process.wait()
    home.server_file.unlink()
    with server(home) as live, Client(live.address) as client:
        soon(lambda: len(everyone(client, "newcomer")) > 0)
        assert gone not in everyone(client, "newcomer")
        other = everyone(client, "newcomer")[0]
        soon(lambda: "newcomer" in everyone(client, other))


def everyone(client: Client, user: str) -> list[str]:
    return list(client.query(user_id=user, k=1000, target=pb.TARGET_USERS).user_ids)


def test_an_index_without_users_says_what_to_do(small_home: Home) -> None:
    pair = load_index(small_home, current_index(small_home).name)
    serving = Snapshot(pair.index, pair.model, None, None, None)  # type: ignore[arg-type]  # none is looked at
    said = outcome(lambda: user_index_of(serving))
    assert isinstance(said, Failure)
    assert (said.reason, said.code) == ("NO_USER_INDEX", grpc.StatusCode.FAILED_PRECONDITION.value[0])
    assert "run `triptych reindex --full`" in said.message
