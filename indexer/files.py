"""The files of an index: memory-mapped arrays, ids and tables; the main part; the changes beside it.

Ten million items are never Python objects at once: vectors are safetensors files, ids and tables are Arrow
files, written in a stream and read memory-mapped. The parser of safetensors is ours because the library
copies what it reads and writes no stream; numpy's own format would be another one on disk.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc
import xxhash
from safetensors.numpy import save_file

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
VECTORS_KEY = "vectors"
_HEADER = 256  # bytes before the vectors: size, and JSON padded with blanks, as the format allows
_DTYPES = {
    "F32": np.float32,
    "F64": np.float64,
    "I32": np.int32,
    "I64": np.int64,
    "U64": np.uint64,
    "U8": np.uint8,
}
_BLOCK_BYTES = 64 << 20  # of vectors at a time
_FEW = 150  # rows; for more, Arrow's `take` is faster although a call of it costs 60 µs after a search
HashArray = npt.NDArray[np.uint64]
VECTORS_FILE = "vectors.safetensors"
ITEMS_FILE = "items.arrow"
LOOKUP_FILE = "lookup.safetensors"
FACTS_FILE = "facts.safetensors"
DELTA_FILE = "delta.arrow"
DELTA_VECTORS_FILE = "delta.safetensors"
WITHOUT_VECTOR_FILE = "without_vector.arrow"
DELTA_FILES = (DELTA_FILE, DELTA_VECTORS_FILE, WITHOUT_VECTOR_FILE)
MAIN_SCHEMA = pa.schema(
    [
        ("item_id", pa.large_string()),
        ("popularity", pa.float32()),
        ("content", pa.binary(16)),
        ("facts", pa.binary(16)),
    ]
)
DELTA_SCHEMA = pa.schema([*MAIN_SCHEMA, ("kind", pa.string()), ("attributes", pa.string())])


def write_vectors(path: Path, chunks: Iterable[FloatArray], dim: int) -> int:
    """Write chunks (n, D) float32 of vectors to one safetensors file; return the number of vectors.

    Source:
        the safetensors format: 8 bytes of header size, JSON, data.
    """
    rows = 0
    with path.open("wb") as file:
        file.write(b" " * _HEADER)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, dtype=np.float32).data)
            rows += len(chunk)
        entry = {"dtype": "F32", "shape": [rows, dim], "data_offsets": [0, 4 * rows * dim]}
        header = json.dumps({VECTORS_KEY: entry}).encode().ljust(_HEADER - 8)
        file.seek(0)
        file.write((_HEADER - 8).to_bytes(8, "little") + header)
    return rows


def map_vectors(path: Path) -> FloatArray:
    """Return the vectors in a safetensors file, memory-mapped read-only as (N, D) float32."""
    return map_tensors(path)[VECTORS_KEY]


def map_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a safetensors file by name, memory-mapped read-only."""
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        entries: dict[str, Any] = json.loads(file.read(header_size))
    entries.pop("__metadata__", None)
    return {name: _map(path, 8 + header_size, entry) for name, entry in entries.items()}


def _map(path: Path, start: int, entry: dict[str, Any]) -> npt.NDArray[Any]:
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    if 0 in shape:
        return np.zeros(shape, dtype=dtype)  # an empty file cannot be mapped
    mapped = np.memmap(path, dtype=dtype, mode="r", offset=start + entry["data_offsets"][0], shape=shape)
    return mapped.view(np.ndarray)  # the subclass makes every access slower


def hash_of(text: str) -> int:
    """Return the 64-bit hash of a string, the same on every machine.

    Source:
        XXH3, https://xxhash.com.
    """
    return xxhash.xxh3_64_intdigest(text.encode())


def hashes_of(texts: Sequence[str]) -> HashArray:
    """Return `hash_of` each string as (n,) uint64."""
    return np.fromiter(map(hash_of, texts), dtype=np.uint64, count=len(texts))


class ItemIds:
    """The ids of N rows, in both directions.

    Attributes:
        column: the ids as an Arrow array, in row order.
    """

    def __init__(self, column: pa.LargeStringArray, hashes: HashArray, order: IntArray) -> None:
        self.column = column
        _, offsets, data = column.buffers()
        self._data = memoryview(data) if data is not None else memoryview(b"")
        self._ends = np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
        self._hashes = hashes
        self._order = order

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, row: int) -> str:
        return str(self._data[self._ends[row] : self._ends[row + 1]], "utf-8")

    def of_rows(self, rows: IntArray) -> list[str]:
        """Return the ids of rows (n,)."""
        if len(rows) > _FEW:
            ids: list[str] = self.column.take(pa.array(rows)).to_pylist()
            return ids
        data, ends = self._data, self._ends
        starts, stops = ends[rows].tolist(), ends[rows + 1].tolist()
        return [str(data[start:stop], "utf-8") for start, stop in zip(starts, stops, strict=True)]

    def rows(self, ids: Sequence[str]) -> IntArray:
        """Return the row of each id as (n,) int64, −1 for an unknown id."""
        found = np.full(len(ids), -1, dtype=np.int64)
        if not len(self):
            return found
        wanted = hashes_of(ids)
        places = np.searchsorted(self._hashes, wanted)
        for i, (place, value) in enumerate(zip(places.tolist(), wanted, strict=True)):
            at = place
            while at < len(self._hashes) and self._hashes[at] == value:  # several where hashes collide
                row = int(self._order[at])
                if self[row] == ids[i]:
                    found[i] = row
                    break
                at += 1
        return found


