"""A server whose candidates come from Milvus: answers, live changes, publishing, and what is refused."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from indexer.milvus import MilvusAddress, MilvusConnection, aliases_of, collection_of
from indexer.publish import current_index
from store.home import Home
from tests.command_line import Run
from tests.engines.milvus import EVERY_MILVUS, milvus_server
from tests.live_server import copy_home, run_server, server, soon
from triptych_client import CallError, Item
from triptych_client import Client as TypedClient
from triptych_client.pb.v1 import triptych_pb2 as pb

USERS = [f"u{number:05}" for number in range(6)]


@pytest.fixture(scope="module", params=EVERY_MILVUS)
def uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with milvus_server(tmp_path_factory.mktemp("milvus"), request.param) as address:
        yield address


@pytest.fixture(scope="module")
def connection(uri: str) -> Iterator[MilvusConnection]:
    one = MilvusConnection(MilvusAddress(uri))
    yield one
    one.close()


@pytest.fixture
def home(small_home: Home, tmp_path: Path) -> Home:
    return copy_home(small_home, tmp_path / "home")


def asked(client: TypedClient) -> list[pb.QueryResponse]:
    """What some people get, with and without a filter, without ids and times of the call."""
    kinds = pb.Filter(kinds=["book"])
    replies = [client.query(user_id=user, k=10) for user in USERS]
    replies += [client.query(user_id=user, k=10, filter=kinds) for user in USERS]
    for reply in replies:
        for field in ("query_id", "timings", "exact"):
            reply.ClearField(field)
    return replies


@pytest.mark.parametrize("processes", [1, 2])
def test_answers_are_those_of_faiss_and_live_changes_are_in_them(
    home: Home, uri: str, connection: MilvusConnection, processes: int
) -> None:
    with server(home) as live, TypedClient(live.address) as client:
        expected = asked(client)
    home.server_file.unlink(missing_ok=True)
    options = ("--index-engine", "milvus", "--milvus", uri, "--processes", str(processes))
    with server(home, *options) as live, TypedClient(live.address, timeout=60) as client:
        found = asked(client)
        same = [set(a.item_ids) & set(b.item_ids) for a, b in zip(expected, found, strict=True)]
        assert sum(map(len, same)) >= 0.95 * sum(len(reply.item_ids) for reply in expected)
        for reply in found:
            shares = zip(
                *(part for part in (reply.history_shares, reply.text_shares, reply.social_shares) if part),
                strict=True,
            )
            for parts, score in zip(shares, reply.scores, strict=True):
                assert sum(parts) == pytest.approx(score, rel=1e-4, abs=1e-5)
        best = found[0].item_ids[0]
        client.delete_items([best])
        assert best not in client.query(user_id=USERS[0], k=10).item_ids
        stored = client.find_items([found[0].item_ids[1]]).items[0]
        client.put_items([Item("twin", stored.title, stored.text, kind=stored.kind)])
        soon(lambda: "twin" in client.query(item_id=stored.item_id, k=200).item_ids)
        name = collection_of(current_index(home).name)
        assert aliases_of(connection, name) == aliases_of(connection, "")
        ids = lambda wanted: connection.client.query(name, ids=[wanted], output_fields=["item_id"])  # noqa: E731
        soon(lambda: len(ids("twin")) == 1 and not ids(best))


def test_an_index_is_moved_published_and_moved_back(
    home: Home, uri: str, connection: MilvusConnection, run: Run
) -> None:
    first = current_index(home).name
    code, out, err = run("index", "move", "--to", "milvus", "--milvus", uri, "--home", home.path)
    assert (code, f"index {first} is in Milvus: 150 items" in out) == (0, True), err
    with server(home, "--index-engine", "milvus", "--milvus", uri) as live:
        code, _, err = run("reindex", "--home", home.path, "--full")
        assert code == 0, err
        second = current_index(home).name
        with TypedClient(live.address, timeout=60) as client:
            assert client.query(user_id=USERS[0], k=5).index_id == second != first
            assert aliases_of(connection, "") == aliases_of(connection, collection_of(second))
            assert client.rollback_index().index_id == first
            assert client.query(user_id=USERS[0], k=5).index_id == first
            assert aliases_of(connection, "") == aliases_of(connection, collection_of(first))
    for index_id in (first, second):
        code, out, err = run("index", "move", index_id, "--to", "faiss", "--milvus", uri, "--home", home.path)
        assert (code, f"index {index_id} is no more in Milvus\n" in out) == (0, True), err
        assert not connection.client.has_collection(collection_of(index_id))


def test_queries_are_unavailable_while_milvus_is(home: Home, tmp_path: Path) -> None:
    with ExitStack() as running:
        uri = running.enter_context(milvus_server(tmp_path / "milvus"))
        with server(home, "--index-engine", "milvus", "--milvus", uri) as live:
            running.close()
            with TypedClient(live.address, timeout=2) as client:
                with pytest.raises(CallError) as caught:
                    client.query(user_id=USERS[0], k=5)
                assert caught.value.reason in ("INDEX_UNREACHABLE", "")
                exact = client.query(user_id=USERS[0], k=5, exact=True)  # needs no candidates
                assert len(exact.item_ids) == 5
    ended = run_server(home, "--index-engine", "milvus", "--milvus", uri)
    assert ended.returncode == 1
    assert f"Milvus at {uri} does not answer as it should" in ended.stderr
    ended = run_server(home, "--index-engine", "milvus")
    assert (ended.returncode, "needs --milvus URI" in ended.stderr) == (1, True)


def test_an_old_milvus_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import pymilvus

    for version in ("v2.3.4", "2.2", "2.3", "milvus_lite-2.3.0", "unknown"):
        monkeypatch.setattr(pymilvus.MilvusClient, "get_server_version", lambda *_, found=version: found)
        with pytest.raises(RuntimeError, match=rf"is version {version}, and an index needs 2\.3\.5 or newer"):
            MilvusConnection(MilvusAddress(uri))
    for version in ("v2.3.5-lite", "2.4", "v2.10.0-rc1", "milvus_lite-3.2.2"):
        monkeypatch.setattr(pymilvus.MilvusClient, "get_server_version", lambda *_, found=version: found)
        MilvusConnection(MilvusAddress(uri)).close()
