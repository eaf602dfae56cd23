"""A server whose exports, models and indexes belong in a bucket: shared with others, and no need to serve."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from server.app import running
from server.config import BadUrlError, ServerConfig
from server.live import artifacts as module
from server.live import index_list
from store.artifact import artifacts, new_id, read_pointer
from store.home import Home
from store.ledger import read_ledger
from store.objects import CURRENT, HomeBucket, add_needed
from store.objects import storage as storage_module
from tests.engines.s3 import BUCKET, environment, s3_process
from tests.live_server import SOON, copy_home, flip, refusal, server, soon, stopped
from triptych_client import Client
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[tuple[str, subprocess.Popen[bytes]]]":
    with s3_process(tmp_path_factory.mktemp("s3") / "data") as started:
        yield started


@pytest.fixture
def config(
    storage: "tuple[str, subprocess.Popen[bytes]]",
    small_home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> ServerConfig:
    for name, value in environment(storage[0]).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.1)
    test = "".join(one if one.isalnum() else "-" for one in request.node.name)
    home = copy_home(small_home, tmp_path / "home")
    return ServerConfig(home, port=0, artifacts=f"s3://{BUCKET}/{test}/home")


@pytest.fixture
def bucket(config: ServerConfig) -> HomeBucket:
    return HomeBucket(config.artifacts)


@pytest.fixture
def elsewhere(small_home: Home, tmp_path: Path) -> Home:
    """The home of another machine, which makes indexes for the bucket."""
    return copy_home(small_home, tmp_path / "elsewhere")


def made(home: Home, bucket: HomeBucket) -> str:
    """Make an index on another machine, of the files of the one that it has, and upload it; CURRENT stays."""
    index_id = new_id()
    shutil.copytree(read_pointer(home.current_index, home.indexes), home.indexes / index_id)
    add_needed(bucket, home, "indexes", index_id)
    return index_id


def serves(client: Client, index_id: str) -> bool:
    return client.query(user_id="u00001").index_id == index_id


def failing(client: Client) -> bool:
    (worker,) = (one for one in client.status().workers if one.name == "artifacts")
    return worker.failing


def test_what_the_owner_makes_lands_in_the_bucket(config: ServerConfig, bucket: HomeBucket) -> None:
    index_id = config.home.current_index.read_text().strip()
    with running(config) as address, Client(address) as client:
        assert bucket.pointer(CURRENT).artifact_id == index_id  # an empty bucket takes what serves
        export_id = client.create_export()
        assert bucket.ids("exports") == [export_id]
        assert bucket.manifest("exports", export_id)["kind"] == "export"
        assert serves(client, index_id)


def test_an_index_of_the_bucket_is_fetched_published_and_rolled_back(
    config: ServerConfig, bucket: HomeBucket, elsewhere: Home
) -> None:
    first = config.home.current_index.read_text().strip()
    with running(config) as address, Client(address) as client:
        second = made(elsewhere, bucket)
        assert second not in artifacts(config.home.indexes)
        client.publish_index(second)
        assert serves(client, second)
        assert (bucket.pointer(CURRENT).artifact_id, config.home.current_index.read_text()) == (
            second,
            f"{second}\n",
        )
        shutil.rmtree(config.home.indexes / first)  # a rollback goes by the bucket
        client.rollback_index()
        assert serves(client, first)
        assert bucket.pointer(CURRENT).artifact_id == first
        with grpc.insecure_channel(address) as channel:
            publish = rpc.AdminStub(channel).PublishIndex
            refused = refusal(lambda: publish(pb.PublishIndexRequest(index_id="x"), timeout=60))
        assert (refused.code, second in refused.message) == (grpc.StatusCode.NOT_FOUND, True)


def test_whoever_moves_current_in_the_bucket_is_followed(
    config: ServerConfig, bucket: HomeBucket, elsewhere: Home
) -> None:
    with running(config) as address, Client(address) as client:
        second = made(elsewhere, bucket)
        bucket.move_pointer(CURRENT, second, bucket.pointer(CURRENT))
        soon(lambda: serves(client, second))
        soon(lambda: config.home.current_index.read_text() == f"{second}\n")
    third = made(elsewhere, bucket)
    bucket.move_pointer(CURRENT, third, bucket.pointer(CURRENT))
    with running(config) as address, Client(address) as client:  # one that starts takes it, too
        assert serves(client, third)


def test_query_processes_serve_what_the_owner_fetched(
    config: ServerConfig, bucket: HomeBucket, elsewhere: Home
) -> None:
    second = made(elsewhere, bucket)
    with server(config.home, "--processes", "2", "--artifacts", config.artifacts) as started:
        soon(lambda: bucket.pointer(CURRENT).artifact_id != "")
        bucket.move_pointer(CURRENT, second, bucket.pointer(CURRENT))
        with Client(started.address, timeout=SOON) as client:  # which waits until they listen
            soon(lambda: serves(client, second))
        for _ in range(4):  # on connections of their own, which either process takes
            with Client(started.address, connections=1) as client:
                assert serves(client, second)


def test_of_two_who_publish_the_server_loses_to_the_first(
    config: ServerConfig, bucket: HomeBucket, elsewhere: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 3_600.0)
    with running(config) as address, grpc.insecure_channel(address) as channel, Client(address) as client:
        second, third = made(elsewhere, bucket), made(elsewhere, bucket)
        fetch = module.BucketArtifacts.fetch

        def overtaken(self: module.BucketArtifacts, index_id: str) -> None:
            fetch(self, index_id)
            bucket.move_pointer(CURRENT, third, bucket.pointer(CURRENT))

        monkeypatch.setattr(module.BucketArtifacts, "fetch", overtaken)
        publish = rpc.AdminStub(channel).PublishIndex
        refused = refusal(lambda: publish(pb.PublishIndexRequest(index_id=second), timeout=60))
        assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "POINTER_MOVED")
        assert bucket.pointer(CURRENT).artifact_id == third
        assert not serves(client, second)


def test_without_the_bucket_serving_goes_on_and_says_so(
    config: ServerConfig,
    bucket: HomeBucket,
    elsewhere: Home,
    storage: "tuple[str, subprocess.Popen[bytes]]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storage_module, "_ASK_SECONDS", 1.0)
    first, second = config.home.current_index.read_text().strip(), made(elsewhere, bucket)
    with running(config) as address, grpc.insecure_channel(address) as channel, Client(address) as client:
        with stopped(storage[1].pid):
            soon(lambda: failing(client))
            assert serves(client, first)
            assert client.status().serving
            publish = rpc.AdminStub(channel).PublishIndex
            refused = refusal(lambda: publish(pb.PublishIndexRequest(index_id=second), timeout=60))
            assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNREACHABLE")
            assert serves(client, first)
        soon(lambda: not failing(client))
        client.publish_index(second)
        assert serves(client, second)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with running(config) as address, Client(address) as client:  # a start without the bucket
        assert serves(client, second)
        soon(lambda: failing(client))


def test_indexes_of_the_disk_and_of_the_bucket_are_listed(
    config: ServerConfig,
    bucket: HomeBucket,
    elsewhere: Home,
    storage: "tuple[str, subprocess.Popen[bytes]]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def listed() -> dict[str, str]:
        indexes = client.list_indexes()
        assert [one.index_id for one in indexes] == sorted((one.index_id for one in indexes), reverse=True)
        assert [one.index_id for one in indexes if one.serving] == [first]
        return {one.index_id: pb.IndexLocation.Name(one.location)[15:] for one in indexes}

    first, second = config.home.current_index.read_text().strip(), made(elsewhere, bucket)
    here = config.home.indexes / f"{first[:-4]}0000"
    shutil.copytree(config.home.indexes / first, here)
    with running(config) as address, Client(address) as client:
        assert listed() == {second: "BUCKET", first: "BOTH", here.name: "DISK"}
        (theirs,) = (one for one in client.list_indexes() if one.index_id == second)
        assert (theirs.items, theirs.dim, theirs.bytes) == (150, 32, bucket.size("indexes", second))
        assert theirs.created.seconds > 0
        assert [one.index_id for one in client.list_indexes(1)] == [second]
        with stopped(storage[1].pid):
            monkeypatch.setattr(index_list, "_SECONDS", 1.0)
            assert listed() == {first: "UNKNOWN", here.name: "UNKNOWN"}
        monkeypatch.setattr(index_list, "_SECONDS", SOON)
        assert set(listed()) == {second, first, here.name}


def test_an_index_that_cannot_serve_is_refused(
    config: ServerConfig, bucket: HomeBucket, elsewhere: Home
) -> None:
    first = config.home.current_index.read_text().strip()
    with running(config) as address, Client(address) as client:
        second = made(elsewhere, bucket)
        file = elsewhere.indexes / second / "vectors.safetensors"
        flip(file)
        path = bucket.storage._path(f"indexes/{second}/vectors.safetensors")
        bucket.storage._files.pipe_file(path, file.read_bytes())
        before = bucket.pointer(CURRENT)
        bucket.move_pointer(CURRENT, second, before)
        soon(lambda: failing(client))
        assert serves(client, first)
        bucket.move_pointer(CURRENT, first, bucket.pointer(CURRENT))
        soon(lambda: not failing(client))


def test_who_was_erased_is_hidden_and_forgotten_in_the_bucket(
    config: ServerConfig, bucket: HomeBucket, elsewhere: Home
) -> None:
    first = config.home.current_index.read_text().strip()
    with running(config) as address, Client(address) as client:
        other = made(elsewhere, bucket)  # from an export of before the erasure
        client.erase_user("u00001")
        soon(lambda: bucket.ledger() == list(read_ledger(config.home.erasures)) != [])
    soon_forgotten = replace(config, forget_hours=1 / 3_600)
    with running(soon_forgotten) as address, Client(address) as client:
        soon(
            lambda: (
                bucket.ids("indexes") not in ([first], [first, other]) and first not in bucket.ids("indexes")
            )
        )
        (new,) = bucket.ids("indexes")
        assert new not in (first, other)
        assert bucket.pointer(CURRENT).artifact_id == new
        soon(lambda: serves(client, new))


def test_homes_of_tenants_have_a_folder_each(tmp_path: Path) -> None:
    config = ServerConfig(Home(tmp_path), tenants=("ann", "bob"), artifacts="s3://bucket/homes/")
    assert [one.artifacts for one in config.each_home()] == ["s3://bucket/homes/ann", "s3://bucket/homes/bob"]
    assert [one.artifacts for one in replace(config, artifacts="").each_home()] == ["", ""]


@pytest.mark.parametrize("written", ["bucket/home", "s3://", "://bucket"])
def test_what_is_no_url_is_refused(written: str) -> None:
    from server.config import checked_url

    with pytest.raises(BadUrlError, match=r"write s3://bucket/home"):
        checked_url(written)
