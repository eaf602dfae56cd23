"""What every kind of request shares: its error, and the bound on ids."""

MAX_ID_BYTES = 256


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
