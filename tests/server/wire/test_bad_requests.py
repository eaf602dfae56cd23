"""Bad requests one by one: what is said of them, and what they leave behind."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from server.status import Failure, InvalidRequestError, outcome
from server.wire.decoding import SMALL_BYTES, broken_field, decode
from server.wire.query import query_of
from store.home import Home
from tests.live_server import SOON, Client, copy_home, server
from triptych_client import MAX_MESSAGE_BYTES
from triptych_client.pb.v1 import ingest_pb2 as ig
from triptych_client.pb.v1 import triptych_pb2 as pb

QUERY, PUT, STATUS, ERASE = (
    "/triptych.v1.Retrieval/Query",
    "/triptych.v1.Ingest/PutItems",
    "/triptych.v1.Admin/Status",
    "/triptych.v1.Ingest/EraseUser",
)
GROUP, END = b"\xa3\x06", b"\xa4\x06"  # of field 100, which no message has


def delimited(number: int, part: bytes) -> bytes:
    assert len(part) < 128
    return bytes([number << 3 | 2, len(part)]) + part


def number_of(kind: type, name: str) -> int:
    number: int = kind.DESCRIPTOR.fields_by_name[name].number
    return number


@pytest.fixture(scope="module")
def live(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with server(copy_home(small_home, tmp_path_factory.mktemp("bad") / "home")) as client:
        yield client


def refused(client: Client, path: str, raw: bytes) -> tuple[grpc.StatusCode, str, list[str]]:
    """Send bytes that must be refused; return the code, the reason and the fields."""
    with pytest.raises(grpc.RpcError) as caught:
        client.channel.unary_unary(path)(raw, timeout=SOON)
    status = rpc_status.from_call(caught.value)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    details = [] if status is None else list(status.details)
    for detail in details:
        detail.Unpack(info)
        detail.Unpack(bad)
    return caught.value.code(), info.reason, [violation.field for violation in bad.field_violations]


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", ""),
        (b"\xff" * 11, ""),
        (b"\x00\x01", ""),
        (delimited(number_of(pb.QueryRequest, "user_id"), b"\xff\xfe"), "user_id"),
        (delimited(number_of(pb.QueryRequest, "user_id"), b"u") + b"\x0a\x05ab", "user_id"),
        (
            delimited(
                number_of(pb.QueryRequest, "views"),
                delimited(number_of(pb.Views, "texts"), b"fine")
                + delimited(number_of(pb.Views, "texts"), b"\xff"),
            ),
            "views.texts[1]",
        ),
        (delimited(number_of(pb.QueryRequest, "views"), b"\xff"), "views"),
        (delimited(100 % 16, b""), ""),
        (GROUP * 200, ""),
    ],
)
def test_what_cannot_be_read_is_found_in_broken_bytes(raw: bytes, field: str) -> None:
    assert number_of(pb.QueryRequest, "user_id") == 1
    assert broken_field(raw, pb.QueryRequest.DESCRIPTOR) == field


def test_the_search_for_what_is_broken_ends_in_long_requests() -> None:
    fine = delimited(number_of(pb.Views, "texts"), b"a")
    broken = delimited(number_of(pb.Views, "texts"), b"\xff")
    assert broken_field(fine * 900 + broken, pb.Views.DESCRIPTOR) == "texts[900]"
    assert broken_field(fine * 1_000_000 + broken, pb.Views.DESCRIPTOR) == ""


def test_only_requests_with_rows_texts_or_vectors_may_be_large() -> None:
    unknown = delimited(15, b"x" * 100)
    for kind in (pb.StatusRequest, pb.PublishIndexRequest, ig.EraseUserRequest, ig.ImportFolderRequest):
        assert isinstance(decode(kind.FromString, unknown), kind)
        large = decode(kind.FromString, unknown * (SMALL_BYTES // len(unknown) + 1))
        assert isinstance(large, InvalidRequestError)
        assert f"more than {SMALL_BYTES}" in str(large)
    for kind in (pb.QueryRequest, pb.QueryBatchRequest, pb.EncodeUserRequest, ig.PutItemsRequest):
        assert isinstance(decode(kind.FromString, unknown * 10_000), kind)


@pytest.mark.parametrize("path", [QUERY, PUT, STATUS, ERASE])
def test_groups_nested_too_deeply_are_refused(live: Client, path: str) -> None:
    shallow, deep = ((GROUP * times + END * times) for times in (10, 10_000))
    code, reason, _ = refused(live, path, deep)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    if path == STATUS:  # whatever nobody knows is ignored
        assert live.channel.unary_unary(path)(shallow, timeout=SOON)


def test_a_message_beyond_the_limit_is_refused_by_grpc_itself(live: Client) -> None:
    """It is not read, so there is no reason of ours: RESOURCE_EXHAUSTED, with the sizes in the message."""
    largest = b"\x92\x7d" + (MAX_MESSAGE_BYTES - 6).to_bytes(4, "big")  # not yet a field
    code, reason, _ = refused(live, QUERY, largest.ljust(MAX_MESSAGE_BYTES, b"\xff"))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    for path in (QUERY, PUT, STATUS):
        code, reason, _ = refused(live, path, bytes(MAX_MESSAGE_BYTES + 1))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")
    assert live.query(user_id="u00001", k=3).item_ids


def test_a_vector_of_another_length_is_refused_with_its_place(live: Client) -> None:
    wrong = pb.QueryRequest(vector=pb.Vector(values=[1.0] * 7))
    right = pb.QueryRequest(user_id="u00001")
    invalid = grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"
    assert refused(live, QUERY, wrong.SerializeToString()) == (*invalid, ["vector.values"])
    batch = pb.QueryBatchRequest(requests=[right, wrong]).SerializeToString()
    assert refused(live, f"{QUERY}Batch", batch) == (*invalid, ["requests[1].vector.values"])
    replies = list(live.retrieval.QueryStream(iter([right, wrong]), timeout=SOON))
    assert [reply.error.field for reply in replies] == ["", "vector.values"]


def test_a_long_reason_in_any_script_reaches_the_client(live: Client) -> None:
    folder = ig.ImportFolderRequest(path="星" * 20_000)
    code, reason, fields = refused(live, "/triptych.v1.Ingest/ImportFolder", folder.SerializeToString())
    assert (code, reason, fields) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", ["path"])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("field", "fill"),
    [
        ("min_score", lambda request, number: setattr(request, "min_score", number)),
        ("diversity", lambda request, number: setattr(request, "diversity", number)),
        ("view_weights.history", lambda request, number: setattr(request.view_weights, "history", number)),
        ("view_weights.text", lambda request, number: setattr(request.view_weights, "text", number)),
        ("view_weights.social", lambda request, number: setattr(request.view_weights, "social", number)),
        (
            "views.events[0].weight",
            lambda request, number: request.views.events.add(item_id="i", weight=number),
        ),
        (
            "views.friends[0].weight",
            lambda request, number: request.views.friends.add(friend_id="u", weight=number),
        ),
        ("vector.values", lambda request, number: request.vector.values.extend([1.0, number])),
    ],
)
def test_numbers_that_are_not_finite_are_refused_with_their_field(
    field: str, fill: Callable[[pb.QueryRequest, float], None], number: float
) -> None:
    request = pb.QueryRequest(user_id="u")
    fill(request, number)
    failure = outcome(lambda: query_of(request))
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.field) == ("INVALID_REQUEST", field)


def test_no_number_of_a_filter_is_nan() -> None:
    for name in ("at_least", "at_most"):
        condition = pb.AttributeCondition(name="price", **{name: math.nan})
        failure = outcome(
            lambda condition=condition: query_of(
                pb.QueryRequest(user_id="u", filter=pb.Filter(attributes=[condition]))
            )
        )
        assert isinstance(failure, Failure)
        assert failure.field == "filter.attributes[0]"


@pytest.mark.nightly
def test_memory_does_not_grow_with_bad_requests(live: Client) -> None:
    """Large ones: broken, of fields that nobody knows, with too many rows, nested, beyond the limit."""
    item_ids = ig.DeleteItemsRequest(item_ids=["x"] * 300_000).SerializeToString()
    vector = pb.QueryRequest(vector=pb.Vector(values=[math.nan] * 500_000)).SerializeToString()
    sent = [
        (QUERY, b"\x0a" + b"\xff" * 2_000_000),
        (QUERY, delimited(15, b"x" * 100) * 20_000),
        (QUERY, vector),
        (PUT, GROUP * 500_000),
        (STATUS, delimited(15, b"x" * 100) * 20_000),
        (ERASE, b"\x0a\x02\xff\xfe" * 500_000),
        ("/triptych.v1.Ingest/DeleteItems", item_ids),
        (QUERY, bytes(MAX_MESSAGE_BYTES + 1)),
    ]

    def rounds(count: int) -> int:
        for _ in range(count):
            for path, raw in sent:
                assert refused(live, path, raw)[0] in (
                    grpc.StatusCode.INVALID_ARGUMENT,
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                )
        return _resident(live.process.pid)

    warm = rounds(16)
    assert rounds(40) <= 1.05 * warm + 32 * 2**20, "40 of the smallest of these messages are 60 MB"
    assert live.query(user_id="u00001", k=3).item_ids


def _resident(process: int) -> int:
    """Return the bytes of memory that a process holds (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
