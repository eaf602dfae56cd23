"""Encoded texts by (text model, sha256 of the text), so that no text is encoded twice: one LMDB file."""

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
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from encoder.text.encoder import TextEncoder, Vectors
from store.disk import disk_errors
from store.state.page_check import DAMAGE, DATA, UnsoundFileError, open_sound, seal, unlink

_MAP_BYTES = 1 << 40  # address space, not disk: a map that had to grow would make everybody wait
_READERS = 1024
_STORED = np.dtype("<f4")
_SUM = struct.Struct("<I")
_FENCE = b"\0fence"  # no text model is named so
_LOCK = "OPENING"
_SAY_SECONDS = 30.0  # between lines in a pipe, where there is no progress bar
_CHUNK = 512  # texts whose vectors are lost at most when a run is killed

log = logging.getLogger(__name__)


class DamagedTextCacheError(ValueError):
    """LMDB found the cache damaged under way; it is derived, and was emptied: another attempt fills it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"text cache {path} was damaged ({reason}) and is filled again: try again")
        self.path = path
        self.reason = reason


class BadVectorsError(ValueError):
    """Vectors that may not be cached: of the wrong shape, or not finite."""

    def __init__(self, text_model_id: str, reason: str) -> None:
        super().__init__(f"vectors of text model {text_model_id} are not cached: {reason}")
        self.text_model_id = text_model_id
        self.reason = reason


class ImportedVectorsError(ValueError):
    """Texts came with vectors that are not as long as those of the text model they name."""

    def __init__(self, text_model_id: str, dim: int, found: int) -> None:
        super().__init__(
            f"texts were imported with vectors of {found} numbers for text model {text_model_id}, which has "
            f"{dim}: import these texts again with right vectors, or with an empty vector"
        )
        self.text_model_id, self.dim, self.found = text_model_id, dim, found


class TextCache:
    """Vectors of texts on disk; threads share one, processes each open their own on the same path.

    What `put` has returned from survives the death of the process. One process opens a path once. Readers
    wait for nobody. Each vector lies with a checksum of it and its key; one that is not what was written
    counts as missing, so that it is encoded again.
    """

    def __init__(self, path: Path, env: Any) -> None:
        self._path = path
        self._env = env
        self._file = _identity(path)
        self._retired: list[Any] = []  # threads may still read in them
        self._reopening = threading.Lock()
        self._later = ThreadPoolExecutor(1, thread_name_prefix="text cache")
        self._lost: Callable[[], None] = lambda: None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Return the cache in a directory, an empty one where there is none or a damaged one.

        Raises:
            DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
        """
        return cls(path, _environment(path))

    def close(self) -> None:
        """Release the files, sealed for the next to open them; the cache is of no use afterwards."""
        self._later.shutdown()
        if self._file == _identity(self._path):  # otherwise the files there are somebody else's
            seal(self._path, self._env)
        for env in (self._env, *self._retired):
            env.close()

    def on_vectors_removed(self, lost: Callable[[], None]) -> None:
        """Have something called after damaged vectors were removed, so that they are encoded again."""
        self._lost = lost

    def get(
        self,
        text_model_id: str,
        texts: Sequence[str | bytes],
        dim: int,
        one_piece_bytes: int | None = None,
    ) -> tuple[Vectors, NDArray[np.bool_]]:
        """Return the cached vectors and which texts have one; the other rows are zero.

        A text may be given as the sha256 digest of its UTF-8 bytes. A vector that is damaged, or of another
        length than `dim`, counts as missing. With `one_piece_bytes` of a text model, so does that of a longer
        text which a version of before made from its beginning alone; those have no checksum.

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
                unsummed = len(value) == dim * _STORED.itemsize
                if unsummed and one_piece_bytes is not None and _size(text) > one_piece_bytes:
                    continue
                vector = _unpacked(key, value, dim)
                if vector is None:
                    damaged.append(key)
                    continue
                vectors[row] = vector
                found[row] = True
        if damaged:
            log.warning("%s: %d vectors are damaged, and encoded again", self._path, len(damaged))
            self._in_background(partial(self._drop, damaged, dim))
        return vectors, found

    def put(
        self, text_model_id: str, texts: Sequence[str], vectors: Vectors, since: int | None = None
    ) -> bool:
        """Store one vector per text in one transaction, on disk when this returns.

        Args:
            text_model_id: what encoded them.
            texts: N of them.
            vectors: (N, D) float32.
            since: the `fence` from before people's texts were read; texts of others need none.

        Returns:
            False where somebody was erased since then: nothing is stored, for it may have been their text.

        Raises:
            BadVectorsError: not (N, D) float32 with one row per text, another D than this model's
                earlier vectors, or a value is not finite.
            DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
        """
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
        """Store vectors of texts that are nobody's, without waiting for the disk."""
        self._in_background(lambda: self.put(text_model_id, texts, vectors))

    def fence(self) -> int:
        """Return a number that changes with each `discard`; see `put`."""
        with self._transaction() as transaction:
            return _fence(transaction)

    def discard(self, text_model_id: str, texts: Sequence[str | bytes]) -> int:
        """Remove the vectors of texts whose author was erased; return how many there were.

        Whoever read such a text before does not bring its vector back: see `put`. Texts are as in `get`.
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
        self._lost()

    def _in_background(self, work: Callable[[], object]) -> None:
        def run() -> None:
            try:
                work()
            except Exception:  # a supervisor: what is not cached is encoded again when it is needed
                log.exception("text cache %s could not be written", self._path)

        with suppress(RuntimeError):  # closed: what is not cached is encoded again when it is needed
            self._later.submit(run)

    @contextmanager
    def _transaction(self, *, write: bool = False, buffers: bool = False) -> Iterator[Any]:
        if write and self._file != _identity(self._path):
            self._reopen()
        try:
            with disk_errors(self._path), self._env.begin(write=write, buffers=buffers) as transaction:
                yield transaction
        except DAMAGE as error:
            self._reopen(str(error))
            raise DamagedTextCacheError(self._path, str(error)) from error

    def _reopen(self, damage: str = "") -> None:
        """Go on in the file that another process made anew, or in an empty one where this one is damaged."""
        with self._reopening:
            if self._file == _identity(self._path):
                if not damage:
                    return
                unlink(self._path)
            log.warning(
                "text cache %s goes on in a new file: %s", self._path, damage or "its own was replaced"
            )
            self._retired.append(self._env)
            self._env = _environment(self._path)
            self._file = _identity(self._path)
        self._in_background(self._lost)


class ErasureSafeWriter:
    """Texts of people on their way into a cache: what is erased on the way does not arrive.

    To be made before the texts are read, unless `since` is the cache's fence of that time.
    """

    def __init__(
        self, cache: TextCache, among: Callable[[Sequence[str]], set[str]], since: int | None = None
    ) -> None:
        """Take the cache, and what tells which of some texts somebody has written, as of when it is asked."""
        self._cache = cache
        self._among = among
        self._since = cache.fence() if since is None else since

    def put(self, text_model_id: str, texts: Sequence[str], vectors: Vectors) -> None:
        """Cache the vectors of those texts that are still there."""
        since = self._since
        while not self._cache.put(text_model_id, texts, vectors, since):
            since = self._cache.fence()  # first: whoever is erased after it makes the next attempt fail
            there = self._among(texts)
            rows = [row for row, text in enumerate(texts) if text in there]
            texts, vectors = [texts[row] for row in rows], vectors[rows]


def inspect_text_cache(path: Path) -> tuple[int, int]:
    """Return how many vectors a cache holds and how many are damaged; changes nothing.

    Raises:
        UnsoundFileError: the file is damaged.
    """
    env, _ = open_sound(path, map_size=_MAP_BYTES, max_readers=_READERS)
    there = damaged = 0
    with closing(env), env.begin() as transaction:
        for key, value in transaction.cursor():
            model, ends, _ = key.partition(b"\0")
            if model and ends:
                dim = _dim(model, transaction.get(model))
                there += 1
                damaged += dim is None or _unpacked(key, value, dim) is None
    return there, damaged


def cache_imported_vectors(
    written: ErasureSafeWriter, encoder: TextEncoder, batches: Iterable[tuple[Sequence[str], Vectors]]
) -> None:
    """Cache the vectors that came with texts, so that these need no encoding.

    Raises:
        ImportedVectorsError: they have another length than the text model's; nothing of the batch is cached.
    """
    for texts, vectors in batches:
        if vectors.shape[1] != encoder.dim:
            raise ImportedVectorsError(encoder.text_model_id, encoder.dim, vectors.shape[1])
        written.put(encoder.text_model_id, texts, vectors)


def encode_with_cache(
    encoder: TextEncoder,
    cache: TextCache,
    texts: Sequence[str],
    label: str,
    written: ErasureSafeWriter | None = None,
) -> Vectors:
    """Return one unit vector per text, encoding only what the cache lacks; blank texts give zero rows.

    A run that is killed resumes where it was: every chunk is cached as soon as it is encoded. Texts of people
    come with `written`.

    Shapes:
        returns: (N, D) float32, in the order given.
    """
    distinct = list(dict.fromkeys(text for text in texts if text.strip()))
    vectors, found = cache.get(encoder.text_model_id, distinct, encoder.dim, encoder.one_piece_bytes)
    _keep_short(encoder, cache, distinct, vectors, found)
    # Longest first over all that is missing: batches of like length need little padding.
    missing = sorted(np.flatnonzero(~found).tolist(), key=lambda row: len(distinct[row]), reverse=True)
    count, total = f"{len(missing):,}", f"{len(texts):,}"
    if missing:
        log.info("%s: encoding %s of %s texts with %s", label, count, total, encoder.text_model_id)
    keep = cache.put if written is None else written.put
    began, done = time.monotonic(), 0
    said = began
    with tqdm(total=len(missing), desc=label, unit="text", disable=None) as progress:
        chunks = [missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK)]
        encoded = encoder.encode_chunks([distinct[row] for row in rows] for rows in chunks)
        for rows, found_now in zip(chunks, encoded, strict=True):
            vectors[rows] = found_now
            keep(encoder.text_model_id, [distinct[row] for row in rows], found_now)
            progress.update(len(rows))
            done += len(rows)
            if progress.disable and time.monotonic() - said > _SAY_SECONDS:
                said = time.monotonic()
                log.info("%s: %s of %s texts", label, f"{done:,}", count)
    if missing:
        log.info("%s: done in %.1f s", label, time.monotonic() - began)
    row_of = {text: row for row, text in enumerate(distinct)}
    rows = [row_of.get(text, 0) for text in texts]
    result: Vectors = vectors[rows] if distinct else np.zeros((len(texts), encoder.dim), dtype=np.float32)
    result[[text not in row_of for text in texts]] = 0  # blank ones
    return result


def _keep_short(
    encoder: TextEncoder, cache: TextCache, texts: list[str], vectors: Vectors, found: NDArray[np.bool_]
) -> None:
    """Fill in the vectors that a version of before made, and store them anew, where the text is one piece."""
    rows = np.flatnonzero(~found)
    old, known = cache.get(encoder.text_model_id, [texts[row] for row in rows], encoder.dim)
    if not known.any():
        return
    rows, old = rows[known], old[known]
    one = np.array(encoder.count_pieces([texts[row] for row in rows])) == 1
    vectors[rows[one]], found[rows[one]] = old[one], True
    cache.put(encoder.text_model_id, [texts[row] for row in rows[one]], old[one])


def _size(text: str | bytes) -> int:
    """Return the UTF-8 bytes of a text; 0 of a digest, which tells nothing of it."""
    return 0 if isinstance(text, bytes) else len(text.encode())


def _key(text_model_id: str, text: str | bytes) -> bytes:
    digest = text if isinstance(text, bytes) else hashlib.sha256(text.encode()).digest()
    return text_model_id.encode() + b"\0" + digest


def _environment(path: Path) -> Any:
    """Open the LMDB environment of a cache, an empty one where what lies there is damaged."""
    options = {"map_size": _MAP_BYTES, "max_readers": _READERS}
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        with (path / _LOCK).open("w") as turn:  # one process at a time looks, and makes anew
            fcntl.flock(turn, fcntl.LOCK_EX)
            try:
                env, _ = open_sound(path, **options)
            except UnsoundFileError as error:
                log.warning("making text cache %s anew, its texts are encoded again: %s", path, error.reason)
                unlink(path)
                env, _ = open_sound(path, **options)
            with env.begin(write=True) as transaction:
                if transaction.get(_FENCE) is None:
                    # By chance, so that no fence of an earlier file is one of this.
                    transaction.put(_FENCE, os.urandom(8))
        env.reader_check()  # slots of processes that were killed
    return env


def _identity(path: Path) -> tuple[int, int] | None:
    """Return which file lies at a path, None where there is none."""
    try:
        found = (path / DATA).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _packed(key: bytes, value: bytes) -> bytes:
    return value + _SUM.pack(zlib.crc32(value, zlib.crc32(key)))


def _sound(key: bytes, raw: memoryview | bytes) -> bool:
    """Return whether bytes are what `_packed` makes."""
    value, tail = raw[: -_SUM.size], raw[-_SUM.size :]
    return bytes(tail) == _SUM.pack(zlib.crc32(value, zlib.crc32(key)))


def _unpacked(key: bytes, raw: memoryview | bytes, dim: int) -> NDArray[np.float32] | None:
    """Return a stored vector (D,), None where it is damaged; earlier versions stored no checksum."""
    size = dim * _STORED.itemsize
    if len(raw) == size + _SUM.size and _sound(key, raw):
        return np.frombuffer(raw, _STORED, dim)
    if len(raw) == size and np.isfinite(vector := np.frombuffer(raw, _STORED)).all():
        return vector
    return None


def _dim(model: bytes, raw: bytes | None) -> int | None:
    """Return the noted dim of a model, None where there is none or a damaged one."""
    if raw is None or raw.isdigit():  # without a checksum: of an earlier version
        return None if raw is None else int(raw)
    return int(raw[: -_SUM.size]) if _sound(model, raw) else None


def _fence(transaction: Any) -> int:
    return int.from_bytes(transaction.get(_FENCE), "little")
