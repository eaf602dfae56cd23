"""Places where the artifacts of a home lie: a directory or a bucket, behind one interface."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from store.artifact import (
    MANIFEST,
    DamagedArtifactError,
    artifacts,
    build,
    read_manifest,
    remove_artifact,
    set_pointer,
    verify,
)
from store.home import Home
from store.locks import abandoned, locked, remove_abandoned

# Folders of a home, in the order of who needs whom.
KINDS = ("exports", "text_models", "models", "indexes", "reports")
# What an artifact serves only with: the kind, and the name in its manifest.
_NEEDS = {"indexes": {"models": "model_id"}, "models": {"text_models": "text_model_id"}}
LEFT_BEHIND = (".building-*", ".fetching-*", ".pruned-*")  # by builds, fetches and removals that were killed


@dataclass(frozen=True)
class Pointer:
    """A small file of a home that names an artifact.

    Attributes:
        name: of the file.
        kind: of the artifact.
    """

    name: str
    kind: str


CURRENT = Pointer("CURRENT", "indexes")
LATEST = Pointer("models/LATEST", "models")


class PointerMovedError(RuntimeError):
    """A pointer names another artifact than the one that was to be replaced: somebody else moved it."""

    def __init__(self, place: str, wanted: str, found: str) -> None:
        super().__init__(
            f"{place} was moved to {found or 'nothing'} by somebody else meanwhile, and stays there; "
            f"{wanted} is complete: publish it if it is to take that place"
        )
        self.wanted, self.found = wanted, found


@dataclass(frozen=True)
class PointerVersion:
    """What a pointer names, "" for nothing, and which version of it said so; None where there is none."""

    artifact_id: str = ""
    version: str | None = None


class ArtifactPlace(Protocol):
    """Artifacts of a home by kind (KINDS) and id, and the pointers to some of them.

    An artifact is there whole or not at all, and never changes. What an interrupted `add` leaves is seen by
    nobody.

    Attributes:
        name: the path or URL.
    """

    name: str

    def ids(self, kind: str) -> list[str]:
        """Return the ids of the artifacts of a kind, oldest first."""
        ...

    def manifest(self, kind: str, artifact_id: str) -> dict[str, Any]:
        """Return the manifest of an artifact.  Raises: DamagedArtifactError, also where there is none."""
        ...

    def size(self, kind: str, artifact_id: str) -> int:
        """Return the bytes of an artifact."""
        ...

    def check(self, kind: str, artifact_id: str) -> None:
        """Compare the files of an artifact with its manifest.

        Raises:
            DamagedArtifactError: a file is missing or is not what was written; names it.
        """
        ...

    def add(self, kind: str, directory: Path) -> bool:
        """Add the artifact in a directory, after checking every byte; return False where it was there.

        Raises:
            DamagedArtifactError: the directory is damaged; nothing is added.
            FileExistsError: an artifact of this id is there, and is another one.
        """
        ...

    def fetch(self, kind: str, artifact_id: str, home: Home) -> Path:
        """Bring an artifact to the place of its kind in a home on the disk; return its directory, checked.

        Raises:
            DamagedArtifactError: a file is missing or is not what was written; nothing is brought.
        """
        ...

    def pointer(self, pointer: Pointer) -> PointerVersion:
        """Return what a pointer names."""
        ...

    def move_pointer(self, pointer: Pointer, artifact_id: str, before: PointerVersion) -> PointerVersion:
        """Make a pointer name another artifact, which is there, if nobody has moved it since `before`.

        Returns:
            what it names now.

        Raises:
            PointerMovedError: it names something else than `before` says.
            DamagedArtifactError: there is no such artifact.
        """
        ...

    def remove(self, kind: str, artifact_id: str) -> None:
        """Remove an artifact; it vanishes at once and whole, even if the removal is cut short."""
        ...

    def sweep(self) -> int:
        """Remove what was left behind by those who were cut off; return how many things."""
        ...


class HomeDirectory:
    """The artifacts of a home on a disk.

    Attributes:
        home: the home.
        name: its path.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.name = str(home.path)

    def ids(self, kind: str) -> list[str]:
        """As ArtifactPlace."""
        parent = self.home.path / kind
        return [one for one in artifacts(parent) if parent / one != self.home.text_cache]

    def manifest(self, kind: str, artifact_id: str) -> dict[str, Any]:
        """As ArtifactPlace."""
        return read_manifest(self.home.path / kind / artifact_id)

    def size(self, kind: str, artifact_id: str) -> int:
        """As ArtifactPlace."""
        directory = self.home.path / kind / artifact_id
        return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())

    def check(self, kind: str, artifact_id: str) -> None:
        """As ArtifactPlace; every byte is read."""
        verify(self.home.path / kind / artifact_id)

    def add(self, kind: str, directory: Path) -> bool:
        """As ArtifactPlace."""
        wanted, parent = verify(directory), self.home.path / kind
        if directory.name in self.ids(kind):
            if self.manifest(kind, directory.name) == wanted:
                return False
            raise FileExistsError(f"{parent / directory.name} exists, and is another one: it is immutable")
        with build(parent, directory.name) as draft:
            shutil.copytree(directory, draft.path, dirs_exist_ok=True)
            draft.facts = verify(draft.path)
            draft.digests = draft.facts.pop("files")
            (draft.path / MANIFEST).unlink()
        return True

    def fetch(self, kind: str, artifact_id: str, home: Home) -> Path:
        """As ArtifactPlace."""
        HomeDirectory(home).add(kind, self.home.path / kind / artifact_id)
        return home.path / kind / artifact_id

    def pointer(self, pointer: Pointer) -> PointerVersion:
        """As ArtifactPlace."""
        try:
            named = (self.home.path / pointer.name).read_text("utf-8", errors="replace").removesuffix("\n")
        except FileNotFoundError:
            return PointerVersion()
        return PointerVersion(named, named)

    def move_pointer(self, pointer: Pointer, artifact_id: str, before: PointerVersion) -> PointerVersion:
        """As ArtifactPlace."""
        path = self.home.path / pointer.name
        if artifact_id not in self.ids(pointer.kind):
            raise DamagedArtifactError(self.home.path / pointer.kind / artifact_id, "does not exist")
        with self._moving(pointer):
            found = self.pointer(pointer)
            if found != before:
                raise PointerMovedError(str(path), artifact_id, found.artifact_id)
            set_pointer(path, artifact_id)
        return PointerVersion(artifact_id, artifact_id)

    def remove(self, kind: str, artifact_id: str) -> None:
        """As ArtifactPlace."""
        remove_artifact(self.home.path / kind / artifact_id)

    def sweep(self) -> int:
        """As ArtifactPlace."""
        found = [
            (parent, pattern)
            for kind in KINDS
            for pattern in LEFT_BEHIND
            for parent in [self.home.path / kind]
            for _ in abandoned(parent, pattern)
        ]
        for parent, pattern in dict.fromkeys(found):
            remove_abandoned(parent, pattern)
        return len(found)

    @contextmanager
    def _moving(self, pointer: Pointer) -> Iterator[None]:
        lock = self.home.current_lock if pointer is CURRENT else self.home.models
        with locked(lock, wait=True, make=pointer is CURRENT):
            yield


