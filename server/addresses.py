"""Addresses: where a server listens, and how others reach it."""

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from triptych_client import BadAddressError

_UNIX = "unix:"
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class CannotListenError(OSError):
    """Nothing can listen on an address."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = address


@dataclass(frozen=True)
class Listening:
    """An address to listen on.

    Attributes:
        host: without brackets; unix:/path, absolute, for a socket in the file system.
        port: 0 for any free one; without meaning for unix:.
    """

    host: str
    port: int

    @classmethod
    def on(cls, host: str, port: int) -> "Listening":
        """Return the address for a host as written on the command line: a name, an IP address or unix:PATH.

        Raises:
            BadAddressError: the host is none of these.
        """
        if host.startswith(_UNIX):
            path = host.removeprefix(_UNIX)
            if not path.strip("/"):
                raise BadAddressError(host, "write unix:/path/of/the/socket")
            return cls(f"{_UNIX}{Path(path).absolute()}", port)
        bare = host.removeprefix("[").removesuffix("]")
        if not bare or not bare.isprintable() or any(sign in bare for sign in " /[]"):
            raise BadAddressError(host, "a host is a name, an IP address or unix:/path")
        if ":" in bare and not _is_ipv6(bare):
            raise BadAddressError(host, "this is no IPv6 address, and a port is given apart, by --port")
        return cls(bare, port)

    @property
    def unix_path(self) -> Path | None:
        """The file of a unix socket, None for others."""
        return Path(self.host.removeprefix(_UNIX)) if self.host.startswith(_UNIX) else None

    @property
    def bound(self) -> str:
        """The address as gRPC binds it."""
        return self._written(self.host)

    @property
    def reached(self) -> str:
        """The address by which this machine reaches the server: loopback where it listens on all."""
        return self._written(_WILDCARDS.get(self.host, self.host))

    @property
    def only_here(self) -> bool:
        """Whether this machine alone reaches it: loopback, a unix socket, or a name of loopback."""
        if self.unix_path is not None:
            return True
        try:
            found = socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError):  # nobody can listen there, which `error` tells
            return True
        return all(ipaddress.ip_address(one[4][0]).is_loopback for one in found)

    def _written(self, host: str) -> str:
        if self.unix_path is not None:
            return host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def error(self) -> CannotListenError | None:
        """Return why nothing can listen there, None where something can."""
        if self.unix_path is not None:
            return self._error_of(self.unix_path)
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (socket.gaierror, UnicodeError) as error:
            return CannotListenError(
                self.bound, f"{self.host!r} is no address and no name that is known: {error}"
            )
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    tried.bind(address)
                except OSError as error:
                    return CannotListenError(self.bound, error.strerror or str(error))
        return None

    def _error_of(self, path: Path) -> CannotListenError | None:
        """Return why there can be no socket at a path; the file of a socket that nobody uses is no reason."""
        if not path.parent.is_dir():
            return CannotListenError(self.bound, f"there is no directory {path.parent}")
        if path.exists() and not path.is_socket():
            return CannotListenError(self.bound, "a file that is no socket lies there")
        with socket.socket(socket.AF_UNIX) as tried:
            try:
                tried.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                return None
            except OSError as error:
                return CannotListenError(self.bound, str(error))
        return CannotListenError(self.bound, "another server listens there")


def commands_socket(folder: Path, tenant: str) -> str:
    """Return the address by which commands on this machine reach a home, in a folder of its server."""
    return f"{_UNIX}{folder / (tenant or 'commands')}.sock"


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
