"""The gateway answers as gRPC does: replies and errors of generated requests, both ways.

Few examples here; `make nightly` draws many more.
"""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from scripts.gateway.methods import descriptors, methods_of
from store.home import Home
from store.store import Store
from tests.engines.gateway import Gateway, Reply
from tests.live_server import SOON, Client, copy_home, server
from tests.messages import Draws, methods
from tests.scripts.gateway.conftest import Open
from triptych_client.pb.v1 import triptych_pb2 as pb

PATHS = {one.name: one for one in methods_of(descriptors()) if one.path}
BY_NAME = {f"{method.containing_service.full_name}/{method.name}": method for method in methods()}
READS = sorted(name for name, one in PATHS.items() if one.scope == "query")
WRITES = sorted(name for name in PATHS if name.startswith("triptych.v1.Ingest/"))
OTHERS = ("triptych.v1.Admin/PublishIndex", "triptych.v1.Admin/RollbackIndex")
# What differs from one answer to the next.
VOLATILE = ("query_id", "timings")
HTTP = {  # by code, as google.api.http says
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.OUT_OF_RANGE: 400,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.NOT_FOUND: 404,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.UNAVAILABLE: 503,
}
assert error_details_pb2  # its messages are in the details of errors

Answer = list[Message] | status_pb2.Status


def examples(share: float) -> settings:
    """Return how many requests are drawn: a share of what the profile draws."""
    slow = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture)
    return settings(max_examples=max(5, int(settings().max_examples * share)), suppress_health_check=slow)


@pytest.fixture(scope="module")
def draws(small_home: Home, tmp_path_factory: pytest.TempPathFactory, quiet: Client) -> Draws:
    home = copy_home(small_home, tmp_path_factory.mktemp("ids") / "home")
    with Store.open(home.database) as store, store.snapshot() as cursor:
        users, items = (
            [row[0] for row in cursor.execute(f"SELECT DISTINCT {name} FROM {table} ORDER BY 1").fetchall()]
            for name, table in (("user_id", "data.behaviors"), ("item_id", "data.items"))
        )
    commit = quiet.admin.Status(pb.StatusRequest(), timeout=SOON).process.commit
    return Draws(users[:20], items[:20], 32, ["/nowhere"], commit)


@pytest.fixture(scope="module")
def pair(
    small_home: Home, tmp_path_factory: pytest.TempPathFactory, open_gateway: Open
) -> Iterator[tuple[Client, Gateway]]:
    """A server that is called by gRPC, and a gateway for another one of the same content."""
    folder = tmp_path_factory.mktemp("pair")
    one, other = copy_home(small_home, folder / "one"), copy_home(small_home, folder / "other")
    with server(one) as by_grpc, server(other) as behind, open_gateway(behind.address) as running:
        yield by_grpc, running


def by_grpc(channel: grpc.Channel, method: MethodDescriptor, request: Message) -> Answer:
    path = f"/{method.containing_service.full_name}/{method.name}"
    write, read = type(request).SerializeToString, GetMessageClass(method.output_type).FromString
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    try:
        said = kind(path, write, read)(request, timeout=SOON)
        return list(said) if method.server_streaming else [said]
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        return status or status_pb2.Status(code=error.code().value[0], message=error.details())


def by_json(gateway: Gateway, method: MethodDescriptor, body: str) -> tuple[Answer, Reply]:
    one = PATHS[f"{method.containing_service.full_name}/{method.name}"]
    reply = gateway.call(one.verb, one.path, body.encode("utf-8", "surrogatepass"))
    if reply.status != 200:
        return json_format.ParseDict(reply.json, status_pb2.Status()), reply
    kind = GetMessageClass(method.output_type)
    parts = reply.json if method.server_streaming else [reply.json]
    return [json_format.ParseDict(part, kind()) for part in parts], reply


def plain(answer: Answer) -> Any:
    """Return an answer without what differs each time, to be compared."""
    if isinstance(answer, status_pb2.Status):
        return answer
    made = []
    for message in answer:
        for one in [message, *getattr(message, "responses", [])]:
            for name in VOLATILE:
                if name in one.DESCRIPTOR.fields_by_name:
                    one.ClearField(name)
        made.append(message)
    return made


def as_json(request: Message) -> str:
    """Return a request as JSON; one with what JSON cannot say (a year beyond 9999) is not drawn."""
    try:
        return json_format.MessageToJson(request, preserving_proto_field_name=True)
    except (ValueError, json_format.SerializeToJsonError):
        assume(False)
        raise


def check(expected: Answer, said: Answer, reply: Reply) -> None:
    event(f"{reply.status} {reply.reason if reply.status != 200 else ''}")
    assert plain(said) == plain(expected), (reply.status, reply.body[:500])
    if isinstance(expected, status_pb2.Status):
        assert reply.status == HTTP[expected.code]
        assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize("name", READS)
