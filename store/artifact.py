"""Artifacts: immutable directories, built beside their place, checksummed, and published by one rename."""

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from store.disk import disk_errors, replace_file, sync
from store.locks import locked, locked_directory, remove_abandoned

MANIFEST = "manifest.json"
PRUNED = ".pruned-"  # before the name of what is being removed
_BUILDING = ".building-"
_COMMANDS = {"CURRENT": "reindex", "LATEST": "train"}  # that write a pointer


class DamagedArtifactError(ValueError):
    """A file of an artifact is missing, unexpected or not what was written."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


class NotPublishedError(LookupError):
    """A pointer such as CURRENT or LATEST does not exist yet."""

    def __init__(self, pointer: Path | str) -> None:
        command = _COMMANDS.get(Path(pointer).name)
        advice = f"; run `triptych {command}` first" if command else ""
        super().__init__(f"{pointer} does not exist: nothing is published there yet{advice}")
        self.pointer = Path(pointer)


@dataclass
class Draft:
    """An artifact under construction.

    Attributes:
        path: the directory to write into.
        facts: what its manifest will say.
        digests: sha256 of files, by name, that the builder knows; the others are computed.
    """

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


def new_id() -> str:
    """Make an id that sorts by time of creation, such as 20261123T194102123456-5f0c."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"


def made_at(artifact_id: str) -> datetime:
    """Return the time, UTC, at which an artifact got its id.  Raises: ValueError, where it holds none."""
    return datetime.strptime(artifact_id.partition("-")[0], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)


@contextmanager
def build(parent: Path, artifact_id: str) -> Iterator[Draft]:
    """Build an artifact: yield a draft, and when the block ends, write its manifest and rename it into place.

    A block that raises leaves nothing behind. A killed one leaves a hidden directory that nothing reads and
    that the next build with the same parent removes.

    Raises:
        FileExistsError: parent/artifact_id exists; artifacts are immutable.
        DiskFullError, ReadOnlyDiskError: the disk takes nothing more; nothing is left behind.
    """
    target = parent / artifact_id
    with disk_errors(target):
        parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise FileExistsError(f"{target} exists, and what is published there is immutable")
        remove_abandoned(parent, f"{_BUILDING}*")
        with locked_directory(parent / f"{_BUILDING}{artifact_id}-{secrets.token_hex(4)}") as folder:
            draft = Draft(folder)
            try:
                yield draft
                _seal(draft)
                draft.path.rename(target)
            except BaseException:
                shutil.rmtree(draft.path, ignore_errors=True)
                raise
        sync(parent)


def verify(directory: Path) -> dict[str, Any]:
    """Read an artifact whole, compare every file with its checksum, and return the manifest.

    Raises:
        DamagedArtifactError: a file is missing, was added or differs from its checksum; names the file.
    """
    manifest = read_manifest(directory)
    files: dict[str, str] = manifest["files"]
    present = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()} - {MANIFEST}
    for name in sorted(files.keys() | present):
        path = directory / name
        if name not in present:
            raise DamagedArtifactError(path, "is missing")
        if name not in files:
            raise DamagedArtifactError(path, f"is not named by {MANIFEST}")
        if sha256(path) != files[name]:
            raise DamagedArtifactError(path, "is damaged: its sha256 is not the one in the manifest")
    return manifest


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest alone and compare it with its own checksum; no other file is read.

    Raises:
        DamagedArtifactError: the manifest is missing or is not byte for byte what was written.
    """
    path = directory / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DamagedArtifactError(path, "is missing") from error
    return parse_manifest(raw, path)


def parse_manifest(raw: bytes, path: Path | str) -> dict[str, Any]:
    """Parse what is in the manifest at a path or URL, and compare it with its own checksum.

    Raises:
        DamagedArtifactError: it is not byte for byte what was written.
    """
    try:
        manifest: dict[str, Any] = json.loads(raw)
        checksum = manifest.pop("checksum")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedArtifactError(path, "is damaged: it is no manifest") from error
    if checksum != _checksum(manifest) or raw != _dumps(manifest | {"checksum": checksum}):
        raise DamagedArtifactError(path, "is damaged: its checksum does not match")
    outside = [name for name in manifest["files"] if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise DamagedArtifactError(path, f"is damaged: it names {outside[0]!r}, which is not below it")
    return manifest


def set_pointer(pointer: Path, artifact_id: str) -> None:
    """Make a pointer file (CURRENT, LATEST) name an artifact, durably.

    Raises:
        DiskFullError, ReadOnlyDiskError: the disk takes nothing more; the pointer is as it was.
    """
    replace_file(pointer, artifact_id + "\n")


def read_pointer(pointer: Path, parent: Path) -> Path:
    """Return the directory of the artifact below `parent` that a pointer file names.

    Raises:
        NotPublishedError: the pointer does not exist.
        DamagedArtifactError: the pointer names an artifact that does not exist.
    """
    try:
        artifact_id = pointer.read_bytes().decode("utf-8", errors="replace").removesuffix("\n")
    except FileNotFoundError as error:
        raise NotPublishedError(pointer) from error
    if artifact_id not in artifacts(parent):
        raise DamagedArtifactError(pointer, f"names {artifact_id!r}, which is not in {parent}")
    return parent / artifact_id


def artifacts(parent: Path) -> list[str]:
    """Return the ids of the finished artifacts in a directory, oldest first."""
    if not parent.is_dir():
        return []
    return sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))


def remove_artifact(directory: Path) -> None:
    """Remove an artifact; it vanishes at once and whole, even if the removal is cut short.

    Raises:
        LockedError: somebody uses it.
    """
    hidden = directory.with_name(f"{PRUNED}{directory.name}")
    with locked(directory):
        directory.rename(hidden)
        shutil.rmtree(hidden)


def sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(draft: Draft) -> None:
    """Write the manifest of a draft and bring all its files to disk."""
    files = {p.relative_to(draft.path).as_posix(): p for p in sorted(draft.path.rglob("*")) if p.is_file()}
    digests = {name: draft.digests.get(name) or sha256(path) for name, path in files.items()}
    manifest = draft.facts | {"files": digests}
    (draft.path / MANIFEST).write_bytes(_dumps(manifest | {"checksum": _checksum(manifest)}))
    folders = sorted(p for p in draft.path.rglob("*") if p.is_dir())
    for path in [*files.values(), draft.path / MANIFEST, *folders, draft.path]:
        sync(path)


def _dumps(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(_dumps(manifest)).hexdigest()
