"""Where a read replica takes index and models from: a directory that it shares, or a copy of a bucket."""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from store.artifact import read_pointer
from store.home import Home


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

    def serving(self) -> str:
        """Return the index that serves by the home.  Raises: NotPublishedError, DamagedArtifactError."""
        return read_pointer(self.home.current_index, self.home.indexes).name