def needed(place: ArtifactPlace, kind: str, artifact_id: str) -> list[tuple[str, str]]:
    """Return kind and id of what serves only together with an artifact, the artifact last.

    An index needs its model, and a model its language model.

    Raises:
        DamagedArtifactError: one of them is damaged or missing.
    """
    direct = needs_of(kind, place.manifest(kind, artifact_id))
    return [*(one for need in direct for one in needed(place, *need)), (kind, artifact_id)]


def needs_of(kind: str, manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return kind and id of what an artifact needs itself, by its manifest."""
    return [(other, manifest[name]) for other, name in _NEEDS.get(kind, {}).items()]


def add_needed(target: ArtifactPlace, home: Home, kind: str, artifact_id: str) -> None:
    """Add an artifact of a home on the disk to a place, after what it needs.

    Raises:
        as `needed` and `ArtifactPlace.add`.
    """
    for one_kind, one in needed(HomeDirectory(home), kind, artifact_id):
        target.add(one_kind, home.path / one_kind / one)


def copy_artifact(
    kind: str, artifact_id: str, source: ArtifactPlace, target: ArtifactPlace, by: Home
) -> bool:
    """Copy an artifact from one place to another; return False where it was there.

    Args:
        kind: of the artifact.
        artifact_id: of the artifact.
        source: where it is.
        target: where it is to be.
        by: a home on the disk that it is brought to on the way, where neither place is on the disk.

    Raises:
        as `ArtifactPlace.fetch` and `ArtifactPlace.add`.
    """
    if isinstance(target, HomeDirectory):
        there = artifact_id in target.ids(kind)
        source.fetch(kind, artifact_id, target.home)
        return not there
    if isinstance(source, HomeDirectory):
        return target.add(kind, source.home.path / kind / artifact_id)
    return target.add(kind, source.fetch(kind, artifact_id, by))
