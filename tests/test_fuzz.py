"""Whatever is sent to any RPC: no unknown error, no number that is not finite, and a home that starts again.

Few examples here; `make nightly` draws them for an hour (docs/reliability.md).
"""

import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.pb.triptych.v1 import ingest_pb2 as ig
from server.pb.triptych.v1 import triptych_pb2 as pb
from store.duck import Store
from store.home import Home
from tests.live_server import Client, copy_home, server
from tests.messages import Draws, methods, numbers_of

_NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
_SECONDS = 60


@pytest.fixture(scope="module")
def fuzzed(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server on a home of its own, which must hold no traceback at the end, and start again."""
    folder = tmp_path_factory.mktemp("fuzz")
    home = copy_home(small_home, folder / "home")
    with server(home) as client:
        yield client
        assert client.process.poll() is None, client.log.read_text()
        client.process.terminate()
        client.process.wait(_SECONDS)
        said = client.log.read_text()
        assert "Traceback" not in said, said[said.index("Traceback") :][:4_000]
    with server(home) as client:
        assert client.query(user_id="u00001", k=5).item_ids
        status = client.admin.Status(pb.StatusRequest(), timeout=_SECONDS)
        assert status.serving


@pytest.fixture(scope="module")
def draws(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Draws:
    with Store.open(copy_home(small_home, tmp_path_factory.mktemp("ids") / "home").database) as store:
        with store.snapshot() as cursor:
            users = [
                row[0]
                for row in cursor.execute("SELECT DISTINCT user_id FROM data.behaviors ORDER BY 1").fetchall()
            ]
            items = [row[0] for row in cursor.execute("SELECT item_id FROM data.items ORDER BY 1").fetchall()]
    folder = tmp_path_factory.mktemp("import")
    (folder / "items.jsonl").write_text('{"item_id": "imported", "text": "stars"}\n')
    return Draws(users[:20], items[:20], 32, [str(folder)])


def _call(client: Client, method: MethodDescriptor) -> Callable[[list[Message]], list[Message]]:
    """Return a function that sends requests to a method and returns its replies."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    write, read = (
        GetMessageClass(method.input_type).SerializeToString,
        GetMessageClass(method.output_type).FromString,
    )
    channel, streams = client.channel, {"request_serializer": write, "response_deserializer": read}
    match method.client_streaming, method.server_streaming:
        case False, False:
            one = channel.unary_unary(path, **streams)
            return lambda requests: [one(requests[0], timeout=_SECONDS)]
        case False, True:
            out = channel.unary_stream(path, **streams)
            return lambda requests: list(out(requests[0], timeout=_SECONDS))
        case True, False:
            into = channel.stream_unary(path, **streams)
            return lambda requests: [into(iter(requests), timeout=_SECONDS)]
    both = channel.stream_stream(path, **streams)
    return lambda requests: list(both(iter(requests), timeout=_SECONDS))


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_every_request_is_answered_or_refused_by_name(
    fuzzed: Client, draws: Draws, method: MethodDescriptor, pytestconfig: pytest.Config
) -> None:
    call = _call(fuzzed, method)
    most = pytestconfig.getoption("--examples")
    slow = {"CreateExport": 1, "ImportFolder": 5}.get(method.name, 1)
    codes: Counter[str] = Counter()

    @settings(max_examples=max(1, most // slow), suppress_health_check=list(HealthCheck))
    @given(st.lists(draws.request(method), min_size=1, max_size=3 if method.client_streaming else 1))
    def check(requests: list[Message]) -> None:
        try:
            replies = call(requests)
        except grpc.RpcError as error:
            codes[error.code().name] += 1
            assert error.code() not in _NEVER, (error.code(), error.details(), requests)
            return
        codes["OK"] += 1
        for reply in replies:
            assert all(math.isfinite(number) for number in numbers_of(reply)), (requests, reply)
            if isinstance(reply, ig.WriteResponse):
                rows = sum(len(value) for field, value in requests[0].ListFields() if field.is_repeated)
                assert reply.inserted + reply.updated + reply.unchanged + len(reply.rejected) == rows
            if isinstance(reply, pb.QueryResponse):
                assert len(reply.item_ids or reply.user_ids) == len(reply.scores)
                assert list(reply.scores) == sorted(reply.scores, reverse=True) or requests[0].HasField(
                    "diversity"
                )

    check()
    print(f"{method.full_name}: {dict(codes)}")


@given(st.binary(max_size=60))
@settings(suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_bytes_that_are_no_message_are_an_invalid_argument(
    fuzzed: Client, method: MethodDescriptor, sent: bytes
) -> None:
    try:
        GetMessageClass(method.input_type).FromString(sent)
    except Exception:  # noqa: BLE001 - protobuf's own, which differs by implementation
        pass
    else:
        return
    path = f"/{method.containing_service.full_name}/{method.name}"
    calls = {
        (False, False): fuzzed.channel.unary_unary,
        (False, True): fuzzed.channel.unary_stream,
        (True, False): fuzzed.channel.stream_unary,
        (True, True): fuzzed.channel.stream_stream,
    }
    raw = calls[method.client_streaming, method.server_streaming](path)
    said = iter([sent]) if method.client_streaming else sent
    with pytest.raises(grpc.RpcError) as caught:
        reply = raw(said, timeout=_SECONDS)
        if method.server_streaming:
            list(reply)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_home_of_a_fuzzed_server_can_be_indexed_again(
    fuzzed: Client, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """Last of this file: whatever was accepted so far does not stop a reindex."""
    copy = tmp_path / "home"
    shutil.copytree(fuzzed.home.path, copy, ignore=shutil.ignore_patterns("server.json"))
    code, _, err = run("reindex", "--home", copy, "--full")
    assert code == 0, err
