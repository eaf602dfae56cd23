"""Files below a URL in object storage: S3, and what else fsspec reaches."""

import asyncio
import importlib.util
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from store.artifact import DamagedArtifactError
from store.disk import DiskFullError, ReadOnlyDiskError, disk_errors

_SEPARATOR = "://"
_S3 = ("s3", "s3a")
_AS_PATH = re.compile(r"(\w{2,}):/+")
# A part of an upload, and how many are on the way at once: about 100 MiB of memory with the copies that the
# libraries make, and files of 80 GB before parts have to be larger.
_PART_BYTES = 8 << 20
_PARTS = 4
_CONNECT_SECONDS, _READ_SECONDS = 3, 20
_ASK_SECONDS = 15.0  # for what is small: a pointer, a manifest, the head of an object
_LIST_SECONDS = 120.0
PROBE = ".conditional-put-"  # before the names of files with which conditions are tried
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


class NoConditionsError(RuntimeError):
    """A storage cannot put an object on a condition, so that two publishers could both win there."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"{url}: {reason}; a home needs it, or two who publish at once would both believe that they had: "
            "keep it in a bucket of S3, or of a server that honours If-Match and If-None-Match"
        )
        self.url = url


class ConditionFailedError(RuntimeError):
    """An object is not the one that it was to replace: somebody else wrote it meanwhile."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url} was written by somebody else meanwhile")
        self.url = url


class LiveStoreElsewhereError(ValueError):
    """A command that works on the live store was given the URL of a home in object storage."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"this command works on the live store, and {url} has none: run it on the machine that owns the "
            f"home, with its directory; `triptych artifacts copy --from {url} --to DIRECTORY` brings "
            "exports, models, indexes and reports to a directory, where that is enough"
        )
        self.url = url


@dataclass(frozen=True)
class StoredObject:
    """A file in object storage, as a listing has it: bytes, and when it was written (UTC)."""

    size: int
    modified: datetime


def in_object_storage(place: str) -> bool:
    """Return whether a place is a URL such as s3://bucket/home, and not a path."""
    return _SEPARATOR in place


def url_of(path: Path) -> str:
    """Return the URL that was taken for a path, which drops one of its slashes; "" where it is a path."""
    found = _AS_PATH.match(str(path))
    return "" if found is None else f"{found[1]}://{str(path)[found.end() :]}"


