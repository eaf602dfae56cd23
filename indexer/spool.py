"""Where a reindex keeps what it has done, so that one that was killed goes on."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.artifact import sha256

log = logging.getLogger(__name__)

_PREFIX = ".spool-"
_DONE = "done.json"
_LOCK = "lock"


class ReindexRunsError(RuntimeError):
    """Another process builds the same index."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"another reindex works in {folder}: wait for it, or stop it and run this again")
        self.folder = folder


@contextmanager
def spool(parent: Path, key: str) -> Iterator[Path]:
    """Yield the folder of a build that is named by what goes into it; it stays where the block raises.

    The folders of other builds that nobody works in are swept away.

    Raises:
        ReindexRunsError: another process works in it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f"{_PREFIX}{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    for other in parent.glob(f"{_PREFIX}*"):
        if other != folder:
            _sweep(other)
    folder.mkdir(exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ReindexRunsError(folder) from error
        yield folder
        shutil.rmtree(folder)


def finished(folder: Path, stage: str) -> bool:
    """Return whether a stage is done and its files are byte for byte what it wrote."""
    done = folder / f"{stage}.{_DONE}"
    if not done.exists():
        return False
    files: dict[str, str] = json.loads(done.read_text("utf-8"))
    whole = all(
        (folder / name).exists() and sha256(folder / name) == digest for name, digest in files.items()
    )
    if whole:
        log.info("reindex: %s of an earlier run go on", stage)
    return whole


def finish(folder: Path, stage: str, names: list[str]) -> None:
    """Note that a stage is done, with the checksums of its files, durably."""
    for name in names:
        _sync(folder / name)
    draft = folder / f"{stage}.tmp"
    draft.write_text(json.dumps({name: sha256(folder / name) for name in names}), "utf-8")
    _sync(draft)
    draft.replace(folder / f"{stage}.{_DONE}")


def _sweep(folder: Path) -> None:
    try:
        with (folder / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    except (FileNotFoundError, BlockingIOError):
        return  # somebody works in it, or it has gone


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
