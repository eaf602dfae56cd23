"""The artifacts in a folder of a home as their manifests describe them; no other file is read."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from store.artifact import DamagedArtifactError, artifacts, made_at, read_manifest


@dataclass(frozen=True)
class ListedArtifact:
    """One artifact on disk.

    Attributes:
        artifact_id: its id.
        facts: its manifest, empty where that is damaged.
        nbytes: of its files.
        created: UTC; None where the id holds no time.
        damaged: whether the manifest is damaged.
    """

    artifact_id: str
    facts: dict[str, Any]
    nbytes: int
    created: datetime | None
    damaged: bool


def list_artifacts(parent: Path, limit: int) -> list[ListedArtifact]:
    """Return the newest artifacts of a folder, newest first, at most `limit`."""
    return [_listed(parent / artifact_id) for artifact_id in artifacts(parent)[::-1][:limit]]


def _listed(directory: Path) -> ListedArtifact:
    try:
        facts, damaged = read_manifest(directory), False
    except DamagedArtifactError:
        facts, damaged = {}, True
    try:
        created = made_at(directory.name)
    except ValueError:
        created = None
    return ListedArtifact(directory.name, facts, _size(directory), created, damaged)


def _size(directory: Path) -> int:
    """Return the bytes of the files, of those that are there still: another process may remove some."""
    size = 0
    for path in directory.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return size
