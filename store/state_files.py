"""The LMDB files of the derived state, and whether they can be trusted."""

import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import lmdb

from store.artifact import sync
from store.disk import reserve_lock_file

_FORMAT = b"1"
_MAP_BYTES = 1 << 40  # address space, not disk
_READERS = 1024
_OPEN = "OPEN"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
DAMAGE = (
    lmdb.InvalidError,
    lmdb.BadTxnError,
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)
log = logging.getLogger(__name__)


def open_environment(path: Path) -> Any:
    """Return the LMDB environment of a state, an empty one where what lies there cannot be trusted.

    Its commits are not waited for, so what was written survives the death of the process, not that of the
    machine: a state that an earlier boot left open is thrown away.
    """
    env = None
    if path.exists() and _left_open_before_boot(path):
        discard(path, "it was open when the machine stopped")
    path.mkdir(parents=True, exist_ok=True)
    with suppress(*DAMAGE):
        env = _environment(path)
        if not _known_format(env):
            env.close()
            env = None
    if env is None:
        discard(path, "it is damaged or of another version")
        env = _environment(path)
        _known_format(env)
    (path / _OPEN).write_text(_boot_id(), "utf-8")
    sync(path / _OPEN)
    sync(path)
    return env


def head_of(path: Path) -> str | None:
    """Return the commit that a state reflects, None where it would be made anew; changes nothing."""
    if _left_open_before_boot(path):
        return None
    try:
        env = lmdb.open(str(path), readonly=True, max_dbs=8)
    except (lmdb.Error, OSError):
        return None
    try:
        with env.begin() as transaction:
            if transaction.get(b"format") != _FORMAT:
                return None
            return str(transaction.get(b"head", default=b"").decode())
    except DAMAGE:
        return None
    finally:
        env.close()


def close_environment(path: Path, env: Any) -> None:
    """Bring an environment to disk, close it and note that it can be trusted."""
    env.sync(True)
    env.close()
    (path / _OPEN).unlink(missing_ok=True)
    sync(path)


def discard(path: Path, reason: str) -> None:
    """Empty the folder of a state that cannot be trusted."""
    log.warning("making %s anew: %s", path, reason)
    shutil.rmtree(path)
    path.mkdir()


def _known_format(env: Any) -> bool:
    """Return whether an environment is of this format; an empty one takes it on."""
    with env.begin(write=True) as transaction:
        if not transaction.stat()["entries"]:
            transaction.put(b"format", _FORMAT)
        known: bool = transaction.get(b"format") == _FORMAT
    return known


def _environment(path: Path) -> Any:
    reserve_lock_file(path, _READERS)
    # The store waits for the disk; to do so a second time would halve the writes.
    env = lmdb.open(
        str(path), map_size=_MAP_BYTES, max_dbs=8, max_readers=_READERS, sync=False, metasync=False
    )
    env.reader_check()  # slots of processes that were killed
    return env


def _left_open_before_boot(path: Path) -> bool:
    try:
        opened_in = (path / _OPEN).read_text("utf-8")
    except FileNotFoundError:
        return False
    return not opened_in or opened_in != _boot_id()


def _boot_id() -> str:
    """Return a name of this run of the machine; "" where the system has none, which every start distrusts."""
    return _BOOT_ID.read_text("utf-8").strip() if _BOOT_ID.exists() else ""
