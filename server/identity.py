"""How commands know the server of a home: server.json, and what Status says of the home that is served."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import uuid4

from store.disk import replace_file
from store.home import Home
from store.store import Store
from triptych_client.pb.v1 import triptych_pb2 as pb


@dataclass(frozen=True)
class Reached:
    """How a server is reached.

    Attributes:
        address: of the server.
        local: for commands on this machine; without TLS.
        tls: whether `address` wants it.
        pid: of the process that is told to stop; by default this one.
        metrics: URL of the metrics, "" for none.
    """

    address: str
    local: str
    tls: bool
    pid: int = field(default_factory=os.getpid)
    metrics: str = ""


@dataclass(frozen=True)
class Identity:
    """What proves that a server is the one of a home.

    A copied home contains the server.json of the original, and a server.json that a killed server left may
    name a port that is another server's by now. So server.json and Status must have the same `server_id`, and
    the store file that the server holds open must be the one in the home: while it is open, no other file has
    its device and inode.

    Attributes:
        home_id: made with the home.
        device, inode: of the store file.
        server_id: drawn at each start.
    """

    home_id: str
    device: int
    inode: int
    server_id: str = field(default_factory=lambda: uuid4().hex)

    @classmethod
    def of(cls, home: Home, store: Store) -> Self:
        """Draw an identity for the server that has opened the store of a home."""
        file = os.stat(home.database)
        return cls(store.home_id, file.st_dev, file.st_ino)

    def announce(self, home: Home, reached: Reached, query_pids: Sequence[int] | None = None) -> None:
        """Write server.json, whole at once.

        Args:
            home: where to.
            reached: how the server is.
            query_pids: of its query processes; None where it has none.
        """
        content: dict[str, object] = {
            "address": reached.address,
            "local": reached.local,
            "pid": reached.pid,
            "tls": reached.tls,
            "home_id": self.home_id,
            "server_id": self.server_id,
        }
        if reached.metrics:
            content["metrics"] = reached.metrics
        if query_pids is not None:
            content |= {"owner_pid": os.getpid(), "query_pids": list(query_pids)}
        replace_file(home.server_file, json.dumps(content) + "\n")

    def message(self) -> pb.ServedHome:
        """Return the message in Status."""
        return pb.ServedHome(
            home_id=self.home_id, server_id=self.server_id, device=self.device, inode=self.inode
        )


def is_server_of(home: Home, server_file: dict[str, Any], served: pb.ServedHome) -> bool:
    """Return whether a server that was reached is the one of a home.

    Args:
        home: a home.
        server_file: the content of its server.json.
        served: the home in the Status of the server.
    """
    try:
        file = os.stat(home.database)
    except FileNotFoundError:
        return False
    # The Status of an older version has no id, which proves nothing.
    same_server = bool(served.server_id) and server_file.get("server_id") == served.server_id
    return same_server and (file.st_dev, file.st_ino) == (served.device, served.inode)
