"""What a query process says while the owner of its home is gone, or refuses an index."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import grpc
import numpy as np
import pytest

from encoder.text import DamagedTextCacheError, TextCache
from server.live import NotPreparedError
from server.processes.forwarding import add_forwarding
from server.processes.owner_link import OwnerLink
from server.query import OwnerUnreachableError
from server.status import Failure, outcome
from tests.live_server import SOON, refusal
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc


@pytest.fixture
def link(tmp_path: Path) -> Iterator[OwnerLink]:
    link = OwnerLink(f"unix:{tmp_path / 'nobody.sock'}")
    with closing(link.channel):
        yield link


def test_rows_that_the_owner_has_cannot_be_read(link: OwnerLink) -> None:
    for read, argument in (
        (link.item_table, "film"),
        (link.title_and_text, "film"),
        (link.texts_of, "ann"),
        (link.repair, "ann"),
    ):
        with pytest.raises(OwnerUnreachableError, match="restarting: try again"):
            read(argument)  # type: ignore[operator]


def test_writes_are_unavailable_so_that_clients_repeat_them(link: OwnerLink) -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    add_forwarding(server, link.channel)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = ingest_rpc.IngestStub(channel)
        for call in (
            lambda: stub.EraseUser(ingest.EraseUserRequest(user_id="ann"), timeout=SOON),
            lambda: list(stub.ExportUser(ingest.ExportUserRequest(user_id="ann"), timeout=SOON)),
        ):
            found = refusal(call)
            assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "OWNER_UNREACHABLE")
    server.stop(None).wait()


def test_an_index_that_a_process_refuses_has_a_reason_of_its_own() -> None:
    def refuse() -> None:
        raise NotPreparedError("index-a", 7, "no room")

    failure = outcome(refuse)
    assert isinstance(failure, Failure)
    assert failure.reason == "INDEX_REFUSED"
    assert failure.message == "index index-a is not published: query process 7 cannot serve it: no room"


def test_a_text_cache_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DamagedTextCacheError, match="cache"):
        TextCache.open_reader(tmp_path / "cache")


def test_a_reader_of_the_text_cache_stores_nothing(tmp_path: Path) -> None:
    vectors = np.ones((1, 4), dtype=np.float32)
    with closing(TextCache.open(tmp_path / "cache")) as cache:
        cache.put("model", ["known"], vectors)
    with closing(TextCache.open_reader(tmp_path / "cache")) as reader:
        assert reader.put("model", ["new"], vectors)
        found, cached = reader.get("model", ["known", "new"], 4)
        assert cached.tolist() == [True, False]
        np.testing.assert_array_equal(found[0], vectors[0])


def test_a_reader_goes_on_in_the_file_that_the_writer_made_anew(tmp_path: Path) -> None:
    path, vectors = tmp_path / "cache", np.ones((1, 4), dtype=np.float32)
    TextCache.open(path).close()
    with closing(TextCache.open_reader(path)) as reader:
        assert not reader.get("model", ["new"], 4)[1][0]
        for file in path.iterdir():
            file.unlink()
        made = tmp_path / "made"
        with closing(TextCache.open(made)) as cache:
            cache.put("model", ["new"], vectors)
        for file in made.iterdir():
            file.rename(path / file.name)
        reader.get("model", ["new"], 4)  # finds that the file is another one
        assert reader.get("model", ["new"], 4)[1][0]
