"""What people look at: the last hour, attributes, the map, another index, a part of what is stored."""

import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pytest

from indexer.index import Index
from server.access import TokenFile
from store.home import Home
from tests.command_line import Run
from tests.live_server import SOON, copy_home, server, soon
from triptych_client import CallError, Client, Item
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc
from triptych_client.pb.v1 import triptych_pb2 as pb

PROCESSES = ((), ("--processes", "2"))
USER = "u00001"


@pytest.fixture(scope="module", params=PROCESSES, ids=["one process", "processes"])
def served(
    request: pytest.FixtureRequest, small_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Home, str]]:
    home = copy_home(small_home, tmp_path_factory.mktemp("reading") / "home")
    with server(home, *request.param) as live:
        yield home, live.address


@pytest.fixture
def client(served: tuple[Home, str]) -> Iterator[Client]:
    with Client(served[1], timeout=SOON) as client:
        yield client


def reason_of(call: object) -> str:
    with pytest.raises(CallError) as refused:
        call()  # type: ignore[operator]
    return refused.value.reason


def test_the_last_hour_is_told_of_all_processes(client: Client) -> None:
    for _ in range(20):
        client.query(user_id=USER)
    with pytest.raises(CallError):
        client.query(user_id=USER, k=5_000)

    def methods() -> dict[str, pb.MethodFigures]:
        return {one.method: one for one in client.get_figures().methods}

    soon(lambda: "Retrieval/Query" in methods() and methods()["Retrieval/Query"].calls >= 21)
    figures = client.get_figures()
    query = methods()["Retrieval/Query"]
    assert query.failed == 0  # what the caller did wrong is no failure
    assert 0 < query.p50_ms <= query.p99_ms
    assert sum(minute.calls for minute in figures.minutes) >= 21
    assert sum(minute.queries for minute in figures.minutes) >= 20
    assert len(figures.minutes) <= 60
    assert figures.index_built.seconds > 1_700_000_000
    workers = {"writer", "texts", "items", "users", "forgetting", "artifacts", "state"}
    assert {one.worker for one in figures.pending} == workers
    assert any(process.serving and process.resident_bytes > 10_000_000 for process in figures.processes)
    assert figures.conditions == 16
    assert [alert.name for alert in figures.alerts if alert.severity == "critical"] == []
    assert len(client.get_figures(1).minutes) == 1
    assert reason_of(lambda: client.get_figures(61)) == "INVALID_REQUEST"


def test_a_server_that_counts_nothing_says_so(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home, "--no-figures") as live, Client(live.address, timeout=SOON) as client:
        client.query(user_id=USER)
        assert reason_of(client.get_figures) == "NOTHING_COUNTED"


def test_kinds_and_attributes_are_listed(client: Client) -> None:
    found = client.list_attributes()
    assert found.items == found.looked_at == 150
    assert sum(kind.items for kind in found.kinds) == 150
    years = [one for one in found.attributes if one.name == "year"]
    assert [one.type for one in years] == [ingest.ATTRIBUTE_TYPE_NUMBER]
    assert years[0].whole
    assert years[0].least < years[0].greatest


def test_items_are_placed_by_their_vectors(client: Client, served: tuple[Home, str]) -> None:
    found = client.read_map()
    axes = found.axes
    assert (axes.items, axes.points, len(found.item_ids)) == (150, 150, 150)
    index = Index.load(served[0].indexes / axes.index_id)
    vectors = index.vectors_of(index.rows(found.item_ids))
    places = np.frombuffer(found.places, "<f4").reshape(-1, 2)
    frame = np.array([axes.first, axes.second])
    np.testing.assert_allclose(vectors @ frame.T - np.array(axes.mean), places, atol=1e-5)
    _, sizes, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(axes.explained, (sizes**2 / (sizes**2).sum())[:2], rtol=1e-3)
    kinds = [axes.groups[number] for number in found.groups]
    rows = client.find_items(found.item_ids, limit=1_000, brief=True).items
    by_id = {row.item_id: row.kind for row in rows}
    assert kinds == [by_id[item_id] for item_id in found.item_ids]


def test_a_map_is_coloured_by_an_attribute_and_thinned(client: Client) -> None:
    found = client.read_map("year", limit=50)
    assert len(found.item_ids) == found.axes.points == 50
    assert found.axes.ranges
    assert 2 <= len(found.axes.groups) <= 8
    assert set(found.groups) <= {*range(len(found.axes.groups)), 255}
    assert len(found.places) == 50 * struct.calcsize("<ff")
    for wrong in (lambda: client.read_map("no such"), lambda: client.read_map(limit=100_001)):
        assert reason_of(wrong) == "INVALID_REQUEST"


