"""A folder of backups in object storage (S3 and what else fsspec reaches): uploaded, found and downloaded."""

import json
import logging
from pathlib import Path

from tqdm import tqdm

from store.artifact import MANIFEST, DamagedArtifactError, read_manifest
from store.ledger import LEDGER
from store.objects import ObjectStorage, ObjectStorageError

log = logging.getLogger(__name__)


class BackupFolder:
    """Backups below a URL, each as the files of its directory; one without a manifest is none.

    Attributes:
        url: of the folder of backups, such as s3://bucket/backups.
        storage: the files there.
    """

    def __init__(self, url: str) -> None:
        """Take a URL; nothing is asked yet.

        Raises:
            NoObjectStorageError: what reaches it is not installed.
            ValueError: fsspec knows no such protocol.
        """
        self.storage = ObjectStorage(url)
        self.url = self.storage.url

    def backups(self) -> list[str]:
        """Return the ids of the backups, oldest first.  Raises: ObjectStorageError."""
        return [one for one in self.storage.folders() if self.storage.has(f"{one}/{MANIFEST}")]

    def is_backup(self) -> bool:
        """Return whether the URL itself is of a backup.  Raises: ObjectStorageError."""
        return self.storage.has(MANIFEST)

    def upload(self, backup: Path, *, full: bool) -> int:
        """Upload a backup, its manifest last; return how many files were not sent, as they are there.

        Files with the name and the checksum of one in the newest backup there are copied by the storage, as
        far as it still has them.

        Raises:
            ObjectStorageError: it is not uploaded; what was begun is no backup, and is removed if it can be.
        """
        files: dict[str, str] = read_manifest(backup)["files"]
        earlier = [] if full else self.backups()
        before = earlier[-1] if earlier else ""
        there = self._known_files_of(before) if before else {}
        copied = 0
        try:
            for name in tqdm(sorted(files), desc="upload", unit="file", disable=None):
                if there.get(name) == files[name] and self._copied(before, backup.name, name):
                    copied += 1
                else:
                    self._put(backup, name)
            self._put(backup, MANIFEST)
        except BaseException:
            self._remove(backup.name)
            raise
        return copied

    def download(self, backup_id: str, folder: Path) -> Path:
        """Download a backup into a folder and return its directory; it is not verified.

        Raises:
            DamagedArtifactError: a file that its manifest names is not there.
            ObjectStorageError.
        """
        target = folder / backup_id
        for name in tqdm([MANIFEST, *self._files_of(backup_id)], desc="download", unit="file", disable=None):
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.storage.get(f"{backup_id}/{name}", path)
            except FileNotFoundError as error:
                raise DamagedArtifactError(Path(name), f"is not in {self.url}/{backup_id}") from error
        return target

    def download_ledgers(self, folder: Path) -> list[Path]:
        """Download the ledgers of erasures of all backups and return their files.

        Raises:
            ObjectStorageError.
        """
        ledgers: list[Path] = []
        for number, one in enumerate(self.backups()):
            path = folder / f"erasures-{number}.json"
            if self.storage.has(f"{one}/{LEDGER}"):
                self.storage.get(f"{one}/{LEDGER}", path)
                ledgers.append(path)
        return ledgers

    def _files_of(self, backup_id: str) -> dict[str, str]:
        """Return the sha256 of the files of a backup by name, as its manifest says."""
        raw = self.storage.read(f"{backup_id}/{MANIFEST}")
        try:
            files: dict[str, str] = dict(json.loads(raw)["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedArtifactError(Path(MANIFEST), f"of {self.url}/{backup_id} is no manifest") from error
        outside = [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]
        if outside:
            raise DamagedArtifactError(Path(MANIFEST), f"of {self.url}/{backup_id} names {outside[0]!r}")
        return files

    def _known_files_of(self, backup_id: str) -> dict[str, str]:
        """Return as `_files_of` does; nothing for a damaged backup, which shares no file with another."""
        try:
            return self._files_of(backup_id)
        except DamagedArtifactError as error:
            log.warning("%s: all files are sent", error)
            return {}

    def _copied(self, earlier: str, backup_id: str, name: str) -> bool:
        """Copy a file of an earlier backup; return whether it was there."""
        try:
            self.storage.copy(f"{earlier}/{name}", f"{backup_id}/{name}")
        except FileNotFoundError:
            log.warning("%s/%s/%s is gone: the file is sent", self.url, earlier, name)
            return False
        return True

    def _put(self, backup: Path, name: str) -> None:
        self.storage.put(backup / name, f"{backup.name}/{name}")

    def _remove(self, backup_id: str) -> None:
        try:
            self.storage.remove([f"{backup_id}/{name}" for name in self.storage.files(backup_id)])
        except ObjectStorageError as error:
            log.warning(
                "what was uploaded of backup %s is left behind, and is no backup: %s", backup_id, error
            )
