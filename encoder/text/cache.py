"""Vectors of texts by (text model, sha256 of the text) in one LMDB file, so that no text is encoded twice."""

import fcntl
import hashlib
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import lmdb
import numpy as np
from numpy.typing import NDArray

from encoder.progress import LongStage
from encoder.text.encoder import TextEncoder, Vectors
from store.disk import disk_errors
from store.lmdb_file import DAMAGE_ERRORS, DATA_FILE, DamagedLmdbFileError, open_checked, remove_files, seal

_MAP_BYTES = 1 << 40  # address space, not disk: a map that had to grow would make all readers wait
_READERS = 1024
_STORED = np.dtype("<f4")
_SUM = struct.Struct("<I")
_FENCE = b"\0fence"  # a key that no text model can have
_LOCK = "OPENING"
CHUNK = 512  # texts whose vectors are lost at most when a run is killed

log = logging.getLogger(__name__)


class DamagedTextCacheError(ValueError):
    """LMDB found the cache damaged during a call; it was emptied, and another attempt fills it again."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"text cache {path} was damaged ({reason}) and is filled again: try again")
        self.path = path
        self.reason = reason


class BadVectorsError(ValueError):
    """Vectors are not cached because their shape is wrong or a number is not finite."""

    def __init__(self, text_model_id: str, reason: str) -> None:
        super().__init__(f"vectors of text model {text_model_id} are not cached: {reason}")
        self.text_model_id = text_model_id
        self.reason = reason


class ImportedVectorsError(ValueError):
    """Texts were imported with vectors whose length is not that of the text model they name."""

    def __init__(self, text_model_id: str, dim: int, found: int) -> None:
        super().__init__(
            f"texts were imported with vectors of {found} numbers for text model {text_model_id}, which has "
            f"{dim}: import these texts again with right vectors, or with an empty vector"
        )
        self.text_model_id, self.dim, self.found = text_model_id, dim, found


class TextCache:
    """Vectors of texts on disk; threads share one, processes each open their own on the same path.

    Vectors are on disk when `put` returns. A process may open a path only once. Readers never wait. Each
    vector is stored with a checksum over it and its key; a damaged vector counts as missing, so that its text
    is encoded again. A cache opened by `open_reader` stores and removes nothing: `put` leaves that to the
    process that writes.
    """

    def __init__(self, path: Path, env: Any, *, reads_only: bool = False) -> None:
        self._path = path
        self._env = env
        self._reads_only = reads_only
        self._file = _identity(path)
        self._retired: list[Any] = []  # threads may still read in them
        self._reopening = threading.Lock()
        self._background = ThreadPoolExecutor(1, thread_name_prefix="text cache")
        self._on_vectors_removed: Callable[[], None] = lambda: None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the cache in a directory; an empty one is made where there is none, or a damaged one.

        Raises:
            DiskFullError, ReadOnlyDiskError: the disk is full or read-only.
        """
        return cls(path, _environment(path))

    @classmethod
    def open_reader(cls, path: Path) -> Self:
        """Open a cache that another process writes, and has opened before.

        Raises:
            DamagedTextCacheError: there is none, or LMDB cannot read it.
        """
        try:
            return cls(path, _reading_environment(path), reads_only=True)
        except (*DAMAGE_ERRORS, lmdb.Error, OSError) as error:
            raise DamagedTextCacheError(path, str(error)) from error

    def free_readers(self) -> None:
        """Free what killed processes were reading, so that the file need not keep it for them."""
        self._env.reader_check()

    def close(self) -> None:
        """Seal and release the files; the cache cannot be used afterwards."""
        self._background.shutdown()
        if not self._reads_only and self._file == _identity(
            self._path
        ):  # otherwise another process has replaced the files
            seal(self._path, self._env)
        for env in (self._env, *self._retired):
            env.close()

    def on_vectors_removed(self, call: Callable[[], None]) -> None:
        """Set the function that is called after damaged vectors were removed, to encode their texts again."""
        self._on_vectors_removed = call

    def get(
        self,
        text_model_id: str,
        texts: Sequence[str | bytes],
        dim: int,
        one_piece_bytes: int | None = None,
    ) -> tuple[Vectors, NDArray[np.bool_]]:
        """Look up vectors: return them and which texts have one; the other rows are zero.

        A text may be given as the sha256 digest of its UTF-8 bytes. A vector that is damaged, or of another
        length than `dim`, counts as missing. So does, with the `one_piece_bytes` of a text model, the vector
        of a longer text that an earlier version made from the beginning alone; those have no checksum.

        Shapes:
            returns: (N, D) float32 and (N,) bool.

        Raises:
            DamagedTextCacheError: LMDB cannot read the file.
        """
        vectors = np.zeros((len(texts), dim), dtype=np.float32)
        found = np.zeros(len(texts), dtype=np.bool_)
        damaged = []
        with self._transaction(buffers=True) as transaction:
            for row, text in enumerate(texts):
                key = _key(text_model_id, text)
                value = transaction.get(key)
                if value is None:
                    continue
                without_checksum = len(value) == dim * _STORED.itemsize
                if without_checksum and one_piece_bytes is not None and _size(text) > one_piece_bytes:
                    continue
                vector = _unpacked(key, value, dim)
                if vector is None:
                    damaged.append(key)
                    continue
                vectors[row] = vector
                found[row] = True
        if self._reads_only and not found.all() and self._file != _identity(self._path):
            self._reopen()  # the process that writes goes on in a new file
        if damaged and not self._reads_only:
            log.warning("%s: %d vectors are damaged, and encoded again", self._path, len(damaged))
            self._in_background(partial(self._drop, damaged, dim))
        return vectors, found

    def put(
        self, text_model_id: str, texts: Sequence[str], vectors: Vectors, since: int | None = None
    ) -> bool:
        """Store one vector per text in one transaction, on disk when this returns.

        Args:
            text_model_id: the model that encoded them.
            texts: N of them.
            vectors: (N, D) float32.
            since: the `fence` before users' texts were read; texts that no user wrote need none.

        Returns:
            False where texts were erased since then: nothing is stored, for these may be among them.

        Raises:
            BadVectorsError: not (N, D) float32 with one row per text, another D than this model's
                earlier vectors, or a value is not finite.
            DiskFullError, ReadOnlyDiskError: the disk is full or read-only.
        """
        if self._reads_only:
            return True
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(texts):
            shape = f"{vectors.dtype} {vectors.shape}"
            raise BadVectorsError(text_model_id, f"{shape} for {len(texts)} texts")
        if not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise BadVectorsError(text_model_id, f"row {row} is not finite")
        stored = vectors.astype(_STORED, copy=False)
        model, dim = text_model_id.encode(), vectors.shape[1]
        with self._transaction(write=True) as transaction:
            if since is not None and since != _fence(transaction):
                return False
            before = _dim(model, transaction.get(model))
            if before not in (None, dim):
                raise BadVectorsError(text_model_id, f"dim {dim}, earlier {before}")
            transaction.put(model, _packed(model, b"%d " % dim))
            for text, vector in zip(texts, stored, strict=True):
                key = _key(text_model_id, text)
                transaction.put(key, _packed(key, vector.tobytes()))
        return True

    def put_later(self, text_model_id: str, texts: Sequence[str], vectors: Vectors) -> None:
        """Store vectors of texts that no user wrote, in the background."""
        self._in_background(lambda: self.put(text_model_id, texts, vectors))

    def fence(self) -> int:
        """Return a number that changes with each `discard`; `put` compares it."""
        with self._transaction() as transaction:
            return _fence(transaction)

    def discard(self, text_model_id: str, texts: Sequence[str | bytes]) -> int:
        """Remove the vectors of erased texts and return how many were removed.

        It changes the fence, so that a `put` of texts that were read before does not bring one back. Texts
        are given as in `get`.
        """
        if not texts:
            return 0
        with self._transaction(write=True) as transaction:
            raised = (_fence(transaction) + 1) % (1 << 64)
            transaction.put(_FENCE, raised.to_bytes(8, "little"))
            return sum(transaction.delete(_key(text_model_id, text)) for text in texts)

    def _drop(self, keys: Sequence[bytes], dim: int) -> None:
        with self._transaction(write=True) as transaction:
            for key in keys:
                value = transaction.get(key)
                if value is not None and _unpacked(key, value, dim) is None:  # not written anew meanwhile
                    transaction.delete(key)
        self._on_vectors_removed()

    def _in_background(self, work: Callable[[], object]) -> None:
        def run() -> None:
            try:
                work()
            except Exception:  # a supervisor: what is not cached is encoded again when it is needed
                log.exception("text cache %s could not be written", self._path)

        with suppress(RuntimeError):  # closed: what is not cached is encoded again when it is needed
            self._background.submit(run)

    @contextmanager
    def _transaction(self, *, write: bool = False, buffers: bool = False) -> Iterator[Any]:
        if write and self._file != _identity(self._path):
            self._reopen()
        try:
            full_disk = disk_errors(self._path) if write else nullcontext()  # reading takes no space
            with full_disk, self._env.begin(write=write, buffers=buffers) as transaction:
                yield transaction
        except DAMAGE_ERRORS as error:
            self._reopen(str(error))
            raise DamagedTextCacheError(self._path, str(error)) from error

    def _reopen(self, damage: str = "") -> None:
        """Switch to the file that another process made anew, or to an empty one where this one is damaged."""
        with self._reopening:
            if self._file == _identity(self._path):
                if not damage:
                    return
                if self._reads_only:  # the process that writes finds the damage, too, and makes it anew
                    return
                remove_files(self._path)
            log.warning(
                "text cache %s goes on in a new file: %s", self._path, damage or "its own was replaced"
            )
            self._retired.append(self._env)
            self._env = (_reading_environment if self._reads_only else _environment)(self._path)
            self._file = _identity(self._path)
        self._in_background(self._on_vectors_removed)


