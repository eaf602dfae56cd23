"""Requests of any RPC, drawn from its descriptor: what a careless or hostile client could send."""

import json
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from triptych_client.pb.v1 import ingest_pb2, triptych_pb2

_MOST = 4  # of a repeated field
_NASTY = (
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "\ufeff",
        "\u202e",
        "NaN",
        "null",
        "-0",
        "1e400",
        "../../etc",
        "'; --",
        "[bold]",
    ),
    *("日本語テキスト", "👩‍👩‍👧", "x" * 257, "é" * 200, "\n\r\t", "\U0010ffff"),
)
_NUMBERS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1e-320,
    1e38,
    1.7e308,
    -1.7e308,
    math.inf,
    -math.inf,
    math.nan,
    2.0**53,
)
_WHOLE = (0, 1, -1, 2**31 - 1, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1)
_FRAGMENTS = (  # of the wire format: a lone tag, lengths that are too great, groups, text that is not UTF-8
    b"\x0a",
    b"\x0a\xff\xff\xff\xff\x0f",
    b"\x0a\x02\xff\xfe",
    b"\xff" * 10,
    b"\x0b\x0c",
    b"\x0b" * 150,
    b"\x0b" * 60 + b"\x0c" * 60,
    b"\x00",
    b"\x07\x00",
    b"\x9d\x7f\x00\x00\xc0\x7f",  # a float that is NaN, in a field that nobody knows
)
# Without these a row or a request is empty.
_NEEDED = frozenset(
    (
        "user_id",
        "item_id",
        "item_ids",
        "friend_id",
        "text",
        "items",
        "behaviors",
        "texts",
        "friends",
        "impressions",
        "requests",
        "path",
    )
)
_JSON = (
    "",
    "   ",
    "[1]",
    "{",
    '{"a":1} x',
    "{'a': 1}",
    '{"n": NaN}',
    '{"n": 1e400}',
    '{"n": 1' + "0" * 400 + "}",
    '{"n": 1' + "0" * 5_000 + "}",
    '{"a": ' + "[" * 900 + "1" + "]" * 900 + "}",
    '{"a": ' + "[" * 3_000 + "1" + "]" * 3_000 + "}",
    '{"a": "\\ud800"}',
    '{"\\udc00": "x"}',
    '{"flag": "\\u0000true"}',
    '{"a\\u0000b": "c"}',
    '{"a": 1, "a": 2}',
    '{"": "x"}',
    '{"id": 9007199254740993, "day": "1999-05-01", "list": [1, "1", true, null, {"z": 3}, [4]]}',
)


class Draws:
    """Strategies for requests; the ids of existing users and items make some calls find something.

    Few requests name a later commit than `commit`, which servers have reached: such a call waits for seconds.
    """

    def __init__(
        self, user_ids: list[str], item_ids: list[str], dim: int, folders: list[str], commit: int
    ) -> None:
        self._known = {"user_id": user_ids, "friend_id": user_ids, "item_id": item_ids, "item_ids": item_ids}
        self._known |= {"allow": item_ids, "path": folders}
        self._dim = dim
        self._commits = st.sampled_from([0, commit] * 10 + [2**64 - 1])
        self.message = cache(self._message)

    def request(self, method: MethodDescriptor) -> st.SearchStrategy[Message]:
        """Return requests of one method."""
        return self.message(method.input_type)

    def _message(self, descriptor: Descriptor) -> st.SearchStrategy[Message]:
        kind = GetMessageClass(descriptor)
        if kind is Timestamp:
            return st.builds(Timestamp, seconds=_whole(64), nanos=_whole(32))
        if descriptor.full_name == "triptych.v1.Vector":
            values = st.one_of(
                st.lists(st.floats(width=32), min_size=self._dim, max_size=self._dim),
                st.lists(st.floats(width=32), max_size=_MOST),
            )
            return st.builds(kind, values=values)
        fields = {field.name: self._field(field) for field in descriptor.fields}
        choices = [
            [field.name for field in oneof.fields] for oneof in descriptor.oneofs if len(oneof.fields) > 1
        ]

        @st.composite
        def draw(pick: st.DrawFn) -> Message:
            names = set(fields)
            for group in choices:
                names -= set(group) - {pick(st.sampled_from(group))}
            # Few at a time: a request in which every field is wild is refused for the first of them.
            chosen = pick(st.sets(st.sampled_from(sorted(names)), max_size=4)) if names else set()
            for group in choices:
                chosen |= names & set(group)
            chosen |= names & _NEEDED
            return kind(**{name: pick(fields[name]) for name in sorted(chosen)})

        return draw()

    def _field(self, field: FieldDescriptor) -> st.SearchStrategy[Any]:
        one = self._one(field)
        if not field.is_repeated:
            return one
        return st.lists(one, min_size=int(field.name in _NEEDED), max_size=_MOST)

    def _one(self, field: FieldDescriptor) -> st.SearchStrategy[Any]:
        kinds = FieldDescriptor
        if field.cpp_type == kinds.CPPTYPE_MESSAGE:
            return st.deferred(lambda: self.message(field.message_type))
        if field.cpp_type == kinds.CPPTYPE_STRING:
            return self._text(field.name)
        if field.name == "min_commit":
            return self._commits
        usual = st.sampled_from((0.0, 0.25, 0.5, 1.0, 3.0))
        few = st.integers(0, 20)
        number = st.sampled_from(_NUMBERS)
        return {
            kinds.CPPTYPE_BOOL: st.booleans(),
            kinds.CPPTYPE_DOUBLE: st.one_of(usual, usual, number, st.floats()),
            kinds.CPPTYPE_FLOAT: st.one_of(usual, usual, st.floats(width=32)),
            kinds.CPPTYPE_ENUM: st.one_of(st.integers(0, 3), _whole(32)),
            kinds.CPPTYPE_INT32: _whole(32),
            kinds.CPPTYPE_INT64: _whole(64),
            kinds.CPPTYPE_UINT32: st.one_of(few, few, few, _whole(32, signed=False)),
            kinds.CPPTYPE_UINT64: st.one_of(few, _whole(64, signed=False)),
        }[field.cpp_type]

    def _text(self, name: str) -> st.SearchStrategy[str]:
        any_text = st.one_of(st.sampled_from(_NASTY), st.text(max_size=20))
        if name == "attributes":
            return st.one_of(st.sampled_from(_JSON), _objects(), any_text)
        if name in self._known:
            known = st.sampled_from(self._known[name])
            return st.one_of(known, known, known, any_text)
        if name == "request_id":
            return st.one_of(st.just(""), st.uuids().map(str), any_text)
        if name == "text":
            return st.one_of(st.sampled_from(("dark telescopes", "a walk at night", "星空")), any_text)
        return any_text


