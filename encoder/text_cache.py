"""Encoded texts by (text model, sha256 of the text), so that no text is encoded twice: one LMDB file."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import lmdb
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from encoder.text import TextEncoder, Vectors

_FIRST_MAP_BYTES = 64 << 20  # address space, not disk; doubles when full
_STORED = np.dtype("<f4")
_WHOLE = b"\x02"  # behind a vector: all pieces of the text are in it; caches of before have none
_SAY_SECONDS = 30.0  # between lines in a pipe, where there is no progress bar
_CHUNK = 512  # texts whose vectors are lost at most when a run is killed

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class DamagedTextCacheError(ValueError):
    """The cache is not what was written; it is derived, so deleting it loses only time."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"text cache {path} is damaged ({reason}); delete the folder, it is filled again")
        self.path = path
        self.reason = reason


class BadVectorsError(ValueError):
    """Vectors that may not be cached: of the wrong shape, or not finite."""

    def __init__(self, text_model_id: str, reason: str) -> None:
        super().__init__(f"vectors of text model {text_model_id} are not cached: {reason}")
        self.text_model_id = text_model_id
        self.reason = reason


class TextCache:
    """Vectors of texts on disk; threads share one, processes each open their own on the same path.

    What `put` has returned from survives the death of the process. One process opens a path once.
    """

    def __init__(self, path: Path, env: Any) -> None:
        self._path = path
        self._env = env
        self._lock = threading.Lock()  # the map may only be resized while no transaction is open

    @classmethod
    def open(cls, path: Path) -> Self:
        """Return the cache in a directory, made where there is none.

        Raises:
            DamagedTextCacheError: what lies there is no cache.
        """
        path.mkdir(parents=True, exist_ok=True)
        try:
            env = lmdb.open(str(path), map_size=_FIRST_MAP_BYTES)
        except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
            raise DamagedTextCacheError(path, str(error)) from error
        env.reader_check()  # slots of processes that were killed
        return cls(path, env)

    def close(self) -> None:
        """Release the files; the cache is of no use afterwards."""
        self._env.close()

    def get(
        self,
        text_model_id: str,
        texts: Sequence[str | bytes],
        dim: int,
        one_piece_bytes: int | None = None,
    ) -> tuple[Vectors, NDArray[np.bool_]]:
        """Return the cached vectors and which texts have one; the other rows are zero.

        A text may be given as the sha256 digest of its UTF-8 bytes. With `one_piece_bytes` of a text model, a
        longer text whose vector a version of before made, from its beginning alone, counts as having none.

        Shapes:
            returns: (N, D) float32 and (N,) bool.

        Raises:
            DamagedTextCacheError: a stored vector has another length than `dim`.
        """
        vectors = np.zeros((len(texts), dim), dtype=np.float32)
        found = np.zeros(len(texts), dtype=np.bool_)

        def read() -> None:
            with self._env.begin(buffers=True) as transaction:
                for row, text in enumerate(texts):
                    value = transaction.get(_key(text_model_id, text))
                    if value is None:
                        continue
                    whole = len(value) == dim * _STORED.itemsize + len(_WHOLE)
                    if not whole and len(value) != dim * _STORED.itemsize:
                        raise DamagedTextCacheError(
                            self._path, f"{len(value)} bytes where {dim} floats belong"
                        )
                    vectors[row] = np.frombuffer(value, _STORED, dim)
                    found[row] = whole or one_piece_bytes is None or _size(text) <= one_piece_bytes
                    vectors[row] *= found[row]

        self._transact(read)
        return vectors, found

    def put(self, text_model_id: str, texts: Sequence[str], vectors: Vectors) -> None:
        """Store one vector per text in one transaction, on disk when this returns.

        Raises:
            BadVectorsError: not (N, D) float32 with one row per text, another D than this model's
                earlier vectors, or a value is not finite.
        """
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(texts):
            shape = f"{vectors.dtype} {vectors.shape}"
            raise BadVectorsError(text_model_id, f"{shape} for {len(texts)} texts")
        if not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise BadVectorsError(text_model_id, f"row {row} is not finite")
        stored = vectors.astype(_STORED, copy=False)
        model, dim = text_model_id.encode(), str(vectors.shape[1]).encode()

        def write() -> None:
            with self._env.begin(write=True) as transaction:
                before = transaction.get(model, default=dim)
                if before != dim:
                    raise BadVectorsError(text_model_id, f"dim {dim.decode()}, earlier {before.decode()}")
                transaction.put(model, dim)
                for text, vector in zip(texts, stored, strict=True):
                    transaction.put(_key(text_model_id, text), vector.tobytes() + _WHOLE)

        self._transact(write)

    def discard(self, text_model_id: str, texts: Sequence[str | bytes]) -> int:
        """Return how many cached vectors of these texts were removed, as when a user is erased; see `get`."""

        def remove() -> int:
            with self._env.begin(write=True) as transaction:
                return sum(transaction.delete(_key(text_model_id, text)) for text in texts)

        return self._transact(remove)

    def _transact(self, work: Callable[[], _Result]) -> _Result:
        with self._lock:
            while True:
                try:
                    return work()
                except lmdb.MapFullError:
                    self._env.set_mapsize(2 * self._env.info()["map_size"])
                except lmdb.MapResizedError:  # another process made the file larger
                    self._env.set_mapsize(0)
                except (lmdb.CorruptedError, lmdb.PageNotFoundError) as error:
                    raise DamagedTextCacheError(self._path, str(error)) from error


def encode_all(encoder: TextEncoder, cache: TextCache, texts: Sequence[str], label: str) -> Vectors:
    """Return one unit vector per text, encoding only what the cache lacks; blank texts give zero rows.

    A run that is killed resumes where it was: every chunk is cached as soon as it is encoded.

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
    began, done = time.monotonic(), 0
    said = began
    with tqdm(total=len(missing), desc=label, unit="text", disable=None) as progress:
        chunks = [missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK)]
        encoded = encoder.encode_chunks([distinct[row] for row in rows] for rows in chunks)
        for rows, found_now in zip(chunks, encoded, strict=True):
            vectors[rows] = found_now
            cache.put(encoder.text_model_id, [distinct[row] for row in rows], found_now)
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
