"""Where a read replica takes index and models from: a directory that it shares, or a copy of a bucket."""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from server.config import ServerConfig
from store.home import Home
from store.objects import LocalCopy


class Artifacts(Protocol):
    """The artifacts of a home that another server owns; one thread at a time.

    Attributes:
        home: the directory in which they lie here.
    """

    home: Home

    def fetch_index(self, index_id: str) -> Path:
        """Bring an index with its model and text model here, checked; return its directory."""

    def release(self, *, but: Collection[str] = ()) -> None:
        """Let go of everything that some indexes do not need."""


class SharedHome:
    """A home in a directory that this machine can read; whoever publishes has compared the checksums.

    Attributes:
        home: the home.
    """

    def __init__(self, home: Home) -> None:
        self.home = home

    def fetch_index(self, index_id: str) -> Path:
        """Return the directory of an index."""
        return self.home.indexes / index_id

    def release(self, *, but: Collection[str] = ()) -> None:
        """Do nothing: nothing was brought."""


def artifacts_of(config: ServerConfig, folder: Path) -> Artifacts:
    """Return the artifacts of a home, copied to a folder where they are in object storage.

    Raises:
        NoObjectStorageError: what reaches the URL is not installed.
    """
    return LocalCopy(config.artifacts, folder) if config.artifacts else SharedHome(config.home)
