"""Impressions and vectors of items through a server in a process of its own, which is killed at the end."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pytest

from scripts.backups import back_up, ledgers_of, restore
from scripts.home_access import fresh_export
from server.wire.ingest import MAX_ROWS
from store.export import Export
from store.home import Home
from store.store import Store
from store.tables import MAX_VECTOR_LENGTH
from tests.live_server import Client as Served
from tests.live_server import copy_home, server
from triptych_client import AsyncClient, CallError, Client, Impression, Item
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc
from triptych_client.pb.v1 import triptych_pb2 as pb

WHEN = datetime(2026, 11, 20, 12, tzinfo=UTC)
NAIVE = WHEN.replace(tzinfo=None)


@pytest.fixture(scope="module")
def served(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with server(copy_home(small_home, tmp_path_factory.mktemp("shown") / "home")) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Client]:
    with Client(served.address) as client:
        yield client


@pytest.fixture(scope="module")
def items(small_home: Home) -> list[str]:
    with Export.latest(small_home.exports) as export:
        return list(export.items(available_only=True).column("item_id").to_pylist())


def vectored(item_id: str, *numbers: float) -> Item:
    return Item(item_id, "A title", None, None, {}, True, None, numbers)


def test_what_was_shown_is_written_once_and_changes_no_answer(client: Client, items: list[str]) -> None:
    before = client.query(user_id="shown-1", k=10)
    rows = [Impression("shown-1", item, WHEN, place, "q") for place, item in enumerate(items[:4])]
    first = client.append_impressions(rows, request_id="shown")
    again = client.append_impressions(rows, request_id="shown")
    assert (first.inserted, again.inserted, again.repeated_request) == (4, 4, True)
    assert client.append_impressions(rows).unchanged == 4
    assert (
        client.append_impressions([Impression("shown-1", items[0], query_id="q", clicked=True)]).updated == 1
    )
    assert client.append_impressions(rows).unchanged == 4
    told = client.export_user("shown-1")["impressions"]
    assert [(row["item_id"], row["position"], row["clicked"]) for row in told] == [
        (item, place, place == 0) for place, item in sorted(enumerate(items[:4]), key=lambda one: one[1])
    ]
    after = client.query(user_id="shown-1", k=10)
    assert (after.fallback, after.item_ids) == (pb.FALLBACK_POPULARITY, before.item_ids)  # nothing is seen
    assert client.status().rows["impressions"] >= 4


def test_rows_are_refused_one_by_one_and_requests_as_a_whole(client: Client, items: list[str]) -> None:
    done = client.append_impressions(
        [
            Impression("a", items[0], WHEN),
            Impression("", items[0], WHEN),
            Impression("a", "nothing", WHEN),
            Impression("a", items[0]),
            Impression("a", items[0], WHEN, 2**31),
        ]
    )
    assert (done.inserted, [(row.position, row.reason) for row in done.rejected]) == (
        1,
        [(1, "empty_user_id"), (2, "unknown_item"), (3, "no_ts_or_query_id"), (4, "bad_position")],
    )
    for rows in ([], [Impression("a", "b", WHEN)] * (MAX_ROWS + 1)):
        with pytest.raises(CallError) as caught:
            client.append_impressions(rows)
        assert (caught.value.code, list(caught.value.fields)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            ["impressions"],
        )


def test_impressions_come_as_a_stream_and_from_asyncio(served: Served, items: list[str]) -> None:
    def batches() -> Iterator[ingest.AppendImpressionsRequest]:
        for number in range(10):
            rows = [
                ingest.ImpressionRow(user_id="s", item_id=item, query_id=f"q{number}") for item in items[:5]
            ]
            bad = ingest.ImpressionRow(user_id="s", item_id="nothing", query_id="q")
            yield ingest.AppendImpressionsRequest(impressions=[*rows, bad], request_id=f"i-{number}")

    stub = ingest_rpc.IngestStub(served.channel)
    done = stub.StreamImpressions(batches())
    assert (done.requests, done.inserted, done.rejected_rows) == (10, 50, 10)
    assert stub.StreamImpressions(batches()).repeated_requests == 10

    async def talk() -> None:
        async with AsyncClient(served.address) as client:
            done = await client.append_impressions([Impression("async", items[0], WHEN, clicked=True)])
            assert done.inserted == 1
            assert (await client.erase_user("async")).removed["impressions"] == 1

    asyncio.run(talk())


def test_a_vector_of_an_item_is_kept_or_the_request_is_refused_whole(client: Client, served: Served) -> None:
    assert client.put_items([vectored("v-1", 0.5, -2.0), vectored("v-2", 1, 1)]).inserted == 2
    assert client.query(item_id="v-1", k=3).item_ids
    refused = {
        "1 numbers, and the vectors of the other items have 2": (3.0,),
        "the vector of item 'v-4' has nan at 1, which is not finite": (1.0, float("nan")),
        "the vector of item 'v-4' has inf at 0, which is not finite": (float("inf"), 1.0),
        "the vector of item 'v-4' has 2 zeros and nothing else": (0.0, 0.0),
        "has 8193 numbers, not 1..8192": (1.0,) * (MAX_VECTOR_LENGTH + 1),
    }
    for message, numbers in refused.items():
        with pytest.raises(CallError) as caught:
            client.put_items([vectored("v-3", 1, 2), vectored("v-4", *numbers)])
        assert (caught.value.code, caught.value.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
        )
        assert message in caught.value.message
        assert caught.value.fields == {"items[1].vector": caught.value.message}
    assert not [one for one in client.status().workers if one.failures]
    with fresh_export(served.home) as export:
        kept = {row["item_id"]: row["vector"] for row in export.items().to_pylist() if row["vector"]}
    assert kept == {"v-1": [0.5, -2.0], "v-2": [1.0, 1.0]}
    assert client.put_items([Item("v-2", "A title", None, None, {}, available=True, updated_at=None)]).updated
    assert client.delete_items(["v-1"]).updated == 1
    assert client.put_items([vectored("v-5", *np.linspace(-1, 1, MAX_VECTOR_LENGTH).tolist())]).inserted == 1


def test_what_was_acknowledged_survives_a_kill_and_an_erasure_a_restore(
    served: Served, client: Client, items: list[str], tmp_path: Path
) -> None:
    """The last: it kills the server."""
    home = served.home
    client.append_impressions([Impression("killed", items[1], WHEN), Impression("gone", items[1], WHEN)])
    with fresh_export(home) as export:
        backup = back_up(home, export.export_id, tmp_path / "backups", with_index=False)
    client.append_impressions([Impression("killed", items[1], WHEN, 3, clicked=True)])
    assert client.erase_user("gone").removed["impressions"] == 1
    served.process.kill()
    served.process.wait()
    rows = "SELECT user_id, ts, position, clicked FROM data.impressions WHERE user_id IN ('gone', 'killed')"
    with Store.open(home.database) as store, store.snapshot() as cursor:
        assert cursor.execute(rows).fetchall() == [("killed", NAIVE, 3, True)]
    restored = Home(tmp_path / "restored")
    restore(backup, restored, ledgers_of(backup, home.erasures))
    with Store.open(restored.database) as store, store.snapshot() as cursor:
        assert cursor.execute(rows).fetchall() == [("killed", NAIVE, None, False)]