class ErasureSafeWriter:
    """Writes vectors of users' texts into a cache, but never those of texts erased since they were read.

    Make it before the texts are read, or give `since`, the fence of the cache at that time.
    """

    def __init__(
        self, cache: TextCache, among: Callable[[Sequence[str]], set[str]], since: int | None = None
    ) -> None:
        """Make a writer.

        Args:
            cache: takes the vectors.
            among: returns those of the given texts that the store holds at the time of the call.
            since: the fence of the cache before the texts were read; None takes the present one.
        """
        self._cache = cache
        self._among = among
        self._since = cache.fence() if since is None else since

    def put(self, text_model_id: str, texts: Sequence[str], vectors: Vectors) -> None:
        """Cache the vectors of those texts that the store still holds."""
        since = self._since
        while not self._cache.put(text_model_id, texts, vectors, since):
            since = self._cache.fence()  # first: an erasure after it makes the next attempt fail
            stored = self._among(texts)
            rows = [row for row, text in enumerate(texts) if text in stored]
            texts, vectors = [texts[row] for row in rows], vectors[rows]


def inspect_text_cache(path: Path) -> tuple[int, int]:
    """Count the vectors of a cache and those that are damaged; the file is not changed.

    Raises:
        DamagedLmdbFileError: the file is damaged.
    """
    env, _ = open_checked(path, map_size=_MAP_BYTES, max_readers=_READERS)
    total = damaged = 0
    with closing(env), env.begin() as transaction:
        for key, value in transaction.cursor():
            model, ends, _ = key.partition(b"\0")
            if model and ends:
                dim = _dim(model, transaction.get(model))
                total += 1
                damaged += dim is None or _unpacked(key, value, dim) is None
    return total, damaged