def test_a_message_asked_by_json_is_answered_as_by_grpc(
    name: str, quiet: Client, gateway: Gateway, draws: Draws
) -> None:
    method = BY_NAME[name]

    @examples(0.5)
    @given(draws.request(method))
    def same(request: Message) -> None:
        body = as_json(request)
        said, reply = by_json(gateway, method, body)
        check(by_grpc(quiet.channel, method, request), said, reply)

    same()


@pytest.mark.parametrize("name", [*WRITES, *OTHERS])
def test_what_is_written_by_json_is_written_as_by_grpc(
    name: str, pair: tuple[Client, Gateway], draws: Draws
) -> None:
    method, (direct, gateway) = BY_NAME[name], pair

    @examples(0.3)
    @given(draws.request(method))
    def same(request: Message) -> None:
        body = as_json(request)
        said, reply = by_json(gateway, method, body)
        expected = by_grpc(direct.channel, method, request)
        check(expected, said, reply)

    same()


def mutated(value: Any, name: str = "") -> st.SearchStrategy[Any]:
    """Return JSON that is like some other: what people write who have not read the description."""
    if isinstance(value, dict):
        parts = {name: mutated(one, name) for name, one in value.items()}
        renamed = st.fixed_dictionaries({_camel(name): one for name, one in parts.items()})
        return st.one_of(
            st.fixed_dictionaries(parts), st.fixed_dictionaries(parts), renamed, st.just({"no": [1]})
        )
    if isinstance(value, list):
        return st.one_of(st.tuples(*(mutated(one, name) for one in value)).map(list), st.just([]))
    wrong = st.sampled_from((None, [], {}, [[1]], "text", True, -1, 1.5, 10**30))
    same = st.just(value)
    if isinstance(value, bool) or value is None:
        return st.one_of(same, wrong)
    if isinstance(value, int | float):
        return st.one_of(same, same, st.just(str(value)), wrong)
    return st.one_of(same, same, same, wrong)


_NUMBERS = {
    getattr(FieldDescriptor, f"CPPTYPE_{kind}")
    for kind in ("DOUBLE", "FLOAT", "INT32", "INT64", "UINT32", "UINT64")
}


def without_python(content: Any, kind: Descriptor) -> Any:
    """Return JSON with what Python alone reads otherwise said so that it does not.

    A null among elements is none for Envoy and an error in Python; true is a number, and "-1" the number of a
    name, in Python alone.
    """
    if not isinstance(content, dict):
        return content
    read = dict(content)
    for name, value in content.items():
        field = kind.fields_by_name.get(name) or kind.fields_by_camelcase_name.get(name)
        if field is None:
            continue
        listed = isinstance(value, list)
        values = [one for one in value if one is not None] if listed else [value]
        if field.cpp_type in _NUMBERS and any(isinstance(one, bool) for one in values):
            raise json_format.ParseError(f"{name} is no number")
        if field.enum_type is not None:
            _check_names(field, values)
        if field.message_type is not None:
            values = [without_python(one, field.message_type) for one in values]
        read[name] = values if listed else values[0]
    return read


def _check_names(field: FieldDescriptor, values: list[Any]) -> None:
    known = field.enum_type.values_by_name
    if any(isinstance(one, str) and one not in known for one in values):
        raise json_format.ParseError(f"{field.name} has no such name")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)


@pytest.mark.parametrize("name", READS)
def test_json_that_nobody_checked_is_answered_as_by_grpc_or_refused(
    name: str, quiet: Client, gateway: Gateway, draws: Draws
) -> None:
    """The other way: JSON first; what it says as a message is asked by gRPC."""
    method = BY_NAME[name]
    kind = GetMessageClass(method.input_type)

    @examples(0.5)
    @given(draws.request(method).flatmap(lambda request: mutated(json.loads(as_json(request)))))
    def same(content: Any) -> None:
        said, reply = by_json(gateway, method, json.dumps(content))
        try:
            read = without_python(content, kind.DESCRIPTOR)
            request = json_format.ParseDict(read, kind(), ignore_unknown_fields=True)
        except (json_format.ParseError, TypeError):  # as of a time that is a list
            assert reply.status == 400, (content, reply.body[:500])
            assert reply.reason == "INVALID_REQUEST"
            event("400 no JSON of a request")
            return
        check(by_grpc(quiet.channel, method, request), said, reply)

    same()


@pytest.mark.parametrize("body", ["{", "[1]", '{"k": NaN}', '{"user_id": "\\ud800"}', "nul", "1" * 5_000])
def test_what_is_no_json_of_a_request_is_refused_and_says_why(gateway: Gateway, body: str) -> None:
    reply = gateway.call("POST", "/v1/query", body)
    assert (reply.status, reply.reason) == (400, "INVALID_REQUEST")
    assert reply.json["code"] == code_pb2.INVALID_ARGUMENT
    assert len(reply.json["message"]) > len("this is no request of the API: ")
