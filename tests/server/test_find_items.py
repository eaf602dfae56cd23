"""FindItems: what it brings, what it refuses, and to whom."""

from collections.abc import Iterator

import pytest

from store.home import Home
from tests.live_server import Client, copy_home, refusal, server
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as rpc


@pytest.fixture(scope="module")
def stub(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[rpc.IngestStub]:
    live: Client
    with server(copy_home(small_home, tmp_path_factory.mktemp("find") / "home")) as live:
        yield rpc.IngestStub(live.channel)


def test_items_come_by_pages(stub: rpc.IngestStub) -> None:
    first = stub.FindItems(ingest.FindItemsRequest(limit=2), timeout=60)
    ids = [item.item_id for item in first.items]
    assert len(ids) == 2
    assert first.more
    second = stub.FindItems(ingest.FindItemsRequest(limit=1, after=ids[0]), timeout=60)
    assert [item.item_id for item in second.items] == ids[1:]
    assert second.items[0].text
    assert second.items[0].attributes.startswith("{")


def test_a_hundred_come_where_no_limit_is_named(stub: rpc.IngestStub) -> None:
    assert len(stub.FindItems(ingest.FindItemsRequest(brief=True), timeout=60).items) == 100


@pytest.mark.parametrize(
    "request_",
    [
        ingest.FindItemsRequest(limit=1001),
        ingest.FindItemsRequest(item_ids=["a"] * 1001),
        ingest.FindItemsRequest(kinds=["a"] * 101),
        ingest.FindItemsRequest(contains="a" * 257),
        ingest.FindItemsRequest(after="a" * 257),
    ],
)
def test_what_is_too_much_is_refused(stub: rpc.IngestStub, request_: ingest.FindItemsRequest) -> None:
    assert refusal(lambda: stub.FindItems(request_, timeout=60)).reason == "INVALID_REQUEST"
