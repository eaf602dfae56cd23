"""The indexes of a home as they are listed: those on the disk of the server, and those in the bucket."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from store.artifact import artifacts
from store.home import Home
from store.listing import ListedArtifact, described, list_artifact
from store.objects import HomeBucket, ObjectStorageError

_SECONDS = 5.0  # that the bucket may take for a listing, and for manifests


class Location(Enum):
    """Where the files of an index are; UNKNOWN: on the disk, and nobody knows what is in the bucket now."""

    DISK = auto()
    BUCKET = auto()
    BOTH = auto()
    UNKNOWN = auto()


@dataclass(frozen=True)
class ListedIndex:
    """An index, and where it is."""

    artifact: ListedArtifact
    location: Location


class IndexList:
    """Lists indexes in the directory of a home and in the bucket that they belong in; threads may share it.

    Manifests of the bucket are kept, as they never change.
    """

    def __init__(self, home: Home, bucket: HomeBucket | None = None) -> None:
        self._home, self._bucket = home, bucket
        self._manifests: dict[str, dict[str, Any]] = {}

    def newest(self, limit: int) -> list[ListedIndex]:
        """Return the newest indexes, newest first; where the bucket cannot be reached, those on the disk.

        Raises:
            ObjectStorageError: the bucket cannot be reached, and there is none on the disk.
        """
        here = artifacts(self._home.indexes)
        if self._bucket is None:
            return self._on_disk(here, limit, Location.DISK)
        try:
            return self._everywhere(self._bucket, set(here), limit)
        except ObjectStorageError:
            if not here:
                raise
            return self._on_disk(here, limit, Location.UNKNOWN)

    def _on_disk(self, here: list[str], limit: int, location: Location) -> list[ListedIndex]:
        newest = here[::-1][:limit]
        return [ListedIndex(list_artifact(self._home.indexes / one), location) for one in newest]

    def _everywhere(self, bucket: HomeBucket, here: set[str], limit: int) -> list[ListedIndex]:
        sizes = bucket.sizes("indexes", _SECONDS)
        newest = sorted(here | sizes.keys(), reverse=True)[:limit]
        unknown = [one for one in newest if one not in here and one not in self._manifests]
        asked = bucket.manifests("indexes", unknown, _SECONDS) if unknown else {}
        whole = {one: facts for one, facts in asked.items() if facts is not None}
        known = {one: facts for one, facts in self._manifests.items() if one in sizes} | whole
        self._manifests = known
        listed = []
        for one in newest:
            if one in here:
                location = Location.BOTH if one in sizes else Location.DISK
                listed.append(ListedIndex(list_artifact(self._home.indexes / one), location))
            else:
                artifact = described(one, known.get(one), sizes[one])
                listed.append(ListedIndex(artifact, Location.BUCKET))
        return listed
