"""What every kind of request shares: its error, and the bounds on ids and texts."""

MAX_ID_BYTES = 256
MAX_TEXT_BYTES = 100_000


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
