"""A folder of backups in object storage (S3 and what else fsspec reaches): uploaded, found and downloaded."""

import importlib.util
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from store.artifact import MANIFEST, DamagedArtifactError, read_manifest
from store.ledger import LEDGER

_SEPARATOR = "://"
log = logging.getLogger(__name__)


class ObjectStorageError(OSError):
    """Object storage does not do what it is asked: it cannot be reached, or refuses."""

    def __init__(self, url: str, error: Exception) -> None:
        said = " ".join(str(error).split()) or type(error).__name__
        super().__init__(
            f"{url}: {said}; is the bucket there, and do AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY (or ~/.aws) say where it is and who asks?"
        )
        self.url = url


class NoObjectStorageError(RuntimeError):
    """The package that reaches some object storage is not installed."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url}: install what reaches it, for s3:// the extra: pip install -e '.[s3]'")
        self.url = url


def in_object_storage(place: str) -> bool:
    """Return whether a place is a URL such as s3://bucket/backups, and not a path."""
    return _SEPARATOR in place


class ObjectStorage:
    """Backups below a URL, each as the files of its directory; one without a manifest is none.

    Attributes:
        url: of the folder of backups, such as s3://bucket/backups.
    """

    def __init__(self, url: str) -> None:
        """Take a URL; nothing is asked yet.

        Raises:
            NoObjectStorageError: what reaches it is not installed.
            ValueError: fsspec knows no such protocol.
        """
        self.url = url.rstrip("/")
        if importlib.util.find_spec("fsspec") is None:
            raise NoObjectStorageError(url)
        import fsspec

        try:
            # Nothing that is listed is remembered: others may write there.
            found: tuple[Any, str] = fsspec.url_to_fs(
                self.url, use_listings_cache=False, skip_instance_cache=True
            )
        except ImportError as error:
            raise NoObjectStorageError(url) from error
        self._files, self._root = found

    def backups(self) -> list[str]:
        """Return the ids of the backups, oldest first.  Raises: ObjectStorageError."""
        with self._asked(self.url):
            try:
                names = self._files.ls(self._root, detail=False)
            except FileNotFoundError:  # a folder that nothing was written to
                return []
            ids = sorted(str(name).rstrip("/").rpartition("/")[2] for name in names)
            return [one for one in ids if self._files.isfile(self._path(one, MANIFEST))]

    def is_backup(self) -> bool:
        """Return whether the URL itself is of a backup.  Raises: ObjectStorageError."""
        with self._asked(self.url):
            return bool(self._files.isfile(self._path(MANIFEST)))

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
            with self._asked(self._url(backup_id, name)):
                try:
                    self._files.get_file(self._path(backup_id, name), str(path))
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
            name, path = LEDGER, folder / f"erasures-{number}.json"
            with self._asked(self._url(one, name)):
                if self._files.isfile(self._path(one, name)):
                    self._files.get_file(self._path(one, name), str(path))
                    ledgers.append(path)
        return ledgers

    def _files_of(self, backup_id: str) -> dict[str, str]:
        """Return the sha256 of the files of a backup by name, as its manifest says."""
        with self._asked(self._url(backup_id, MANIFEST)):
            raw = self._files.cat_file(self._path(backup_id, MANIFEST))
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
        with self._asked(self._url(earlier, name)):
            try:
                self._files.cp_file(self._path(earlier, name), self._path(backup_id, name))
            except FileNotFoundError:
                log.warning("%s is gone: the file is sent", self._url(earlier, name))
                return False
        return True

    def _put(self, backup: Path, name: str) -> None:
        with self._asked(self._url(backup.name, name)):
            self._files.put_file(str(backup / name), self._path(backup.name, name))

    def _remove(self, backup_id: str) -> None:
        try:
            with self._asked(self.url):
                self._files.rm(self._path(backup_id), recursive=True)
        except ObjectStorageError as error:
            log.warning(
                "what was uploaded of backup %s is left behind, and is no backup: %s", backup_id, error
            )

    def _path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))

    def _url(self, *parts: str) -> str:
        return "/".join((self.url, *parts))

    @contextmanager
    def _asked(self, url: str) -> Iterator[None]:
        try:
            yield
        except DamagedArtifactError:
            raise
        except _errors() as error:
            raise ObjectStorageError(url, error) from error


def _errors() -> tuple[type[Exception], ...]:
    """Return what goes wrong on the way to object storage."""
    if importlib.util.find_spec("botocore") is None:
        return (OSError,)
    from botocore.exceptions import BotoCoreError, ClientError

    return OSError, BotoCoreError, ClientError
