"""The files of an index directory: an immutable main part, and what changed since it was built."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import save_file

from indexer.arrays import FloatArray, IntArray, map_tensors, map_vectors
from indexer.filters.attribute_index import AttributeIndex
from indexer.ids import ItemIds, hashed, map_table, write_table
from indexer.search.exact import longest_of

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


def faiss_file(shard: int) -> str:
    """Return the name of the FAISS file of a shard."""
    return f"items.{shard:03d}.faiss"


@dataclass(frozen=True)
class MainPart:
    """The rows 0 to M − 1 of an index, in the order of their ids, memory-mapped.

    Attributes:
        ids: their item ids.
        vectors: (M, D) float32, what scores and shares are computed from.
        popularity: (M,) float32, number of users behind each item.
        facts: kinds and attributes.
        table: the columns of MAIN_SCHEMA.
    """

    ids: ItemIds
    vectors: FloatArray
    popularity: FloatArray
    facts: AttributeIndex
    table: pa.Table

    @classmethod
    def open(cls, directory: Path) -> "MainPart":
        """Return the main part of an index directory."""
        table = map_table(directory / ITEMS_FILE)
        lookup = map_tensors(directory / LOOKUP_FILE)
        ids: pa.LargeStringArray = table.column("item_id").combine_chunks()
        return cls(
            ItemIds(ids, lookup["hashes"], lookup["order"]),
            map_vectors(directory / VECTORS_FILE),
            table.column("popularity").to_numpy(),
            AttributeIndex(directory / FACTS_FILE),
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
    """An item that is put into an index, or replaces the one of its id there.

    Attributes:
        vector: (D,) float32; zero for an item that nothing is known of: filters and the popularity fallback
            find it, searches by vector do not.
        popularity: number of users behind it.
        content, facts: hashes (16 bytes) of what its vector is made from, and of its kind and attributes.
        attributes: as JSON text.
        listed: whether it has a row where its vector is zero; otherwise it is not there then.
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
    """Write what finds the row of an id."""
    hashes, order = hashed(ids)
    save_file({"hashes": hashes, "order": order}, directory / LOOKUP_FILE)


def write_delta(directory: Path, changes: Iterable[ItemChange], dim: int, gone: IntArray) -> None:
    """Write the changes since the main part, and the rows of it that are gone."""
    changes = list(changes)
    rows = [change for change in changes if change.has_vector]
    write_table(directory / DELTA_FILE, _table(rows))
    write_without_vector(directory, [change for change in changes if not change.has_vector])
    vectors = np.array([change.vector for change in rows], dtype=np.float32).reshape(-1, dim)
    save_file({"vectors": vectors, "gone": np.sort(gone)}, directory / DELTA_VECTORS_FILE)


def write_without_vector(directory: Path, changes: Iterable[ItemChange]) -> None:
    """Write the items that have no vector."""
    write_table(directory / WITHOUT_VECTOR_FILE, _table(list(changes)))


def read_without_vector(directory: Path, dim: int) -> list[ItemChange]:
    """Return the items without a vector; none of an index that was made before such items were kept."""
    if not (directory / WITHOUT_VECTOR_FILE).exists():
        return []
    vector = np.zeros(dim, dtype=np.float32)
    rows = map_table(directory / WITHOUT_VECTOR_FILE).to_pylist()
    return [ItemChange(vector=vector, **row) for row in rows]


def read_delta(directory: Path) -> tuple[list[ItemChange], IntArray]:
    """Return the changes with a vector that `write_delta` wrote, and which rows of the main part are gone."""
    tensors: dict[str, Any] = map_tensors(directory / DELTA_VECTORS_FILE)
    rows = map_table(directory / DELTA_FILE).to_pylist()
    changes = [ItemChange(vector=vector, **row) for row, vector in zip(rows, tensors["vectors"], strict=True)]
    return changes, tensors["gone"]


def _table(rows: list[ItemChange]) -> pa.Table:
    columns = {name: [getattr(change, name) for change in rows] for name in DELTA_SCHEMA.names}
    return pa.table(columns, schema=DELTA_SCHEMA)
