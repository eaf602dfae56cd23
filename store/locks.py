"""Locks of files and directories: they end with the process that holds them, whoever gets its id next."""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


class LockedError(BlockingIOError):
    """Somebody else, in this process or another, holds a file or directory."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"somebody works in {path}: wait until they are done")
        self.path = path


@contextmanager
def locked(path: Path, *, wait: bool = False, make: bool = False) -> Iterator[None]:
    """Hold a directory or a file while the block runs; `make` the file where it is missing.

    Raises:
        LockedError: somebody else holds it, and not `wait`.
    """
    descriptor = os.open(path, os.O_RDONLY | (os.O_CREAT if make else 0), 0o644)
    try:
        _lock(descriptor, path, wait=wait)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for a child that has the descriptor, too
    finally:
        os.close(descriptor)


@contextmanager
def locked_directory(path: Path) -> Iterator[Path]:
    """Yield a new directory, which `abandoned` leaves out while the block runs; removing it is the caller's.

    Raises:
        FileExistsError: there is such a directory.
    """
    with ExitStack() as stack:
        with locked(path.parent, wait=True):  # between its making and its lock, nobody sweeps
            path.mkdir()
            stack.enter_context(locked(path))
        yield path


def abandoned(parent: Path, pattern: str) -> list[Path]:
    """Return the directories that match a pattern such as ".building-*" and that nobody works in."""
    if not parent.is_dir():
        return []
    with locked(parent, wait=True):
        return _abandoned(parent, pattern)


def remove_abandoned(parent: Path, pattern: str) -> None:
    """Remove the directories that `abandoned` names: a killed process left them behind."""
    with locked(parent, wait=True):
        for path in _abandoned(parent, pattern):
            log.info("removing what a killed process left in %s", path)
            shutil.rmtree(path)


def _abandoned(parent: Path, pattern: str) -> list[Path]:
    return sorted(path for path in parent.glob(pattern) if path.is_dir() and not _held(path))


def _held(path: Path) -> bool:
    try:
        with locked(path):
            return False
    except (LockedError, PermissionError, FileNotFoundError):  # somebody else's, or done since
        return True


def _lock(descriptor: int, path: Path, *, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if not wait:
            raise LockedError(path) from error
        log.info("waiting for whoever works in %s", path)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