def cache_imported_vectors(
    writer: ErasureSafeWriter, encoder: TextEncoder, batches: Iterable[tuple[Sequence[str], Vectors]]
) -> None:
    """Cache vectors that were imported with texts, so that these need no encoding.

    Raises:
        ImportedVectorsError: their length is not that of the text model; nothing of the batch is cached.
    """
    for texts, vectors in batches:
        if vectors.shape[1] != encoder.dim:
            raise ImportedVectorsError(encoder.text_model_id, encoder.dim, vectors.shape[1])
        writer.put(encoder.text_model_id, texts, vectors)


def encode_with_cache(
    encoder: TextEncoder,
    cache: TextCache,
    texts: Sequence[str],
    label: str,
    writer: ErasureSafeWriter | None = None,
) -> Vectors:
    """Encode texts into unit vectors, only those that the cache lacks; blank texts give zero rows.

    Every chunk is cached as soon as it is encoded, so that a killed run resumes there. Users' texts need a
    `writer`, which keeps erased ones out of the cache.

    Shapes:
        returns: (N, D) float32, in the order given.
    """
    distinct, vectors, missing = look_up(encoder, cache, texts)
    count, total = f"{len(missing):,}", f"{len(texts):,}"
    if missing:
        log.info("%s: encoding %s of %s texts with %s", label, count, total, encoder.text_model_id)
    store = cache.put if writer is None else writer.put
    began = time.monotonic()
    with LongStage(label, len(missing), "text") as stage:
        chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
        encoded = encoder.encode_chunks([distinct[row] for row in rows] for rows in chunks)
        for rows, new in zip(chunks, encoded, strict=True):
            vectors[rows] = new
            store(encoder.text_model_id, [distinct[row] for row in rows], new)
            stage.advance(len(rows))
    if missing:
        log.info("%s: done in %.1f s", label, time.monotonic() - began)
    row_of = {text: row for row, text in enumerate(distinct)}
    rows = [row_of.get(text, 0) for text in texts]
    result: Vectors = vectors[rows] if distinct else np.zeros((len(texts), encoder.dim), dtype=np.float32)
    result[[text not in row_of for text in texts]] = 0  # blank ones
    return result


