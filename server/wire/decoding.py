"""Bytes to the message of a method; what is none, or is too large for the method, is an invalid request.

gRPC would answer INTERNAL where a deserializer raises. Here it returns the error instead, with the path of
the field that cannot be read, and the method raises it.
"""

from collections import Counter
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from server.status import InvalidRequestError

SMALL_BYTES = 65_536  # of requests that hold no rows, texts or vectors; others may have what gRPC takes
_NOT_SMALL = ("text", "attributes", "values")
_FEW = ("mask",)  # repeated, but of a handful of words
_READ_FIELDS = 1_000  # of broken bytes, in search of what is broken
_VARINT, _FIXED_64, _DELIMITED, _FIXED_32 = 0, 1, 2, 5  # wire types
_WIDTHS = {_FIXED_64: 8, _FIXED_32: 4}
_MOST_VARINT = 10  # bytes


def decode(parse: Any, raw: bytes) -> Any:
    """Parse the request of a method; return an InvalidRequestError where that fails.

    Args:
        parse: `FromString` of the message's class; None leaves the bytes as they are.
        raw: what came.
    """
    if parse is None:
        return raw
    kind: Descriptor = parse.__self__.DESCRIPTOR
    if len(raw) > SMALL_BYTES and _is_small(kind):
        return InvalidRequestError(f"the request has {len(raw)} bytes, more than {SMALL_BYTES}", "")
    try:
        return parse(raw)
    except DecodeError:
        field = broken_field(raw, kind)
        what = f"{field} of the request" if field else "the request"
        return InvalidRequestError(
            f"{what} is no message of this method, or a text in it is not UTF-8, or it is nested too deeply",
            field,
        )


def broken_field(raw: bytes, kind: Descriptor) -> str:
    """Return the path of the first field in bytes that cannot be read as its kind says.

    It is "" where no known field is broken, or none of the first 1,000 in a message.
    Source: the protobuf encoding, Message Structure.
    """
    at, seen = 0, Counter[int]()
    for _ in range(_READ_FIELDS):
        key, at = _varint(raw, at)
        if at < 0 or at > len(raw) or not key >> 3:
            return ""
        field = kind.fields_by_number.get(key >> 3)
        name = _name(field, seen)
        if key & 7 == _DELIMITED:
            size, at = _varint(raw, at)
            end = at + size
            if at < 0 or end > len(raw):
                return name
            inside = _broken_part(raw[at:end], field)
            if inside is not None:
                return f"{name}.{inside}" if inside else name
            at = end
        elif key & 7 == _VARINT:
            at = _varint(raw, at)[1]
        else:  # groups, which no message of ours has, have no width
            at = at + _WIDTHS[key & 7] if key & 7 in _WIDTHS else -1
        if at < 0 or at > len(raw):
            return name
        if at == len(raw):
            return ""
    return ""


def _name(field: FieldDescriptor | None, seen: Counter[int]) -> str:
    """Return the name of the next field of a message, with its position in a repeated one."""
    if field is None:
        return ""
    position = seen[field.number]
    seen[field.number] += 1
    return f"{field.name}[{position}]" if field.is_repeated else field.name


def _broken_part(raw: bytes, field: FieldDescriptor | None) -> str | None:
    """Return what is broken within a field, "" for all of it; None where it can be read."""
    if field is None:
        return None
    try:
        if field.type == FieldDescriptor.TYPE_STRING:
            raw.decode()
        elif field.message_type is not None:
            GetMessageClass(field.message_type).FromString(raw)
    except UnicodeDecodeError:
        return ""
    except DecodeError:
        return broken_field(raw, field.message_type) if field.message_type else ""
    return None


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """Read a number; return it and where it ends, −1 where it does not."""
    number = 0
    for place in range(_MOST_VARINT):
        if at + place >= len(raw):
            break
        byte = raw[at + place]
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    return 0, -1


def _is_small(kind: Descriptor) -> bool:
    """Tell whether no request of a kind has rows, texts or vectors."""
    return not any(
        field.is_repeated or field.message_type is not None or field.name in _NOT_SMALL
        for field in kind.fields
        if field.name not in _FEW
    )
