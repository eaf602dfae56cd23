"""LMDB files that are looked through before LMDB reads them: a damaged page can kill the process."""

import hashlib
import json
import logging
import os
import struct
from pathlib import Path
from typing import Any

import lmdb
from lmdb.verify import VerifyError, verify

from store.disk import disk_errors

DATA_FILE = "data.mdb"
MAX_CHECKED_BYTES = 256 << 20  # bytes: 3 s to walk, 0.4 s to compare with the seal
_SEAL = "SEAL"
_LOCK_FILE = "lock.mdb"
_READER_BYTES, _PAGE_BYTES = 64, 4096
_HEADER = struct.Struct("<16xII8xQI")  # of a meta page: magic, version, map size, page size
_LAST = struct.Struct("<136xQQ")  # last page, transaction id
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_PAGE_SIZES = {1 << power for power in range(8, 16)}
DAMAGE_ERRORS = (
    lmdb.InvalidError,
    lmdb.BadTxnError,
    lmdb.CorruptedError,
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)
_READERS = 126  # LMDB's own default
_LOOKS = 3  # at the first pages: another process may write one of them just then
log = logging.getLogger(__name__)


class DamagedLmdbFileError(ValueError):
    """An LMDB file is not what was written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path / DATA_FILE} is damaged: {reason}")
        self.path = path
        self.reason = reason


def open_checked(path: Path, **options: Any) -> tuple[Any, bool]:
    """Open the LMDB environment in a folder once its file is known to hold together.

    A file that is byte for byte as it was sealed is trusted. Of any other one every page is walked, without
    LMDB: what it passes, LMDB reads without leaving the file, though values may have changed. So that a start
    takes seconds at most, of a file of more than `MAX_CHECKED_BYTES` only the first pages and the size are
    looked at, unless it is shorter than these say; `triptych doctor` walks it.

    Returns:
        The environment, and whether its values are taken as they are: the file is as it was sealed, empty, or
        too large.

    Raises:
        DamagedLmdbFileError: the file is damaged; it is left as it is.
        DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
    """
    file = path / DATA_FILE
    size = file.stat().st_size if file.exists() else 0
    looks = [] if not size else [_header_fault(path, options["map_size"]) for _ in range(_LOOKS)]
    if looks and all(looks):
        raise DamagedLmdbFileError(path, looks[-1])
    if not options.get("readonly"):
        reserve_lock_file(path, options.get("max_readers", _READERS))
    try:
        with disk_errors(path):
            env: Any = lmdb.open(str(path), **options)
    except (*DAMAGE_ERRORS, lmdb.MemoryError) as error:
        raise DamagedLmdbFileError(path, str(error)) from error
    try:
        if size > MAX_CHECKED_BYTES:
            trusted = True
            walked = size < (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        else:
            trusted = not size or _is_sealed(path, env)
            walked = not trusted
        if walked:
            _check_pages(path, env)
    except BaseException:
        env.close()
        raise
    return env, trusted


def reserve_lock_file(folder: Path, readers: int) -> None:
    """Make room for the lock file of an LMDB environment, before LMDB maps it into memory.

    Where the disk has no block for a page of the map, the system ends the process with SIGBUS.

    Raises:
        DiskFullError, ReadOnlyDiskError: there is no room.
    """
    size = -(-(readers + 8) * _READER_BYTES // _PAGE_BYTES) * _PAGE_BYTES
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)


def seal(path: Path, env: Any) -> None:
    """Bring a file to disk and write down its digest; one that is sealed already, or large, is left alone."""
    try:
        if (path / DATA_FILE).stat().st_size > MAX_CHECKED_BYTES:
            env.sync(True)
            return
        with env.begin(write=True):  # nobody else writes meanwhile; nothing is written here
            last = env.info()["last_txnid"]
            if _said(path).get("transaction") == last:
                return
            env.sync(True)
            draft = path / f".{_SEAL}"
            draft.write_text(json.dumps({"transaction": last, "sha256": _digest(path)}), "utf-8")
            draft.replace(path / _SEAL)
    except OSError as error:
        log.warning("%s is not sealed (%s): whoever opens it next looks through it", path / DATA_FILE, error)


def remove_files(path: Path) -> None:
    """Remove the files of an environment; processes that have them open go on in what nobody else sees."""
    for name in (DATA_FILE, "lock.mdb", _SEAL):
        (path / name).unlink(missing_ok=True)


def page_faults(path: Path) -> list[str]:
    """Return what is wrong with the pages of an LMDB file, read without LMDB; the first few."""
    try:
        found: list[str] = verify(str(path))  # type: ignore[no-untyped-call]
    except (VerifyError, OSError) as error:
        return [str(error)]
    return found


def _header_fault(path: Path, map_size: int) -> str:
    """Return what is wrong with what LMDB takes from a file to map it, "" for nothing."""
    with (path / DATA_FILE).open("rb") as file:
        raw = file.read(2 * max(_PAGE_SIZES))
    page = _HEADER.unpack_from(raw)[3] if len(raw) >= _LAST.size else 0
    if page not in _PAGE_SIZES or len(raw) < 2 * page:
        return f"it has {len(raw)} bytes, in pages of {page}"
    ids = []
    for start in (0, page):
        magic, version, _, size = _HEADER.unpack_from(raw, start)
        last, transaction = _LAST.unpack_from(raw, start)
        if (magic, version, size) != (_MAGIC, _VERSION, page):
            return f"page {start // page} is not what LMDB begins a file with"
        if (last + 1) * page > map_size:
            return f"it names a page {last}"
        ids.append(transaction)
    if abs(ids[0] - ids[1]) > 1:
        return f"transactions {ids[0]} and {ids[1]} do not follow each other"
    return ""


def _check_pages(path: Path, env: Any) -> None:
    """Walk every page.  Raises: DamagedLmdbFileError."""
    with env.begin():  # so that other processes leave the pages alone that are looked at
        found = page_faults(path)
    if found:
        with env.begin(write=True):  # a commit of theirs may have come between
            found = page_faults(path)
    if found:
        raise DamagedLmdbFileError(path, "; ".join(found[:3]))


def _is_sealed(path: Path, env: Any) -> bool:
    said = _said(path)
    return said.get("transaction") == env.info()["last_txnid"] and said.get("sha256") == _digest(path)


def _said(path: Path) -> dict[str, Any]:
    """Return what a seal says, nothing where there is none that can be read."""
    try:
        said = json.loads((path / _SEAL).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _digest(path: Path) -> str:
    with (path / DATA_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
