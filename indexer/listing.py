"""The indexes of a home as their manifests describe them, without a look at their other files."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from store.artifact import DamagedArtifactError, artifacts, made_at, read_manifest
from store.home import Home


@dataclass(frozen=True)
class ListedIndex:
    """One index on disk.

    Attributes:
        index_id: its id.
        facts: its manifest, empty where that is damaged.
        nbytes: of its files.
        created: UTC; None where the id holds no time.
        damaged: whether the manifest is damaged.
    """

    index_id: str
    facts: dict[str, Any]
    nbytes: int
    created: datetime | None
    damaged: bool


def list_indexes(home: Home, limit: int) -> list[ListedIndex]:
    """Return the newest indexes of a home, newest first, at most `limit`."""
    return [_listed(home, index_id) for index_id in artifacts(home.indexes)[::-1][:limit]]


def _listed(home: Home, index_id: str) -> ListedIndex:
    directory = home.indexes / index_id
    try:
        facts, damaged = read_manifest(directory), False
    except DamagedArtifactError:
        facts, damaged = {}, True
    try:
        created = made_at(index_id)
    except ValueError:
        created = None
    nbytes = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    return ListedIndex(index_id, facts, nbytes, created, damaged)
