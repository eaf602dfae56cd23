"""Write durably, and name the errors of a disk that is full or read-only."""

import errno
import os
import resource
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOW_SPACE = 1 << 20  # bytes


class DiskFullError(OSError):
    """The disk has no space, or a quota or limit of size is reached; what was written before is safe."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"the disk of {path} takes no more ({reason}): free some space and try again")
        self.path = path


class ReadOnlyDiskError(OSError):
    """The file system is mounted read-only."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(f"{path} lies on a read-only file system: mount it for writing")
        self.path = path


def errors_of_disks() -> tuple[type[Exception], ...]:
    """Return the kinds of errors that a disk may have caused; most of them have other causes.

    DuckDB's are among them where it is loaded: what only reads files and the state never loads it.
    """
    duckdb = sys.modules.get("duckdb")
    of_duckdb = () if duckdb is None else (duckdb.OperationalError, duckdb.FatalException)
    return OSError, lmdb.Error, *of_duckdb


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an error of the block into DiskFullError or ReadOnlyDiskError where the disk of a path caused it.

    Raises:
        DiskFullError, ReadOnlyDiskError: the disk takes nothing more. Any other error is raised as it is.
    """
    try:
        yield
    except errors_of_disks() as error:
        named = disk_error(error, path)
        if named is None or named is error:
            raise
        raise named from error


def disk_error(error: Exception, path: Path | str) -> DiskFullError | ReadOnlyDiskError | None:
    """Recognise an error of the system, of DuckDB or of LMDB as one of the disk; None where it is none."""
    if isinstance(error, DiskFullError | ReadOnlyDiskError):
        return error
    if not isinstance(error, errors_of_disks()):  # its text proves nothing
        return None
    place = getattr(error, "filename", None) or path
    # DuckDB, LMDB and shutil.copytree pass the error of the system on as text only.
    if _is(error, errno.EROFS):
        return ReadOnlyDiskError(place)
    for number in _FULL:
        if _is(error, number):
            return DiskFullError(place, os.strerror(number))
    if isinstance(error, lmdb.Error) and _is(error, errno.EIO) and _cut_short(Path(path)):
        return DiskFullError(place, "a write was cut short")
    return None


def replace_file(path: Path, text: str, mode: int = 0o666) -> None:
    """Replace a text file durably: written beside its place, brought to disk, renamed.

    Args:
        path: of the file.
        text: all that is in it.
        mode: of a file that is made, less what the process's mask forbids.

    Raises:
        DiskFullError, ReadOnlyDiskError: the disk takes nothing more; the file is as it was.
    """
    draft = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        with (
            disk_errors(path),
            open(draft, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, mode)) as file,
        ):
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    draft.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file or directory to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cut_short(path: Path) -> bool:
    """Return whether a disk may have written a part only; LMDB then says EIO, as for any failure."""
    space = os.statvfs(path)
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return space.f_bavail * space.f_frsize < _LOW_SPACE or limit != resource.RLIM_INFINITY


def _is(error: Exception, number: int) -> bool:
    """Return whether an error has a number of `errno`, or names it in its text."""
    known: int | None = getattr(error, "errno", None)
    return known == number if known is not None else os.strerror(number) in str(error)
