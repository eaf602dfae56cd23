"""A disk that takes nothing more, because it is full or read-only: whatever meets it says so, and where."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import lmdb

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LITTLE = 1 << 20  # bytes
# What may come of a disk; most of them are something else.
DISK_ERRORS = (OSError, duckdb.OperationalError, duckdb.FatalException, lmdb.Error)


class DiskFullError(OSError):
    """Something could not be written, for want of space, quota or size; what was written before is safe."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"the disk of {path} takes no more ({reason}): free some space and try again")
        self.path = path


class ReadOnlyDiskError(OSError):
    """Something was to be written to a file system that is mounted read-only."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(f"{path} lies on a read-only file system: mount it for writing")
        self.path = path


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Name what the block raises where the disk of a path takes nothing more.

    Raises:
        DiskFullError, ReadOnlyDiskError: the block met such a disk; any other error as it is.
    """
    try:
        yield
    except DISK_ERRORS as error:
        named = disk_error(error, path)
        if named is None or named is error:
            raise
        raise named from error


def disk_error(error: Exception, path: Path | str) -> DiskFullError | ReadOnlyDiskError | None:
    """Return an error of the system, of DuckDB or LMDB as one of a disk; None where it is something else."""
    if isinstance(error, DiskFullError | ReadOnlyDiskError):
        return error
    if not isinstance(error, DISK_ERRORS):  # whose text may be anybody's
        return None
    place = getattr(error, "filename", None) or path
    # DuckDB, LMDB and a copy of many files tell the system's error by its text only.
    if _is(error, errno.EROFS):
        return ReadOnlyDiskError(place)
    for number in _FULL:
        if _is(error, number):
            return DiskFullError(place, os.strerror(number))
    if isinstance(error, lmdb.Error) and _is(error, errno.EIO) and _cut_short(Path(path)):
        return DiskFullError(place, "a write was cut short")
    return None


def sync(path: Path) -> None:
    """Return once a file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cut_short(path: Path) -> bool:
    """Return whether a disk may have taken a part of a write only, which LMDB tells as any other failure."""
    space = os.statvfs(path)
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return space.f_bavail * space.f_frsize < _LITTLE or limit != resource.RLIM_INFINITY


def _is(error: Exception, number: int) -> bool:
    known: int | None = getattr(error, "errno", None)
    return known == number if known is not None else os.strerror(number) in str(error)
