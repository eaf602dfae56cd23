"""The artifacts of a home in object storage: uploaded whole, pointed to by conditional puts."""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from store.artifact import MANIFEST, DamagedArtifactError, parse_manifest, sha256, verify
from store.disk import disk_errors, sync
from store.home import Home
from store.ledger import LEDGER, Erasure, dump_ledger, merge_ledgers, parse_ledger
from store.locks import locked
from store.objects.places import (
    KINDS,
    ArtifactPlace,
    HomeDirectory,
    Pointer,
    PointerMovedError,
    PointerVersion,
    needed,
)
from store.objects.storage import PROBE, ConditionFailedError, ObjectStorage, StoredObject, in_object_storage

_UPLOADING = ".uploading"  # a file beside those of an upload that has begun: its time tells the age
_ABANDONED = timedelta(days=1)  # the age of an upload that nobody goes on with
_FETCHING = ".fetching-"
log = logging.getLogger(__name__)


class UploadSweptError(RuntimeError):
    """Files of an upload are gone before it ended: it took longer than a day, and a sweep removed them."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url}: files of this upload are gone again; it is not published: try again")
        self.url = url


class HomeBucket:
    """The artifacts of a home below a URL such as s3://bucket/home; as ArtifactPlace.

    The files of an artifact come first, its manifest last, by a put that makes it or fails: so two cannot
    both publish under one id, and what has no manifest is no artifact. Files that an interrupted upload left
    are not sent again.

    Attributes:
        name: the URL.
        storage: the files there.
    """

    def __init__(self, url: str) -> None:
        """Take a URL; nothing is asked yet.

        Raises:
            NoObjectStorageError: what reaches it is not installed.
            ValueError: fsspec knows no such protocol.
        """
        self.storage = ObjectStorage(url)
        self.name = self.storage.url
        self._checked = False

    def ids(self, kind: str) -> list[str]:
        """As ArtifactPlace."""
        return sorted(name.split("/")[0] for name in self._files(kind) if name.endswith(f"/{MANIFEST}"))

    def manifest(self, kind: str, artifact_id: str) -> dict[str, Any]:
        """As ArtifactPlace."""
        return parse_manifest(self._manifest(kind, artifact_id), self._url(kind, artifact_id, MANIFEST))

    def size(self, kind: str, artifact_id: str) -> int:
        """As ArtifactPlace."""
        return sum(one.size for one in self._files(f"{kind}/{artifact_id}").values())

    def sizes(self, kind: str, seconds: float) -> dict[str, int]:
        """Return the bytes of each artifact of a kind by its id, by one listing.

        Args:
            kind: of the artifacts.
            seconds: that it takes, at most.
        """
        sizes: dict[str, int] = {}
        files = self.storage.files(kind, seconds)
        for name, one in files.items():
            artifact_id, _, file = name.partition("/")
            if file and f"{artifact_id}/{MANIFEST}" in files:
                sizes[artifact_id] = sizes.get(artifact_id, 0) + one.size
        return sizes

    def manifests(
        self, kind: str, artifact_ids: Sequence[str], seconds: float
    ) -> dict[str, dict[str, Any] | None]:
        """Return the manifests of some artifacts by their ids, None for one that is damaged or gone.

        Args:
            kind: of the artifacts.
            artifact_ids: of the artifacts.
            seconds: that it takes, at most.
        """
        names = {one: f"{kind}/{one}/{MANIFEST}" for one in artifact_ids}
        found, manifests = self.storage.read_some(list(names.values()), seconds), {}
        for artifact_id, name in names.items():
            try:
                manifests[artifact_id] = (
                    parse_manifest(found[name], self._url(name)) if name in found else None
                )
            except DamagedArtifactError:
                manifests[artifact_id] = None
        return manifests

    def check(self, kind: str, artifact_id: str) -> None:
        """As ArtifactPlace; by the sizes and checksums that were noted there, nothing is read."""
        files, found = self.manifest(kind, artifact_id)["files"], self._files(f"{kind}/{artifact_id}")
        for name in sorted(found.keys() | files.keys()):
            url = self._url(kind, artifact_id, name)
            if name not in found:
                raise DamagedArtifactError(url, "is missing")
            if name not in files and name not in (MANIFEST, _UPLOADING):
                raise DamagedArtifactError(url, f"is not named by {MANIFEST}")
            if name in files and self.storage.sha256(f"{kind}/{artifact_id}/{name}") != files[name]:
                raise DamagedArtifactError(url, "is damaged: its sha256 is not the one in the manifest")

    def add(self, kind: str, directory: Path) -> bool:
        """As ArtifactPlace.

        Raises:
            NoConditionsError: two who add the same artifact could both win there.
        """
        folder, wanted = f"{kind}/{directory.name}", (directory / MANIFEST).read_bytes()
        files: dict[str, str] = verify(directory)["files"]
        there = self._files(folder)
        if MANIFEST in there:
            return self._refuse_another(folder, wanted)
        self._check_conditions()
        self.storage.put_if(f"{folder}/{_UPLOADING}", b"", self._version(f"{folder}/{_UPLOADING}"))
        sizes = {name: (directory / name).stat().st_size for name in files}
        missing = [name for name in files if not self._is_there(folder, name, sizes, there, files)]
        with tqdm(
            desc=f"upload {directory.name}",
            total=sum(sizes[name] for name in missing),
            unit="B",
            unit_scale=True,
            disable=None,
        ) as bar:
            for name in missing:
                self.storage.put(directory / name, f"{folder}/{name}", files[name], bar.update)
        arrived = {name: one.size for name, one in self._files(folder).items()}
        if any(arrived.get(name) != size for name, size in sizes.items()):
            raise UploadSweptError(self._url(folder))
        try:
            self.storage.put_if(f"{folder}/{MANIFEST}", wanted, None)
        except ConditionFailedError:
            return self._refuse_another(folder, wanted)
        self.storage.remove([f"{folder}/{_UPLOADING}"])
        log.info("%s is uploaded: %d of %d files sent", self._url(folder), len(missing), len(files))
        return True

    def fetch(self, kind: str, artifact_id: str, home: Home) -> Path:
        """As ArtifactPlace; several processes may fetch at once, and one that was killed is gone on with.

        Raises:
            DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
        """
        target = home.path / kind / artifact_id
        draft = target.with_name(f"{_FETCHING}{artifact_id}")
        with disk_errors(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            while not target.is_dir():
                draft.mkdir(exist_ok=True)
                try:
                    with locked(draft, wait=True):
                        if draft.is_dir() and not target.is_dir():  # nobody has finished it meanwhile
                            self._fill(f"{kind}/{artifact_id}", draft)
                            draft.rename(target)
                            sync(target.parent)
                except FileNotFoundError:
                    if draft.is_dir():
                        raise
        return target

    def pointer(self, pointer: Pointer) -> PointerVersion:
        """As ArtifactPlace."""
        try:
            raw, version = self.storage.read_version(pointer.name)
        except FileNotFoundError:
            return PointerVersion()
        return PointerVersion(raw.decode("utf-8", errors="replace").removesuffix("\n"), version)

    def move_pointer(self, pointer: Pointer, artifact_id: str, before: PointerVersion) -> PointerVersion:
        """As ArtifactPlace.

        Raises:
            NoConditionsError: two who move it could both win there.
        """
        self._manifest(pointer.kind, artifact_id)
        self._check_conditions()
        try:
            version = self.storage.put_if(pointer.name, f"{artifact_id}\n".encode(), before.version)
        except ConditionFailedError as error:
            found = self.pointer(pointer)
            if found.artifact_id == artifact_id:  # the reply to a put that succeeded was lost on the way
                return found
            raise PointerMovedError(self._url(pointer.name), artifact_id, found.artifact_id) from error
        log.info("%s names %s", self._url(pointer.name), artifact_id)
        return PointerVersion(artifact_id, version)

    def remove(self, kind: str, artifact_id: str) -> None:
        """As ArtifactPlace."""
        folder = f"{kind}/{artifact_id}"
        names = self._files(folder)
        self.storage.remove([f"{folder}/{MANIFEST}"])
        self.storage.remove([f"{folder}/{name}" for name in names if name != MANIFEST])

    def sweep(self, age: timedelta = _ABANDONED) -> int:
        """As ArtifactPlace: files without a manifest, and parts of files, that are older than a day."""
        before, swept = datetime.now(UTC) - age, 0
        for folder, files in self.left_behind(age).items():
            self.storage.remove([f"{folder}/{name}" for name in files])
            log.info("removed what an upload left in %s", self._url(folder))
            swept += 1
        for kind in KINDS:
            swept += self.storage.remove_unfinished(kind, before)
        probes = [
            name for name, one in self._files("").items() if name.startswith(PROBE) and one.modified < before
        ]
        self.storage.remove(probes)
        return swept + len(probes)

    def left_behind(self, age: timedelta = _ABANDONED) -> dict[str, list[str]]:
        """Return the folders of uploads that were cut off longer than `age` ago, and their files."""
        before, left = datetime.now(UTC) - age, dict[str, list[str]]()
        for kind in KINDS:
            found: dict[str, dict[str, StoredObject]] = {}
            for name, one in self._files(kind).items():
                artifact_id, _, file = name.partition("/")
                if file:
                    found.setdefault(artifact_id, {})[file] = one
            for artifact_id, files in found.items():
                if MANIFEST not in files and max(one.modified for one in files.values()) < before:
                    left[f"{kind}/{artifact_id}"] = list(files)
        return left

    def fetch_needed(self, kind: str, artifact_id: str, home: Home) -> Path:
        """Fetch an artifact and what it needs, those that are missing on the disk; return its directory.

        Raises:
            as `needed` and `fetch`.
        """
        for one_kind, one in needed(self, kind, artifact_id):
            self.fetch(one_kind, one, home)
        return home.path / kind / artifact_id

    def ledger(self) -> list[Erasure]:
        """Return the ledger of erasures there.  Raises: DamagedArtifactError."""
        try:
            raw = self.storage.read(LEDGER)
        except FileNotFoundError:
            return []
        return list(parse_ledger(raw, self._url(LEDGER)))

    def add_erasures(self, erasures: Sequence[Erasure]) -> None:
        """Add erasures to the ledger there: all exports there hide these users from now on.

        Raises:
            DamagedArtifactError: the ledger there is damaged.
        """
        known = self.ledger()
        merged = merge_ledgers(known, erasures)
        if merged != known:
            self.storage.write(LEDGER, dump_ledger(merged))

    def _fill(self, folder: str, draft: Path) -> None:
        """Bring the files of an artifact into a directory, where they are not there already; check them."""
        raw = self._manifest(*folder.split("/"))
        files: dict[str, str] = parse_manifest(raw, self._url(folder, MANIFEST))["files"]
        for path in [one for one in draft.rglob("*") if one.is_file()]:
            if files.get(path.relative_to(draft).as_posix()) != sha256(path):
                path.unlink()
        missing = [name for name in files if not (draft / name).is_file()]
        sizes = self._files(folder)
        for name in missing:
            if name not in sizes:
                raise DamagedArtifactError(self._url(folder, name), "is missing")
        with tqdm(
            desc=f"fetch {folder.partition('/')[2]}",
            total=sum(sizes[name].size for name in missing),
            unit="B",
            unit_scale=True,
            disable=None,
        ) as bar:
            for name in missing:
                path = draft / name
                path.parent.mkdir(parents=True, exist_ok=True)
                self.storage.get(f"{folder}/{name}", path, bar.update)
                if sha256(path) != files[name]:
                    path.unlink()
                    reason = "is damaged: its sha256 is not the one in the manifest"
                    raise DamagedArtifactError(self._url(folder, name), reason)
                sync(path)
        (draft / MANIFEST).write_bytes(raw)
        sync(draft / MANIFEST)
        for path in (one for one in sorted(draft.rglob("*")) if one.is_dir()):
            sync(path)
        sync(draft)
        log.info("%s is fetched: %d of %d files", self._url(folder), len(missing), len(files))

    def _manifest(self, kind: str, artifact_id: str) -> bytes:
        try:
            return self.storage.read(f"{kind}/{artifact_id}/{MANIFEST}")
        except FileNotFoundError as error:
            raise DamagedArtifactError(self._url(kind, artifact_id, MANIFEST), "is missing") from error

    def _is_there(
        self,
        folder: str,
        name: str,
        sizes: Mapping[str, int],
        there: Mapping[str, StoredObject],
        files: Mapping[str, str],
    ) -> bool:
        """Return whether an interrupted upload has left a file as it is to be."""
        if name not in there or there[name].size != sizes[name]:
            return False
        return self.storage.sha256(f"{folder}/{name}") == files[name]

    def _refuse_another(self, folder: str, wanted: bytes) -> bool:
        """Return False for an artifact that is there already.  Raises: FileExistsError."""
        if self._manifest(*folder.split("/")) != wanted:
            raise FileExistsError(f"{self._url(folder)} exists, and is another one: it is immutable")
        return False

    def _version(self, name: str) -> str | None:
        try:
            return self.storage.read_version(name)[1]
        except FileNotFoundError:
            return None

    def _check_conditions(self) -> None:
        """Try the conditions of the storage, once.  Raises: NoConditionsError."""
        if not self._checked:
            self.storage.check_conditions()
            self._checked = True

    def _files(self, folder: str) -> dict[str, StoredObject]:
        return self.storage.files(folder)

    def _url(self, *parts: str) -> str:
        return "/".join((self.name, *parts))


def place_of(named: str) -> ArtifactPlace:
    """Return the place that a path or a URL names.

    Raises:
        NoObjectStorageError: what reaches the URL is not installed.
        ValueError: fsspec knows no such protocol.
    """
    return HomeBucket(named) if in_object_storage(named) else HomeDirectory(Home(Path(named)))
