"""Open and close the LMDB files of the derived state, and decide whether they can be trusted."""

import logging
import shutil
from pathlib import Path
from typing import Any

import lmdb

from store.disk import sync
from store.lmdb_file import DAMAGE_ERRORS, DamagedLmdbFileError, open_checked, page_faults, seal
from store.state.packing import DamagedRecordError, with_checksum, without_checksum

_FORMAT = b"2"
_FORMAT_WITHOUT_CHECKSUMS = b"1"
_MAP_BYTES = 1 << 40  # address space, not disk
_READERS = 1024
_OPEN = "OPEN"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TABLES = (b"events", b"texts", b"friends", b"items", b"words", b"log", b"live", b"consents")
_LATER = (b"log", b"live", b"consents")  # tables that earlier versions did not make
log = logging.getLogger(__name__)


def open_environment(path: Path) -> Any:
    """Open the LMDB environment of a state; where there is none, or one not to be trusted, make an empty one.

    Its commits do not wait for the disk, so they survive the death of the process, not that of the machine: a
    state that an earlier boot left open is discarded. A state that was closed is compared with its seal; of
    any other every page and every record is checked, unless the file is large (see `store.lmdb_file`): then
    a damaged record is found when it is read.
    """
    if path.exists() and _left_open_before_boot(path):
        discard(path, "it was open when the machine stopped")
    path.mkdir(parents=True, exist_ok=True)
    try:
        env = _open_trusted(path)
    except (DamagedLmdbFileError, DamagedRecordError) as error:
        discard(path, str(error))
        env = _open_trusted(path)
    (path / _OPEN).write_text(_boot_id(), "utf-8")
    sync(path / _OPEN)
    sync(path)
    return env


def open_for_reading(path: Path) -> Any:
    """Open the environment of a state that another process has open, to follow what it writes.

    Raises:
        DamagedLmdbFileError: LMDB cannot open it, or nothing is there.
    """
    try:
        return lmdb.open(
            str(path), map_size=_MAP_BYTES, max_dbs=8, max_readers=_READERS, readonly=True, create=False
        )
    except (*DAMAGE_ERRORS, lmdb.Error) as error:
        raise DamagedLmdbFileError(path, str(error)) from error


def stored_commit_id(path: Path) -> str | None:
    """Return the id of the commit that a state reflects, None where it cannot be known; changes nothing.

    Checks every page and every record.

    Raises:
        DamagedLmdbFileError, DamagedRecordError: one is damaged.
    """
    if _left_open_before_boot(path):
        return None
    if faults := page_faults(path):
        raise DamagedLmdbFileError(path, faults[0])
    env, _ = open_checked(path, map_size=_MAP_BYTES, max_dbs=8, readonly=True)
    try:
        with env.begin() as transaction:
            if (version := transaction.get(b"format")) == _FORMAT:
                _check_records(env, transaction)
            elif version != _FORMAT_WITHOUT_CHECKSUMS:
                return None
            return str(transaction.get(b"head", default=b"").decode())
    finally:
        env.close()


def close_environment(path: Path, env: Any) -> None:
    """Bring an environment to disk, close it and mark it as closed."""
    seal(path, env)
    env.close()
    (path / _OPEN).unlink(missing_ok=True)
    sync(path)


def discard(path: Path, reason: str) -> None:
    """Remove the files of a state that cannot be trusted, and log the reason."""
    log.warning("making %s anew: %s", path, reason)
    shutil.rmtree(path)
    path.mkdir()


def _open_trusted(path: Path) -> Any:
    """Open an environment after checking its file, format and records; one of the first format is converted.

    Raises:
        DamagedLmdbFileError: the file is damaged, or of an unknown format.
        DamagedRecordError: a record is damaged.
        DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
    """
    # No sync: DuckDB has waited for the disk, and waiting a second time would halve the writes per second.
    env, trusted = open_checked(
        path, map_size=_MAP_BYTES, max_dbs=8, max_readers=_READERS, sync=False, metasync=False
    )
    try:
        env.reader_check()  # frees the slots of killed processes
        tables = [env.open_db(name) for name in _TABLES]
        with env.begin(write=True) as transaction:
            version = transaction.get(b"format")
            if version is None and not any(transaction.stat(table)["entries"] for table in tables):
                transaction.put(b"format", _FORMAT)
            elif version == _FORMAT_WITHOUT_CHECKSUMS:
                _add_checksums(transaction, tables)
            elif version != _FORMAT:
                raise DamagedLmdbFileError(path, f"its format is {version!r}, not {_FORMAT!r}")
            elif not trusted:
                _check_records(env, transaction)
    except BaseException:
        env.close()
        raise
    return env


def _add_checksums(transaction: Any, tables: list[Any]) -> None:
    """Convert a state of the first format to the present one."""
    for table in tables:
        for key, raw in list(transaction.cursor(table)):
            transaction.put(key, with_checksum(key, raw), db=table)
    transaction.put(b"format", _FORMAT)


def _check_records(env: Any, transaction: Any) -> None:
    """Check the checksum of every record.  Raises: DamagedRecordError."""
    for name in _TABLES:
        try:
            table = env.open_db(name, txn=transaction, create=False)
        except lmdb.Error as error:
            if name in _LATER:
                continue
            raise DamagedRecordError(name.decode()) from error
        for key, raw in transaction.cursor(table):
            without_checksum(name.decode(), key, raw)


def _left_open_before_boot(path: Path) -> bool:
    try:
        opened_in = (path / _OPEN).read_text("utf-8")
    except FileNotFoundError:
        return False
    return not opened_in or opened_in != _boot_id()


def _boot_id() -> str:
    """Return the id of this boot of the machine; without one, "", no state that was left open is trusted."""
    return _BOOT_ID.read_text("utf-8").strip() if _BOOT_ID.exists() else ""
