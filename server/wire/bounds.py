"""Bounds on ids, texts and times, which all kinds of requests share."""

from google.protobuf.timestamp_pb2 import Timestamp

from server.status import InvalidRequestError

MAX_ID_BYTES = 256
MAX_TEXT_BYTES = 100_000

_FIRST_SECOND = -62_135_596_800  # 0001-01-01, also the first in the store
_LAST_SECOND = 253_402_300_799  # 9999-12-31


def checked_id(place: str, value: str) -> str:
    """Check the bytes of an id, and return it.  Raises: InvalidRequestError."""
    size = len(value.encode())
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidRequestError(f"{place} has {size} bytes, not 1..{MAX_ID_BYTES}")
    return value


def checked_text(place: str, value: str) -> str:
    """Check the bytes of a text, and that it is not blank; return it.  Raises: InvalidRequestError."""
    size = len(value.encode())
    if size > MAX_TEXT_BYTES:
        raise InvalidRequestError(f"{place} has {size} bytes, more than {MAX_TEXT_BYTES}")
    if not value.strip():
        raise InvalidRequestError(f"{place} is blank")
    return value


def checked_time(place: str, ts: Timestamp) -> None:
    """Check that a time is within its bounds.  Raises: InvalidRequestError."""
    if not (_FIRST_SECOND <= ts.seconds <= _LAST_SECOND and 0 <= ts.nanos < 1_000_000_000):
        raise InvalidRequestError(f"{place} is not within the years 1 to 9999: {ts.seconds} s, {ts.nanos} ns")