class ObjectStorage:
    """Files below a URL; a name is what follows the URL.

    Every method that asks the storage raises ObjectStorageError where it cannot be reached or refuses, and
    what is said of it beside that.

    Attributes:
        url: without a slash at its end.
    """

    def __init__(self, url: str) -> None:
        """Take a URL; nothing is asked yet.

        Raises:
            NoObjectStorageError: what reaches it is not installed.
            ValueError: fsspec knows no such protocol.
        """
        self.url = url.rstrip("/")
        self.conditional = self.url.partition(_SEPARATOR)[0] in _S3
        if importlib.util.find_spec("fsspec") is None:
            raise NoObjectStorageError(url)
        import fsspec  # noqa: PLC0415  # an extra

        # Nothing that is listed is remembered: others may write there.
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if self.conditional:
            options |= {
                "max_concurrency": _PARTS,
                "default_block_size": _PART_BYTES,
                "config_kwargs": {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS},
            }
        try:
            found: tuple[Any, str] = fsspec.url_to_fs(self.url, **options)
        except ImportError as error:
            raise NoObjectStorageError(url) from error
        self._files, self._root = found

    def folders(self) -> list[str]:
        """Return the names of the folders directly below the URL, sorted."""
        with self._asked(self.url):
            try:
                names = self._files.ls(self._root, detail=False)
            except FileNotFoundError as error:  # a folder that nothing was written to
                self._refuse_missing_bucket(error)
                return []
            return sorted(str(name).rstrip("/").rpartition("/")[2] for name in names)

    def files(self, folder: str = "", seconds: float = _LIST_SECONDS) -> dict[str, StoredObject]:
        """Return all files below a folder by their names in it; it takes so many seconds at most."""
        root = self._path(folder) if folder else self._root
        with self._asked(self._url(folder)):
            found: dict[str, dict[str, Any]] = (
                self._small(self._files._find(root, detail=True), seconds)
                if self.conditional
                else self._files.find(root, detail=True)
            )
        start = len(root.rstrip("/")) + 1
        return {
            path[start:]: StoredObject(
                int(info["size"] or 0), info.get("LastModified") or datetime.fromtimestamp(0, UTC)
            )
            for path, info in found.items()
            if info["type"] == "file" and len(path) > start
        }

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        with self._asked(self._url(name)):
            return bool(self._files.isfile(self._path(name)))

    def read(self, name: str) -> bytes:
        """Return what is in a small file.  Raises: FileNotFoundError."""
        return self.read_version(name)[0] if self.conditional else self._read(name)

    def read_some(self, names: Sequence[str], seconds: float) -> dict[str, bytes]:
        """Return what is in small files by their names, of those that are there; all are asked for at once.

        Args:
            names: of the files.
            seconds: that it takes, at most.
        """
        with self._asked(self.url):
            if not self.conditional:
                return {name: self._read(name) for name in names if self.has(name)}
            found = dict(zip(names, self._small(self._get_each(names), seconds), strict=True))
            for one in found.values():
                if isinstance(one, Exception) and not isinstance(one, FileNotFoundError):
                    raise one
        return {name: one for name, one in found.items() if isinstance(one, bytes)}

    def read_version(self, name: str) -> tuple[bytes, str]:
        """Return what is in a small file, and the version of it, for `put_if`.  Raises: FileNotFoundError."""
        with self._asked(self._url(name)):
            try:
                content, version = self._small(self._get(name))
                return bytes(content), str(version)
            except FileNotFoundError as error:
                self._refuse_missing_bucket(error)
                raise _MissingError(self._url(name)) from error

    def sha256(self, name: str) -> str:
        """Return the sha256 that was noted when a file was put; "" where none was.

        Raises: FileNotFoundError.
        """
        with self._asked(self._url(name)):
            try:
                head = self._small(self._files._call_s3("head_object", **self._key(name)))
            except FileNotFoundError as error:
                raise _MissingError(self._url(name)) from error
        return str(head.get("Metadata", {}).get("sha256", ""))

    def put(
        self, path: Path, name: str, sha256: str = "", progress: Callable[[int], object] | None = None
    ) -> None:
        """Put a file there, a large one in parts; it is there whole, or not at all.

        Args:
            path: the file.
            name: of the file there.
            sha256: of the file, noted beside it.
            progress: is told of bytes that were sent.
        """
        noted: dict[str, Any] = {"Metadata": {"sha256": sha256}, "chunksize": _PART_BYTES}
        with self._asked(self._url(name)):
            self._files.put_file(
                str(path),
                self._path(name),
                callback=_callback(progress),
                **(noted if self.conditional else {}),
            )

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, whatever was there."""
        with self._asked(self._url(name)):
            self._files.pipe_file(self._path(name), content)

    def put_if(self, name: str, content: bytes, version: str | None) -> str:
        """Replace a small file if it still has a version, or make it if there is none; return its version.

        Args:
            name: of the file.
            content: all that is in it.
            version: as `read_version` returns it; None: there must be no such file.

        Raises:
            ConditionFailedError: it has another version; it stays as it is.
            NoConditionsError: the storage knows no conditions.
        """
        if not self.conditional:
            raise NoConditionsError(self.url, "this storage cannot put an object on a condition")
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        asked = self._key(name) | condition
        with self._asked(self._url(name)):
            try:
                done = self._small(self._files._call_s3("put_object", Body=content, **asked))
            except OSError as error:
                self._refuse_missing_bucket(error)
                if _code(error) in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409") or (
                    version is not None and isinstance(error, FileNotFoundError)
                ):
                    raise ConditionFailedError(self._url(name)) from error
                raise
        return str(done["ETag"])

    def check_conditions(self) -> None:
        """Try whether the storage honours conditions, with a small file that is removed again.

        Raises:
            NoConditionsError: it does not.
        """
        name = f"{PROBE}{secrets.token_hex(8)}"
        version = self.put_if(name, b"1", None)
        try:
            for wanted in (None, '"00000000000000000000000000000000"'):
                try:
                    self.put_if(name, b"2", wanted)
                except ConditionFailedError:
                    continue
                header = "If-None-Match" if wanted is None else "If-Match"
                raise NoConditionsError(self.url, f"the storage ignores {header} on PutObject")
            try:
                self.put_if(name, b"3", version)
            except ConditionFailedError as error:
                reason = "the storage refuses If-Match with the version that it gave"
                raise NoConditionsError(self.url, reason) from error
        finally:
            self.remove([name])

    def get(self, name: str, path: Path, progress: Callable[[int], object] | None = None) -> None:
        """Copy a file to the disk.

        Args:
            name: of the file.
            path: where it goes.
            progress: is told of bytes that arrived.

        Raises:
            FileNotFoundError: there is no such file.
            DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
        """
        with self._asked(self._url(name)), disk_errors(path.parent):
            try:
                self._files.get_file(self._path(name), str(path), callback=_callback(progress))
            except FileNotFoundError as error:
                self._refuse_missing_bucket(error)
                raise _MissingError(self._url(name)) from error

    def copy(self, name: str, to: str) -> None:
        """Have the storage copy a file.  Raises: FileNotFoundError."""
        with self._asked(self._url(name)):
            try:
                self._files.cp_file(self._path(name), self._path(to))
            except FileNotFoundError as error:
                raise _MissingError(self._url(name)) from error

    def remove(self, names: list[str]) -> None:
        """Remove files; one that is not there is no error."""
        if names:
            with self._asked(self._url(names[0])), suppress(FileNotFoundError):
                self._files.rm([self._path(name) for name in names])

    def remove_unfinished(self, folder: str, before: datetime) -> int:
        """Remove parts of uploads that were cut off and began before a time; return of how many uploads."""
        if not self.conditional:
            return 0
        place, removed = self._key(folder), 0
        bucket = {"Bucket": place["Bucket"]}
        with self._asked(self._url(folder)):
            listed = self._small(
                self._files._call_s3("list_multipart_uploads", Prefix=f"{place['Key']}/", **bucket)
            )
            for one in listed.get("Uploads") or ():
                if one["Initiated"] < before:
                    self._small(
                        self._files._call_s3(
                            "abort_multipart_upload", Key=one["Key"], UploadId=one["UploadId"], **bucket
                        )
                    )
                    removed += 1
        return removed

    def _read(self, name: str) -> bytes:
        with self._asked(self._url(name)):
            try:
                return bytes(self._files.cat_file(self._path(name)))
            except FileNotFoundError as error:
                raise _MissingError(self._url(name)) from error

    async def _get_each(self, names: Sequence[str]) -> list[bytes | BaseException]:
        async def content(name: str) -> bytes:
            return (await self._get(name))[0]

        return await asyncio.gather(*map(content, names), return_exceptions=True)

    async def _get(self, name: str) -> tuple[bytes, str]:
        got = await self._files._call_s3("get_object", **self._key(name))
        async with got["Body"] as body:
            return await body.read(), got["ETag"]

    def _small(self, call: Any, seconds: float | None = None) -> Any:
        """Run a call that is answered within some seconds or not at all.  Raises: TimeoutError."""
        from fsspec.asyn import sync  # noqa: PLC0415

        async def made() -> Any:
            return await call

        seconds = seconds or _ASK_SECONDS
        try:
            return sync(self._files.loop, made, timeout=seconds)
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {seconds:g} s") from error

    def _key(self, name: str) -> dict[str, str]:
        bucket, key, _ = self._files.split_path(self._path(name))
        return {"Bucket": bucket, "Key": key}

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _url(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def _refuse_missing_bucket(self, error: Exception) -> None:
        if _code(error) == "NoSuchBucket":
            raise ObjectStorageError(self.url, error) from error

    @contextmanager
    def _asked(self, url: str) -> Iterator[None]:
        try:
            yield
        except (DamagedArtifactError, DiskFullError, ReadOnlyDiskError, ObjectStorageError, _MissingError):
            raise
        except _errors() as error:
            raise ObjectStorageError(url, error) from error


class _MissingError(FileNotFoundError):
    """There is no such file; an error of its own, as the libraries say it of a bucket, too."""


def _callback(progress: Callable[[int], object] | None) -> Any:
    """Return what the libraries tell of bytes."""
    from fsspec.callbacks import DEFAULT_CALLBACK, Callback  # noqa: PLC0415

    if progress is None:
        return DEFAULT_CALLBACK
    callback = Callback()
    callback.relative_update = lambda inc=1: progress(inc)
    return callback


def _code(error: BaseException) -> str:
    """Return the code of S3's error, which the libraries have turned into one of the system; "" for none."""
    cause = error.__cause__ or error
    said: Any = getattr(cause, "response", None)
    return str(said.get("Error", {}).get("Code", "")) if isinstance(said, dict) else ""


def _errors() -> tuple[type[Exception], ...]:
    """Return what goes wrong on the way to object storage."""
    if importlib.util.find_spec("botocore") is None:
        return (OSError,)
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    return OSError, BotoCoreError, ClientError
