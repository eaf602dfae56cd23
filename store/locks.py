"""Locks of files and directories (flock): they end with the process that holds them."""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


class LockedError(BlockingIOError):
    """A file or directory is locked, by this process or another."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"somebody works in {path}: wait until they are done")
        self.path = path


@contextmanager
def locked(path: Path, *, wait: bool = False, make: bool = False) -> Iterator[None]:
    """Lock a directory or a file while the block runs; `make` creates a missing file.

    Raises:
        LockedError: it is locked already, and `wait` is off.
    """
    descriptor = os.open(path, os.O_RDONLY | (os.O_CREAT if make else 0), 0o644)
    try:
        _lock(descriptor, path, wait=wait)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child process may have the descriptor, too
    finally:
        os.close(descriptor)


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Lock a directory while the block runs, as others may at once, so that `locked` fails meanwhile.

    Raises:
        FileNotFoundError: it is not there, or was removed before it was locked.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise FileNotFoundError(f"{path} was removed")
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked_directory(path: Path) -> Iterator[Path]:
    """Make a directory and lock it while the block runs, so that nobody removes it as abandoned.

    The caller removes it, or renames it.

    Raises:
        FileExistsError: the directory exists.
    """
    with ExitStack() as stack:
        with locked(path.parent, wait=True):  # nobody removes it before it is locked
            path.mkdir()
            stack.enter_context(locked(path))
        yield path


def abandoned(parent: Path, pattern: str) -> list[Path]:
    """Return the directories that match a pattern such as ".building-*" and that no process has locked."""
    if not parent.is_dir():
        return []
    with locked(parent, wait=True):
        return _abandoned(parent, pattern)


def remove_abandoned(parent: Path, pattern: str) -> None:
    """Remove the directories that `abandoned` returns: killed processes left them behind."""
    with locked(parent, wait=True):
        for path in _abandoned(parent, pattern):
            log.info("removing what a killed process left in %s", path)
            shutil.rmtree(path)


def _abandoned(parent: Path, pattern: str) -> list[Path]:
    return sorted(path for path in parent.glob(pattern) if path.is_dir() and not _is_locked(path))


def _is_locked(path: Path) -> bool:
    try:
        with locked(path):
            return not path.is_dir()  # whoever worked in it has removed it since it was opened here
    except (LockedError, PermissionError, FileNotFoundError):  # of another user, or just removed
        return True


def _lock(descriptor: int, path: Path, *, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if not wait:
            raise LockedError(path) from error
        log.info("waiting for whoever works in %s", path)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
