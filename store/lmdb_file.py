"""LMDB files, checked before LMDB reads them, because a damaged page can end the process."""

import json
import logging
import os
import struct
from pathlib import Path
from typing import Any

import lmdb
from lmdb.verify import VerifyError, verify

from store.artifact import sha256
from store.disk import disk_errors, replace_file

DATA_FILE = "data.mdb"
MAX_CHECKED_BYTES = 256 << 20  # takes 3 s to check page by page, 0.4 s to compare with the seal
_SEAL = "SEAL"
_LOCK_FILE = "lock.mdb"
_READER_BYTES, _PAGE_BYTES = 64, 4096
_HEADER = struct.Struct("<16xII8xQI")  # of a meta page: magic, version, map size, page size
_LAST_COMMIT = struct.Struct("<136xQQ")  # of a meta page: last page, transaction id
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
_HEADER_READS = 3  # another process may be writing one of the first pages
log = logging.getLogger(__name__)


class DamagedLmdbFileError(ValueError):
    """An LMDB file is not what was written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path / DATA_FILE} is damaged: {reason}")
        self.path = path
        self.reason = reason


def open_checked(path: Path, **options: Any) -> tuple[Any, bool]:
    """Open the LMDB environment in a folder after checking its file.

    A file that is byte for byte as it was sealed is trusted. Of any other every page is checked without LMDB;
    LMDB then reads it without leaving the file, but values may be damaged. So that a start takes seconds at
    most, only the header and the size are checked of a file beyond `MAX_CHECKED_BYTES`, and all pages where
    it is shorter than its header says; `triptych doctor` checks such a file whole.

    Returns:
        The environment, and whether its values need no check: the file is as it was sealed, empty or too
        large.

    Raises:
        DamagedLmdbFileError: the file is damaged; it is left as it is.
        DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
    """
    file = path / DATA_FILE
    size = file.stat().st_size if file.exists() else 0
    faults = [_header_fault(path, options["map_size"]) for _ in range(_HEADER_READS)] if size else []
    if faults and all(faults):
        raise DamagedLmdbFileError(path, faults[-1])
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
            check_pages = size < (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        else:
            trusted = not size or _is_sealed(path, env)
            check_pages = not trusted
        if check_pages:
            _check_pages(path, env)
    except BaseException:
        env.close()
        raise
    return env, trusted


def reserve_lock_file(folder: Path, readers: int) -> None:
    """Allocate the lock file of an LMDB environment on disk before LMDB maps it into memory.

    Where the disk had no block for a page of the map, SIGBUS would end the process.

    Raises:
        DiskFullError, ReadOnlyDiskError: the disk has no room for it.
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
    """Bring a file to disk and write its digest beside it; a large file is only brought to disk."""
    try:
        if (path / DATA_FILE).stat().st_size > MAX_CHECKED_BYTES:
            env.sync(True)
            return
        with env.begin(write=True):  # writes nothing, but keeps other writers out
            last = env.info()["last_txnid"]
            if _read_seal(path).get("transaction") == last:
                return
            env.sync(True)
            digest = {"transaction": last, "sha256": sha256(path / DATA_FILE)}
            replace_file(path / _SEAL, json.dumps(digest))
    except OSError as error:
        log.warning("%s is not sealed (%s): whoever opens it next looks through it", path / DATA_FILE, error)


def remove_files(path: Path) -> None:
    """Remove the files of an environment; processes that have it open keep their own copy."""
    for name in (DATA_FILE, _LOCK_FILE, _SEAL):
        (path / name).unlink(missing_ok=True)


def page_faults(path: Path) -> list[str]:
    """Check the pages of an LMDB file without LMDB; return the first few faults."""
    try:
        faults: list[str] = verify(str(path))  # type: ignore[no-untyped-call]
    except (VerifyError, OSError) as error:
        return [str(error)]
    return faults


def _header_fault(path: Path, map_size: int) -> str:
    """Check what LMDB reads of a file before it maps it; return the fault, "" for none."""
    with (path / DATA_FILE).open("rb") as file:
        raw = file.read(2 * max(_PAGE_SIZES))
    page = _HEADER.unpack_from(raw)[3] if len(raw) >= _LAST_COMMIT.size else 0
    if page not in _PAGE_SIZES or len(raw) < 2 * page:
        return f"it has {len(raw)} bytes, in pages of {page}"
    ids = []
    for start in (0, page):
        magic, version, _, size = _HEADER.unpack_from(raw, start)
        last, transaction = _LAST_COMMIT.unpack_from(raw, start)
        if (magic, version, size) != (_MAGIC, _VERSION, page):
            return f"page {start // page} is not what LMDB begins a file with"
        if (last + 1) * page > map_size:
            return f"it names a page {last}"
        ids.append(transaction)
    if abs(ids[0] - ids[1]) > 1:
        return f"transactions {ids[0]} and {ids[1]} do not follow each other"
    return ""


def _check_pages(path: Path, env: Any) -> None:
    """Check every page.  Raises: DamagedLmdbFileError."""
    with env.begin():  # other processes must not reuse the pages meanwhile
        faults = page_faults(path)
    if faults:
        with env.begin(write=True):  # again, in case another process committed meanwhile
            faults = page_faults(path)
    if faults:
        raise DamagedLmdbFileError(path, "; ".join(faults[:3]))


def _is_sealed(path: Path, env: Any) -> bool:
    sealed = _read_seal(path)
    same_commit = sealed.get("transaction") == env.info()["last_txnid"]
    return same_commit and sealed.get("sha256") == sha256(path / DATA_FILE)


def _read_seal(path: Path) -> dict[str, Any]:
    """Read the seal of a file; a missing or unreadable one is empty."""
    try:
        sealed = json.loads((path / _SEAL).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return sealed if isinstance(sealed, dict) else {}
