"""Synthetic vectors and an index over them, without a model behind it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.arrays import FloatArray, write_vectors
from indexer.building import write_rows
from indexer.choice import EXACT, Choice
from indexer.facts import FactsBuilder
from indexer.fitting import fit
from indexer.index import Index
from indexer.parts import VECTORS_FILE
from indexer.sealing import seal

Attributes = Callable[[int], dict[str, Any]]
_CHUNK = 65_536


def clustered(generator: np.random.Generator, centres: FloatArray, count: int) -> FloatArray:
    """Return unit vectors (count, D) float32 around centres (C, D) that are drawn at random."""
    spread = generator.standard_normal((count, centres.shape[1]), dtype=np.float32)
    vectors = centres[generator.integers(len(centres), size=count)] + 0.5 * spread
    unit: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def write_index(
    parent: Path,
    vectors: FloatArray,
    factory: str,
    queries: FloatArray,
    *,
    ann_recall: float = 0.99,
    attributes: Attributes | None = None,
) -> Index:
    """Return a new index over vectors (N, D), tuned with queries (Q, D); its files lie below `parent`.

    Item n is named item-000000n; `attributes` gives what filters may ask of it.

    Raises:
        FactoryError: FAISS does not understand the factory.
    """
    count = len(vectors)
    facts = FactsBuilder()
    if attributes is not None:
        for row in range(count):
            facts.add(row, None, attributes(row))
    hashes = pa.table(
        {
            "item_id": [f"item-{row:09d}" for row in range(count)],
            **{name: pa.array([bytes(16)] * count, pa.binary(16)) for name in ("content", "facts")},
        }
    )
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".draft-") as name:
        folder = Path(name)
        chunks = (vectors[start : start + _CHUNK] for start in range(0, count, _CHUNK))
        write_vectors(folder / VECTORS_FILE, chunks, vectors.shape[1])
        write_rows(folder, hashes, np.zeros(count, dtype=np.float32), facts)
        fitted = fit(folder, queries, Choice(factory, "it is measured", (EXACT,)), ann_recall)
        directory = seal(parent, folder, fitted, {"model_id": "bench", "dim": vectors.shape[1]})
    return Index.load(directory, check=False)