def test_a_part_of_what_is_stored_of_a_person(client: Client) -> None:
    whole = client.export_user(USER)
    part = client.user_rows(USER, limit=2)
    assert {table: one.total for table, one in part.items()} == {
        table: len(rows) for table, rows in whole.items()
    }
    for table, one in part.items():
        assert one.rows == whole[table][:2]
    behaviors = whole["behaviors"]
    assert len(behaviors) > 3
    page = client.user_rows(USER, limit=2, table="behaviors", offset=2)
    assert {table: one.rows for table, one in page.items()} == {"behaviors": behaviors[2:4]}
    beyond = client.user_rows(USER, limit=2, table="behaviors", offset=10_000)["behaviors"]
    assert (beyond.rows, beyond.total) == ([], len(behaviors))
    for wrong in ({"limit": 1_001}, {"table": "items"}, {"limit": 0, "offset": 3, "table": "texts"}):
        assert reason_of(lambda wrong=wrong: client.user_rows(USER, **wrong)) == "INVALID_REQUEST"


def test_another_index_answers_as_it_did_when_it_served(small_home: Home, tmp_path: Path, run: Run) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home) as live, Client(live.address, timeout=SOON) as client:
        before = client.query(user_id=USER, k=20, exact=True)
        client.put_items([Item(f"new-{n}", title="Stars and telescopes", kind="film") for n in range(3)])
        code, _, err = run("reindex", "--home", str(home.path), "--full")
        assert code == 0, err
        now = client.query(user_id=USER, k=20, exact=True)
        assert now.index_id != before.index_id
        same = client.query_index(before.index_id, user_id=USER, k=20, exact=True)
        assert (same.item_ids, same.index_id) == (before.item_ids, before.index_id)
        np.testing.assert_allclose(same.scores, before.scores, rtol=1e-5)
        assert client.query_index(now.index_id, user_id=USER, k=20, exact=True).item_ids == now.item_ids
        client.delete_items([before.item_ids[0]])
        later = client.query_index(before.index_id, user_id=USER, k=20, exact=True)
        assert before.item_ids[0] not in later.item_ids
        assert list(later.item_ids)[:19] == list(before.item_ids)[1:]
        assert client.status().index_id == now.index_id  # what serves is the same
        assert reason_of(lambda: client.query_index("no-such", user_id=USER)) == "INDEX_NOT_FOUND"
        for wrong in ({"offset": 1}, {"index_id": now.index_id}, {"target": pb.TARGET_USERS}, {"k": 1_001}):
            assert (
                reason_of(lambda wrong=wrong: client.query_index(before.index_id, user_id=USER, **wrong))
                == "INVALID_REQUEST"
            )


@pytest.mark.parametrize("options", PROCESSES, ids=["one process", "processes"])
def test_a_token_that_only_asks_is_told_of_available_items(
    small_home: Home, tmp_path: Path, options: tuple[str, ...]
) -> None:
    home, now = copy_home(small_home, tmp_path / "home"), datetime.now(UTC)
    tokens = TokenFile(home.path / "tokens.json")
    _, asks = tokens.create(("query",), now)
    _, writes = tokens.create(("query", "ingest"), now)
    _, governs = tokens.create(("query", "admin"), now)
    _, part = tokens.create(("query",), now, filter={"kinds": ["film"]})
    with server(home, *options) as live:

        def told(token: str) -> list[str]:
            with Client(live.address, token=token, timeout=SOON) as client:
                return [row.item_id for row in client.find_items(["hidden", "shown"]).items]

        with Client(live.address, token=writes, timeout=SOON) as client:
            hidden = Item("hidden", title="not yet", attributes={"secret": "name"}, available=False)
            client.put_items([hidden, Item("shown", title="now")])
        assert told(asks) == ["shown"]
        assert told(writes) == told(governs) == ["hidden", "shown"]
        with Client(live.address, token=asks, timeout=SOON) as client:
            assert "secret" not in {one.name for one in client.list_attributes().attributes}
            for call in (client.get_figures, client.read_map, lambda: client.query_index("x", user_id=USER)):
                assert reason_of(call) == "SCOPE_MISSING"
        with Client(live.address, token=part, timeout=SOON) as client:
            assert reason_of(client.list_attributes) == "SCOPE_MISSING"
        # A caller who says that it sees all is not believed.
        metadata = (("authorization", f"Bearer {asks}"), ("triptych-available", ""))
        stub = ingest_rpc.IngestStub(live.channel)
        request = ingest.FindItemsRequest(item_ids=["hidden"])
        assert not stub.FindItems(request, timeout=SOON, metadata=metadata).items
        with pytest.raises(grpc.RpcError):
            stub.FindItems(request, timeout=SOON)