def hashed(ids: pa.LargeStringArray) -> tuple[HashArray, IntArray]:
    """Hash ids; return the sorted hashes (N,) uint64 and the row (N,) int64 of each."""
    hashes = np.empty(len(ids), dtype=np.uint64)
    step = 65_536
    for start in range(0, len(ids), step):  # so that few are Python objects at once
        hashes[start : start + step] = hashes_of(ids.slice(start, step).to_pylist())
    order = np.argsort(hashes, kind="stable").astype(np.int64)
    return hashes[order], order


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as one uncompressed Arrow record batch, which can be memory-mapped."""
    with pyarrow.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=max(1, len(table)))


def map_table(path: Path) -> pa.Table:
    """Return a table that `write_table` wrote, memory-mapped."""
    with pa.memory_map(str(path)) as source:
        return pyarrow.ipc.open_file(source).read_all()


def longest_of(vectors: FloatArray) -> float:
    """Return the length of the longest of vectors (N, D); 0 for none."""
    longest = 0.0
    block = max(1, _BLOCK_BYTES // (4 * max(1, vectors.shape[1])))
    for start in range(0, len(vectors), block):
        some = vectors[start : start + block]
        longest = max(longest, float(np.einsum("nd,nd->n", some, some).max()))
    return math.sqrt(longest)


def faiss_file(shard: int) -> str:
    """Return the name of the FAISS file of a shard."""
    return f"items.{shard:03d}.faiss"


@dataclass(frozen=True)
class MainPart:
    """The main part of an index: rows 0 to M − 1, in the order of their ids, memory-mapped.

    Attributes:
        ids: item ids.
        vectors: (M, D) float32, from which scores and shares are computed.
        popularity: (M,) float32, number of users behind each item.
        table: the columns of MAIN_SCHEMA.
    """

    ids: ItemIds
    vectors: FloatArray
    popularity: FloatArray
    table: pa.Table

    @classmethod
    def open(cls, directory: Path) -> "MainPart":
        """Open the main part of an index directory."""
        table = map_table(directory / ITEMS_FILE)
        lookup = map_tensors(directory / LOOKUP_FILE)
        ids: pa.LargeStringArray = table.column("item_id").combine_chunks()
        return cls(
            ItemIds(ids, lookup["hashes"], lookup["order"]),
            map_vectors(directory / VECTORS_FILE),
            table.column("popularity").to_numpy(),
            table,
        )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def longest(self) -> float:
        """The length of the longest vector."""
        return longest_of(self.vectors)


@dataclass(frozen=True)
class ItemChange:
    """An item to put into an index, in place of the one with its id.

    Attributes:
        vector: (D,) float32; zero for an item without text and id vector: filters and the popularity fallback
            find it, searches by vector do not.
        popularity: number of users who had to do with it.
        content, facts: hashes (16 bytes) of the input of its vector, and of its kind and attributes.
        attributes: JSON text.
        listed: whether it gets a row even where its vector is zero; otherwise it is only removed then.
    """

    item_id: str
    vector: FloatArray
    popularity: float
    content: bytes
    facts: bytes
    kind: str | None
    attributes: str
    listed: bool = True

    @property
    def has_vector(self) -> bool:
        """Whether searches by vector can find it."""
        return bool(self.vector.any())


def write_lookup(directory: Path, ids: pa.LargeStringArray) -> None:
    """Write the table of hashes that finds the row of an id."""
    hashes, order = hashed(ids)
    save_file({"hashes": hashes, "order": order}, directory / LOOKUP_FILE)


def write_delta(directory: Path, changes: Iterable[ItemChange], dim: int, removed: IntArray) -> None:
    """Write the changes since the main part, and the rows of it that are removed."""
    changes = list(changes)
    rows = [change for change in changes if change.has_vector]
    write_table(directory / DELTA_FILE, _table(rows))
    write_without_vector(directory, [change for change in changes if not change.has_vector])
    vectors = np.array([change.vector for change in rows], dtype=np.float32).reshape(-1, dim)
    save_file({"vectors": vectors, "gone": np.sort(removed)}, directory / DELTA_VECTORS_FILE)


def write_without_vector(directory: Path, changes: Iterable[ItemChange]) -> None:
    """Write the items that have no vector."""
    write_table(directory / WITHOUT_VECTOR_FILE, _table(list(changes)))


def read_without_vector(directory: Path, dim: int) -> list[ItemChange]:
    """Return the items without a vector; none for an index of a version that did not keep them."""
    if not (directory / WITHOUT_VECTOR_FILE).exists():
        return []
    vector = np.zeros(dim, dtype=np.float32)
    rows = map_table(directory / WITHOUT_VECTOR_FILE).to_pylist()
    return [ItemChange(vector=vector, **row) for row in rows]


def read_delta(directory: Path) -> tuple[list[ItemChange], IntArray]:
    """Return the changes with a vector that `write_delta` wrote, and the removed rows of the main part."""
    tensors: dict[str, Any] = map_tensors(directory / DELTA_VECTORS_FILE)
    rows = map_table(directory / DELTA_FILE).to_pylist()
    changes = [ItemChange(vector=vector, **row) for row, vector in zip(rows, tensors["vectors"], strict=True)]
    return changes, tensors["gone"]


def _table(rows: list[ItemChange]) -> pa.Table:
    columns = {name: [getattr(change, name) for change in rows] for name in DELTA_SCHEMA.names}
    return pa.table(columns, schema=DELTA_SCHEMA)
