"""Where a reindex keeps what it has done, so that one that was killed goes on."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from store.artifact import sha256
from store.locks import LockedError, locked, remove_abandoned

log = logging.getLogger(__name__)

_PREFIX = ".spool-"
_DONE = "done.json"


class ReindexRunsError(RuntimeError):
    """Another process builds the same index."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"another reindex works in {folder}: wait for it, or stop it and run this again")
        self.folder = folder


@contextmanager
def build_checkpoint(parent: Path, key: str) -> Iterator[Path]:
    """Yield the folder of a build that is named by what goes into it; it stays where the block raises.

    The folders of other builds that nobody works in are swept away.

    Raises:
        ReindexRunsError: another process works in it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f"{_PREFIX}{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    with ExitStack() as stack:
        with locked(parent, wait=True):  # nobody sweeps a folder before it is held
            folder.mkdir(exist_ok=True)
            try:
                stack.enter_context(locked(folder))
            except LockedError as error:
                raise ReindexRunsError(folder) from error
        remove_abandoned(parent, f"{_PREFIX}*")
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
