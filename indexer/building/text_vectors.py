"""Vectors of the texts of one build in files that workers map: by the sha256 of a text, never by the text."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from encoder.text import TextCache, TextEncoder, Vectors
from indexer.files import VECTORS_FILE, FloatArray, IntArray, map_tensors, map_vectors, write_vectors

_KEYS_FILE = "keys.safetensors"
_DIGEST = hashlib.sha256().digest_size

Digests = npt.NDArray[np.uint8]


class TextVectorsMissingError(LookupError):
    """Texts have no vector in the files of a build: somebody changed the cache or the export meanwhile."""

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(f"{folder} lacks the vectors of {count} texts: run this again")


class TextVectors:
    """Vectors of texts, memory-mapped.

    Shapes:
        digests: (M, 32) uint8, the sha256 of each text; rows: (M,) int64 in the order of their first 8 bytes.
        vectors: (M, D_T) float32.
    """

    def __init__(self, folder: Path, digests: Digests, rows: IntArray, vectors: FloatArray) -> None:
        self._folder = folder
        self._digests, self._rows, self._vectors = digests, rows, vectors
        self._prefixes = _prefixes(digests)[rows]  # (M,), ascending

    @classmethod
    def open(cls, folder: Path) -> "TextVectors":
        """Open the files that `write_text_vectors` wrote into a folder."""
        keys = map_tensors(folder / _KEYS_FILE)
        return cls(folder, keys["digests"], keys["rows"], map_vectors(folder / VECTORS_FILE))

    def get(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors (n, D_T) float32 of texts, zero for a blank one.

        Raises:
            TextVectorsMissingError: a text has none.
        """
        found = np.full(len(texts), -1, dtype=np.int64)
        written = [at for at, text in enumerate(texts) if text.strip()]
        digests = digests_of([texts[at] for at in written])
        for at, digest, place in zip(
            written, digests, np.searchsorted(self._prefixes, _prefixes(digests)).tolist(), strict=True
        ):
            for row in self._rows[place : place + 2].tolist():  # two, should their first 8 bytes be the same
                if (self._digests[row] == digest).all():
                    found[at] = row
        if missing := int((found[written] < 0).sum()):
            raise TextVectorsMissingError(self._folder, missing)
        vectors = np.zeros((len(texts), self._vectors.shape[1]), dtype=np.float32)
        vectors[written] = self._vectors[found[written]]
        return vectors


def write_text_vectors(
    folder: Path, batches: Iterable[Sequence[str]], encoder: TextEncoder, cache: TextCache
) -> None:
    """Write the vectors that a cache has of texts into a folder; those that it lacks are left out."""
    digests = [np.zeros((0, _DIGEST), dtype=np.uint8)]

    def chunks() -> Iterator[FloatArray]:
        for texts in batches:
            distinct = list(dict.fromkeys(text for text in texts if text.strip()))
            vectors, found = cache.get(encoder.text_model_id, distinct, encoder.dim, encoder.one_piece_bytes)
            digests.append(digests_of(distinct)[found])
            yield vectors[found]

    folder.mkdir(exist_ok=True)
    write_vectors(folder / VECTORS_FILE, chunks(), encoder.dim)
    keys = np.concatenate(digests)
    rows = np.argsort(_prefixes(keys), kind="stable").astype(np.int64)
    save_file({"digests": keys, "rows": rows}, folder / _KEYS_FILE)


def digests_of(texts: Sequence[str]) -> Digests:
    """Return the sha256 (n, 32) uint8 of texts."""
    joined = b"".join(hashlib.sha256(text.encode()).digest() for text in texts)
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, _DIGEST)


def _prefixes(digests: Digests) -> npt.NDArray[np.uint64]:
    """Return the first 8 bytes (n,) of digests as numbers."""
    return np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]
