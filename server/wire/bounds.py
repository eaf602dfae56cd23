"""What every kind of request shares: its error, and the bounds on ids and texts."""

from google.protobuf.timestamp_pb2 import Timestamp

MAX_ID_BYTES = 256
MAX_TEXT_BYTES = 100_000

_FIRST_SECOND = -62_135_596_800  # 0001-01-01, the first that the store takes too
_LAST_SECOND = 253_402_300_799  # 9999-12-31


class InvalidRequestError(ValueError):
    """A request breaks a rule of the API; the message names the field and the value.

    Where `field` is given, the client gets it apart, as google.rpc.BadRequest.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


def checked_id(place: str, value: str) -> str:
    """Return an id within its bounds.  Raises: InvalidRequestError."""
    size = len(value.encode())
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidRequestError(f"{place} has {size} bytes, not 1..{MAX_ID_BYTES}")
    return value


def checked_text(place: str, value: str) -> str:
    """Return a text within its bounds.  Raises: InvalidRequestError."""
    size = len(value.encode())
    if size > MAX_TEXT_BYTES:
        raise InvalidRequestError(f"{place} has {size} bytes, more than {MAX_TEXT_BYTES}")
    if not value.strip():
        raise InvalidRequestError(f"{place} is blank")
    return value


def checked_time(place: str, ts: Timestamp) -> None:
    """Raise InvalidRequestError where a time is beyond its bounds."""
    if not (_FIRST_SECOND <= ts.seconds <= _LAST_SECOND and 0 <= ts.nanos < 1_000_000_000):
        raise InvalidRequestError(f"{place} is not within the years 1 to 9999: {ts.seconds} s, {ts.nanos} ns")
