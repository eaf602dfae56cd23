"""The artifacts of a home as their manifests describe them; no other file is read."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from store.artifact import DamagedArtifactError, artifacts, made_at, read_manifest


@dataclass(frozen=True)
class ListedArtifact:
    """One artifact.

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
    return [list_artifact(parent / artifact_id) for artifact_id in artifacts(parent)[::-1][:limit]]


def list_artifact(directory: Path) -> ListedArtifact:
    """Return the artifact in a directory as its manifest describes it."""
    try:
        facts: dict[str, Any] | None = read_manifest(directory)
    except DamagedArtifactError:
        facts = None
    return described(directory.name, facts, _size(directory))


def described(artifact_id: str, facts: dict[str, Any] | None, nbytes: int) -> ListedArtifact:
    """Return an artifact by its id, its manifest, None where that is damaged, and its bytes."""
    try:
        created = made_at(artifact_id)
    except ValueError:
        created = None
    return ListedArtifact(artifact_id, facts or {}, nbytes, created, damaged=facts is None)


def _size(directory: Path) -> int:
    """Return the bytes of the files, of those that are there still: another process may remove some."""
    size = 0
    for path in directory.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return size