def look_up(
    encoder: TextEncoder, cache: TextCache, texts: Sequence[str]
) -> tuple[list[str], Vectors, list[int]]:
    """Look up the vectors of texts: return the distinct texts, their vectors, and the rows that lack one.

    Blank texts are left out. The rows come longest text first: batches of like length need little padding.

    Shapes:
        vectors: (M, D) float32, zero where there is none yet.
    """
    distinct = list(dict.fromkeys(text for text in texts if text.strip()))
    vectors, found = cache.get(encoder.text_model_id, distinct, encoder.dim, encoder.one_piece_bytes)
    _reuse_earlier(encoder, cache, distinct, vectors, found)
    missing = sorted(np.flatnonzero(~found).tolist(), key=lambda row: len(distinct[row]), reverse=True)
    return distinct, vectors, missing


def _reuse_earlier(
    encoder: TextEncoder, cache: TextCache, texts: list[str], vectors: Vectors, found: NDArray[np.bool_]
) -> None:
    """Reuse vectors of an earlier version for texts of one piece; store them again with a checksum."""
    rows = np.flatnonzero(~found)
    old, known = cache.get(encoder.text_model_id, [texts[row] for row in rows], encoder.dim)
    if not known.any():
        return
    rows, old = rows[known], old[known]
    one = np.array(encoder.count_pieces([texts[row] for row in rows])) == 1
    vectors[rows[one]], found[rows[one]] = old[one], True
    cache.put(encoder.text_model_id, [texts[row] for row in rows[one]], old[one])


def _size(text: str | bytes) -> int:
    """Return the number of UTF-8 bytes of a text; 0 for a digest, of which it is unknown."""
    return 0 if isinstance(text, bytes) else len(text.encode())


def _key(text_model_id: str, text: str | bytes) -> bytes:
    digest = text if isinstance(text, bytes) else hashlib.sha256(text.encode()).digest()
    return text_model_id.encode() + b"\0" + digest


def _environment(path: Path) -> Any:
    """Open the LMDB environment of a cache, an empty one where what lies there is damaged."""
    options = {"map_size": _MAP_BYTES, "max_readers": _READERS}
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        with (path / _LOCK).open("w") as turn:  # one process at a time checks, and makes the file anew
            fcntl.flock(turn, fcntl.LOCK_EX)
            try:
                env, _ = open_checked(path, **options)
            except DamagedLmdbFileError as error:
                log.warning("making text cache %s anew, its texts are encoded again: %s", path, error.reason)
                remove_files(path)
                env, _ = open_checked(path, **options)
            with env.begin(write=True) as transaction:
                if transaction.get(_FENCE) is None:
                    # Random, so that it differs from every fence of an earlier file.
                    transaction.put(_FENCE, os.urandom(8))
        env.reader_check()  # slots of processes that were killed
    return env


def _reading_environment(path: Path) -> Any:
    """Open the environment of a cache that another process writes.  Raises: lmdb.Error."""
    return lmdb.open(str(path), map_size=_MAP_BYTES, max_readers=_READERS, readonly=True, create=False)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the file at a path, None where there is none."""
    try:
        found = (path / DATA_FILE).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _packed(key: bytes, value: bytes) -> bytes:
    """Append a checksum over key and value."""
    return value + _SUM.pack(zlib.crc32(value, zlib.crc32(key)))


def _is_sound(key: bytes, raw: memoryview | bytes) -> bool:
    """Return whether bytes end in their checksum, as `_packed` made it."""
    value, tail = raw[: -_SUM.size], raw[-_SUM.size :]
    return bytes(tail) == _SUM.pack(zlib.crc32(value, zlib.crc32(key)))


def _unpacked(key: bytes, raw: memoryview | bytes, dim: int) -> NDArray[np.float32] | None:
    """Return a stored vector (D,), None where it is damaged; earlier versions stored no checksum."""
    size = dim * _STORED.itemsize
    if len(raw) == size + _SUM.size and _is_sound(key, raw):
        return np.frombuffer(raw, _STORED, dim)
    if len(raw) == size and np.isfinite(vector := np.frombuffer(raw, _STORED)).all():
        return vector
    return None


def _dim(model: bytes, raw: bytes | None) -> int | None:
    """Return the stored dim of a model, None where there is none or it is damaged."""
    if raw is None or raw.isdigit():  # without a checksum: of an earlier version
        return None if raw is None else int(raw)
    return int(raw[: -_SUM.size]) if _is_sound(model, raw) else None


def _fence(transaction: Any) -> int:
    return int.from_bytes(transaction.get(_FENCE), "little")
