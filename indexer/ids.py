"""Item ids as memory-mapped arrays: ten million of them are no Python objects."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc
import xxhash

from indexer.arrays import IntArray

_FEW = 150  # rows; of more, Arrow's `take` is quicker although a call of it costs 60 µs after a search
HashArray = npt.NDArray[np.uint64]


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
        """Return the row of each id as (n,) int64, −1 where it is not there."""
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
    """Return the sorted hashes (N,) of ids and the row (N,) that each belongs to."""
    hashes = np.empty(len(ids), dtype=np.uint64)
    step = 65_536
    for start in range(0, len(ids), step):  # so that not all of them are Python objects at once
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
