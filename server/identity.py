"""Which home a server serves, so that no command takes it for the server of another one."""

import os
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import uuid4

from server.pb.triptych.v1 import triptych_pb2 as pb
from store.home import Home
from store.store import Store


@dataclass(frozen=True)
class Identity:
    """What a server tells in server.json and in Status.

    A copied home brings the server.json of the original along, and one that a killed server left behind may
    name a port that is another server's by now. So both must agree on `server_id`, and the store's file that
    the server holds open must be the one in the home: while it is open, no other has its device and inode.

    Attributes:
        home_id: made with the home.
        server_id: drawn at each start.
        device, inode: of the store's file.
    """

    home_id: str
    device: int
    inode: int
    server_id: str = field(default_factory=lambda: uuid4().hex)

    @classmethod
    def of(cls, home: Home, store: Store) -> Self:
        """Return a new identity for the server that has opened the store of a home."""
        file = os.stat(home.database)
        return cls(store.home_id, file.st_dev, file.st_ino)

    def message(self) -> pb.ServedHome:
        """Return what Status tells."""
        return pb.ServedHome(
            home_id=self.home_id, server_id=self.server_id, device=self.device, inode=self.inode
        )


def is_server_of(home: Home, said: dict[str, Any], told: pb.ServedHome) -> bool:
    """Return whether a server that was reached is the one of a home, by its server.json and its Status."""
    try:
        file = os.stat(home.database)
    except FileNotFoundError:
        return False
    # A server of an older version tells no id: it is none.
    known = bool(told.server_id) and said.get("server_id") == told.server_id
    return known and (file.st_dev, file.st_ino) == (told.device, told.inode)
