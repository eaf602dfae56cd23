"""Addresses of servers, as people write them and as gRPC resolves them."""

import re
from pathlib import Path

_UNIX = "unix:"
_GRPC_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix-abstract:", "xds:")  # targets that gRPC resolves by itself
_HOST_AND_PORT = re.compile(r"(\[[^\[\]]+\]|[^:/\[\]\s]+):(\d{1,5})")


class BadAddressError(ValueError):
    """An address is not written as one."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"address {address!r}: {reason}")
        self.address = address


def target_of(address: str) -> str:
    """Return an address as gRPC resolves it; errors that gRPC finds only after many tries are found now.

    Raises:
        BadAddressError: it is not host:port, [IPv6]:port, unix:/path or a target of gRPC.
    """
    if address.startswith(_GRPC_SCHEMES):
        return address
    if address.startswith(_UNIX):
        return f"{_UNIX}{Path(address.removeprefix(_UNIX)).absolute()}"
    if "://" in address:
        raise BadAddressError(address, "this is a URL: write host:port alone, such as 127.0.0.1:50051")
    if address.count(":") > 1 and not address.startswith("["):
        raise BadAddressError(
            address, "an IPv6 address stands in brackets before its port, such as [::1]:50051"
        )
    written = _HOST_AND_PORT.fullmatch(address)
    if written is None or not 1 <= int(written[2]) <= 65_535:
        raise BadAddressError(address, "write host:port, such as 127.0.0.1:50051, or unix:/path")
    return address
