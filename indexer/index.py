"""One published index: FAISS for the search, full vectors for exact scores, ids and popularity."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from store.artifact import DamagedArtifactError, read_manifest, verify

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

FAISS_FILE = "items.faiss"
VECTORS_FILE = "vectors.safetensors"
IDS_FILE = "items.parquet"
VECTORS_KEY = "vectors"
_GATHERED = 65_536  # vectors at a time


class VectorDimError(ValueError):
    """A query vector is not of the index's embedding dim."""

    def __init__(self, got: int, dim: int) -> None:
        super().__init__(f"the vector has {got} values, but the embedding dim is {dim}")
        self.got = got
        self.dim = dim


@dataclass(frozen=True)
class Excluded:
    """Items to leave out of the results of a batch: pairs of query number and index row.

    Shapes:
        queries, rows: (n,) int64, any order; repeats do no harm.
    """

    queries: IntArray
    rows: IntArray


class Index:
    """An immutable directory below indexes/.

    Attributes:
        index_id: the directory's name.
        model_id: whose vectors these are; another model's user vectors do not compare.
        ids: (N,) item ids; a `row` is a position in them.
        popularity: (N,) float32, number of users behind each item, the fallback's score.
        vectors: (N, D) float32, memory-mapped, what scores and shares are computed from.
        exact: whether a search compares every item.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.index_id = directory.name
        self.manifest = manifest
        self.model_id: str = manifest["model_id"]
        self.dim: int = manifest["dim"]
        self.exact: bool = manifest["factory"] == "Flat"
        items = pq.read_table(directory / IDS_FILE)
        self.ids: pa.StringArray = items.column("item_id").combine_chunks()
        self.popularity: FloatArray = items.column("popularity").to_numpy().astype(np.float32)
        self.vectors = map_vectors(directory / VECTORS_FILE)
        self._faiss = faiss.read_index(str(directory / FAISS_FILE))
        found = (len(self.ids), *self.vectors.shape, self._faiss.ntotal, self._faiss.d)
        named = (manifest["items"], manifest["items"], self.dim, manifest["items"], self.dim)
        if found != named:
            raise DamagedArtifactError(
                directory, f"ids, vectors and FAISS disagree with the manifest: {found} is not {named}"
            )

    @classmethod
    def load(cls, directory: Path, *, check: bool = True) -> "Index":
        """Return the index in a directory; with `check`, after comparing every file's checksum.

        Raises:
            DamagedArtifactError: a file is missing, damaged or of another kind; names the file.
        """
        manifest = verify(directory) if check else read_manifest(directory)
        if manifest.get("kind") != "index":
            raise DamagedArtifactError(directory, f"is a {manifest.get('kind')!r}, not an index")
        return cls(directory, manifest)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row of each item id."""
        return {item_id: row for row, item_id in enumerate(self.ids.to_pylist())}

    def item_ids(self, rows: IntArray) -> list[str]:
        """Return the item ids of rows (n,); quicker than Arrow, whose `take` costs more than a search."""
        return [self._id_of[row] for row in rows.tolist()]

    @cached_property
    def _id_of(self) -> list[str]:
        return list(self.row_of)  # shares its strings

    def search(
        self, vectors: FloatArray, k: int, excluded: Excluded | None = None
    ) -> tuple[IntArray, FloatArray]:
        """Return the rows (B, k) int64 of the best items and their scores (B, k) float32, best first.

        Where fewer than k items are left, the rest is row −1 with score −inf. Scores are exact inner
        products with the stored vectors, also where FAISS compresses.

        Raises:
            VectorDimError: `vectors` (B, D) are not of the index's embedding dim.
        """
        if vectors.shape[1] != self.dim:
            raise VectorDimError(vectors.shape[1], self.dim)
        most = int(np.bincount(excluded.queries).max(initial=0)) if excluded is not None else 0
        fetched = max(1, min(k + most, len(self)))
        scores, rows = self._faiss.search(np.ascontiguousarray(vectors), fetched)
        if not self.exact:
            scores = self._exact_scores(vectors, rows)
        barred = rows < 0  # FAISS pads with row −1
        if excluded is not None and most:
            barred |= self._excludes(excluded, rows)
        scores[barred] = -np.inf
        rows[barred] = -1
        if most or not self.exact:  # otherwise FAISS has them in order
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            rows, scores = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
        return _padded(rows, k, -1), _padded(scores, k, -np.inf)

    def brute_force(
        self, vectors: FloatArray, k: int, excluded: Excluded | None = None
    ) -> tuple[IntArray, FloatArray]:
        """Return what `search` returns, from inner products with every vector instead of FAISS."""
        scores = np.asarray(vectors @ self.vectors.T, dtype=np.float32)  # (B, N)
        if excluded is not None:
            scores[excluded.queries, excluded.rows] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(scores, order, 1)
        rows = np.where(np.isneginf(best), -1, order)
        return _padded(rows, k, -1), _padded(best, k, -np.inf)

    def popular(self, k: int, excluded: IntArray) -> IntArray:
        """Return the rows (at most k,) of the most popular items except some, most popular first."""
        taken = self._by_popularity[: k + len(excluded)]
        return taken[~np.isin(taken, excluded)][:k]

    @cached_property
    def _by_popularity(self) -> IntArray:
        return np.argsort(-self.popularity, kind="stable").astype(np.int64)

    def _excludes(self, excluded: Excluded, rows: IntArray) -> npt.NDArray[np.bool_]:
        """Return which of the rows (B, n) found are left out; several times faster than np.isin."""
        codes = np.arange(len(rows))[:, None] * len(self) + rows
        barred = np.sort(excluded.queries * len(self) + excluded.rows)
        places = np.searchsorted(barred, codes)
        places[places == len(barred)] = 0
        return np.asarray(barred[places] == codes)

    def _exact_scores(self, vectors: FloatArray, rows: IntArray) -> FloatArray:
        scores = np.empty(rows.shape, dtype=np.float32)
        step = max(1, _GATHERED // rows.shape[1])  # those of a whole batch may not fit in memory
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            gathered = self.vectors[rows[part]]  # (step, n, D)
            scores[part] = np.matmul(gathered, vectors[part, :, None])[:, :, 0]
        return scores


def map_vectors(path: Path) -> FloatArray:
    """Return the vectors in a safetensors file, memory-mapped read-only as (N, D) float32."""
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(header_size))[VECTORS_KEY]
    rows, dim = entry["shape"]
    if not rows:
        return np.zeros((0, dim), dtype=np.float32)
    offset = 8 + header_size + entry["data_offsets"][0]
    mapped = np.memmap(path, dtype=np.float32, mode="r", offset=offset, shape=(rows, dim))
    return mapped.view(np.ndarray)  # the subclass makes every access slower


def _padded(values: npt.NDArray[Any], k: int, filler: float) -> npt.NDArray[Any]:
    missing = k - values.shape[1]
    if missing <= 0:
        return values
    return np.pad(values, ((0, 0), (0, missing)), constant_values=filler)
