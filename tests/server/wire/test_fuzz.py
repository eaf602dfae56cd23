"""Whatever is sent to any RPC: no unknown error, no number that is not finite, and a home that starts again.

Few examples here; `make nightly` draws many more (docs/reliability.md).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.home import Home
from store.store import Store
from tests.live_server import Client, copy_home, server
from tests.messages import Draws, methods, mutated, names_field, numbers_of
from triptych_client.pb.v1 import ingest_pb2 as ig
from triptych_client.pb.v1 import triptych_pb2 as pb

_NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
_SECONDS = 60
_SHARE = {"CreateExport": 0.02, "ImportFolder": 0.1}  # of the examples: these write files each time
_OTHERS = 0.4
_RAW = 0.8  # with _OTHERS, 100,000 of the profile `nightly` over all methods

Call = Callable[[list[Message]], list[Message]]


@pytest.fixture(scope="module")
def fuzzed(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server on a home of its own, which must tell no traceback until its end, and start again."""
    home = copy_home(small_home, tmp_path_factory.mktemp("fuzz") / "home")
    with server(home) as client:
        yield client
        assert client.process.poll() is None, client.log.read_text()
        client.process.terminate()
        client.process.wait(_SECONDS)
        said = client.log.read_text()
        assert "Traceback" not in said, said[said.index("Traceback") :][:4_000]
    with server(home) as client:
        assert client.query(user_id="u00001", k=5).item_ids
        assert client.admin.Status(pb.StatusRequest(), timeout=_SECONDS).serving


@pytest.fixture(scope="module")
def draws(small_home: Home, tmp_path_factory: pytest.TempPathFactory, fuzzed: Client) -> Draws:
    home = copy_home(small_home, tmp_path_factory.mktemp("ids") / "home")
    with Store.open(home.database) as store, store.snapshot() as cursor:
        users, items = (
            [row[0] for row in cursor.execute(f"SELECT DISTINCT {name} FROM {table} ORDER BY 1").fetchall()]
            for name, table in (("user_id", "data.behaviors"), ("item_id", "data.items"))
        )
    folder = tmp_path_factory.mktemp("import")
    (folder / "items.jsonl").write_text('{"item_id": "imported", "text": "stars"}\n')
    commit = fuzzed.admin.Status(pb.StatusRequest(), timeout=_SECONDS).process.commit
    return Draws(users[:20], items[:20], 32, [str(folder)], commit)


def _call(client: Client, method: MethodDescriptor) -> Call:
    """Return a function that sends requests to a method and returns its replies."""
    write = GetMessageClass(method.input_type).SerializeToString
    read = GetMessageClass(method.output_type).FromString
    return _raw_call(client, method, request_serializer=write, response_deserializer=read)


def _raw_call(client: Client, method: MethodDescriptor, **coders: object) -> Callable[..., list[Message]]:
    path = f"/{method.containing_service.full_name}/{method.name}"
    kinds = {
        (False, False): client.channel.unary_unary,
        (False, True): client.channel.unary_stream,
        (True, False): client.channel.stream_unary,
        (True, True): client.channel.stream_stream,
    }
    stub = kinds[method.client_streaming, method.server_streaming](path, **coders)

    def call(requests: list[Message]) -> list[Message]:
        reply = stub(iter(requests) if method.client_streaming else requests[0], timeout=_SECONDS)
        return list(reply) if method.server_streaming else [reply]

    return call


def _sound(request: Message, reply: Message) -> None:
    """Check what holds of every reply, whatever was asked."""
    assert all(math.isfinite(number) for number in numbers_of(reply))
    if isinstance(reply, ig.WriteResponse):
        rows = sum(len(value) for field, value in request.ListFields() if field.is_repeated)
        assert reply.inserted + reply.updated + reply.unchanged + len(reply.rejected) == rows
    if isinstance(reply, pb.QueryStreamResponse):
        assert reply.error.code not in {code.value[0] for code in _NEVER}
    if isinstance(reply, pb.QueryResponse) and isinstance(request, pb.QueryRequest):
        assert len(reply.item_ids or reply.user_ids) == len(reply.scores) <= (request.k or 10)
        if not request.HasField("diversity"):
            assert list(reply.scores) == sorted(reply.scores, reverse=True)


def _refused(error: grpc.RpcError, method: MethodDescriptor, sent: list[Message | bytes]) -> grpc.StatusCode:
    """Check that an error has a reason, and that of a bad request a field there is; return its code."""
    code = error.code()
    assert code not in _NEVER, error.details()
    status = rpc_status.from_call(error)
    assert status is not None, error.details()
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert info.reason
    fields = [
        violation.field
        for detail in status.details
        if detail.Unpack(bad)
        for violation in bad.field_violations
    ]
    assert all(names_field(method.input_type, field) for field in fields), fields
    if code is grpc.StatusCode.INVALID_ARGUMENT and not any(isinstance(one, bytes) for one in sent):
        assert fields, error.details()
    return code


def _examples(method: MethodDescriptor, share: float) -> int:
    return max(1, int(_SHARE.get(method.name, share) * settings.default.max_examples))


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_every_request_is_answered_or_refused_by_name(
    fuzzed: Client, draws: Draws, method: MethodDescriptor
) -> None:
    call, codes = _call(fuzzed, method), Counter[str]()

    @settings(max_examples=_examples(method, _OTHERS), suppress_health_check=list(HealthCheck))
    @given(st.lists(draws.request(method), min_size=1, max_size=3 if method.client_streaming else 1))
    def check(requests: list[Message]) -> None:
        code = grpc.StatusCode.OK
        try:
            for reply in call(requests):
                _sound(requests[0], reply)
        except grpc.RpcError as error:
            code = _refused(error, method, requests)
        codes[code.name] += 1

    check()
    print(f"{method.full_name}: {dict(codes)}")


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_any_bytes_are_answered_or_refused_by_name(
    fuzzed: Client, draws: Draws, method: MethodDescriptor
) -> None:
    """Random bytes, and requests with some bytes changed; what is no message is an invalid argument."""
    call, codes = _raw_call(fuzzed, method), Counter[str]()
    some = st.one_of(draws.request(method).flatmap(mutated), st.binary(max_size=60))

    @settings(max_examples=_examples(method, _RAW), suppress_health_check=list(HealthCheck))
    @given(st.lists(some, min_size=1, max_size=3 if method.client_streaming else 1))
    def check(sent: list[bytes]) -> None:
        code = grpc.StatusCode.OK
        try:
            call(sent)
        except grpc.RpcError as error:
            code = _refused(error, method, sent)
        codes[code.name] += 1
        if not all(_is_message(raw, method) for raw in sent):
            assert code is not grpc.StatusCode.OK
            if len(sent) == 1:
                assert code is grpc.StatusCode.INVALID_ARGUMENT

    check()
    print(f"{method.full_name} (bytes): {dict(codes)}")


def _is_message(raw: bytes, method: MethodDescriptor) -> bool:
    try:
        GetMessageClass(method.input_type).FromString(raw)
    except DecodeError:
        return False
    return True


def test_what_a_server_accepted_can_be_indexed_again(
    fuzzed: Client, run: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = run("reindex", "--home", fuzzed.home.path, "--full")
    assert code == 0, err
    assert fuzzed.query(user_id="u00001", k=5).item_ids