def numbers_of(message: Message) -> Iterator[float]:
    """Yield every floating-point number of a message, those of its parts included."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        for one in values:
            if isinstance(one, Message):
                yield from numbers_of(one)
            elif isinstance(one, float):
                yield one


def mutated(request: Message) -> st.SearchStrategy[bytes]:
    """Return the bytes of a request with some changed, cut out, doubled, or put in."""
    raw = request.SerializeToString()

    @st.composite
    def draw(pick: st.DrawFn) -> bytes:
        changed = bytearray(raw)
        for _ in range(pick(st.integers(1, 3))):
            at, end = sorted(pick(st.tuples(*[st.integers(0, len(changed))] * 2)))
            part = bytes(changed[at:end])
            match pick(st.sampled_from(("set", "cut", "double", "put", "end"))):
                case "set":
                    changed[at:end] = pick(st.binary(min_size=len(part), max_size=len(part)))
                case "cut":
                    del changed[at:end]
                case "double":
                    changed[end:end] = part
                case "put":
                    changed[at:at] = pick(st.one_of(st.sampled_from(_FRAGMENTS), st.binary(max_size=12)))
                case "end":
                    del changed[at:]
        return bytes(changed)

    return draw()


def names_field(descriptor: Descriptor, path: str) -> bool:
    """Tell whether a path such as views.events[3].weight names a field, or a oneof, of a message."""
    at: Descriptor | None = descriptor
    for part in path.split("."):
        name, bracket, position = part.partition("[")
        if at is None:
            return False
        if name in at.oneofs_by_name:
            at = None
            continue
        field = at.fields_by_name.get(name)
        if field is None or (bracket and not (field.is_repeated and position.removesuffix("]").isdecimal())):
            return False
        at = field.message_type
    return True


def methods() -> list[MethodDescriptor]:
    """Return every method of the API, by full name."""
    files = (triptych_pb2.DESCRIPTOR, ingest_pb2.DESCRIPTOR)
    services = [service for file in files for service in file.services_by_name.values()]
    return sorted((method for service in services for method in service.methods), key=lambda m: m.full_name)


def _whole(bits: int, *, signed: bool = True) -> st.SearchStrategy[int]:
    least, greatest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    inside = [number for number in _WHOLE if least <= number <= greatest]
    return st.one_of(st.sampled_from(inside), st.integers(least, greatest))


def _objects() -> st.SearchStrategy[str]:
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(_NASTY)
    )
    values = st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
        ),
        max_leaves=8,
    )
    return st.dictionaries(st.text(max_size=6), values, max_size=4).map(json.dumps)
