"""Synthetic vectors and an index over them, without a model behind it."""

from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from indexer.index import FAISS_FILE, IDS_FILE, VECTORS_FILE, VECTORS_KEY, FloatArray, Index
from indexer.reindex import empty_faiss, fill
from store.artifact import build, new_id


def clustered(generator: np.random.Generator, centres: FloatArray, count: int) -> FloatArray:
    """Return unit vectors (count, D) float32 around centres (C, D) that are drawn at random."""
    spread = generator.standard_normal((count, centres.shape[1]), dtype=np.float32)
    vectors = centres[generator.integers(len(centres), size=count)] + 0.5 * spread
    unit: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def write_index(parent: Path, vectors: FloatArray, factory: str, nprobe: int, ef_search: int) -> Index:
    """Return a new index over vectors (N, D), its files below `parent`.  Raises: FactoryError."""
    built = empty_faiss(vectors.shape[1], factory)
    if isinstance(built, faiss.IndexIVF):
        built.nprobe = nprobe
    if isinstance(built, faiss.IndexHNSW):
        built.hnsw.efSearch = ef_search
    fill(built, vectors)
    index_id = new_id()
    ids = pa.array([f"item-{row:09d}" for row in range(len(vectors))])
    with build(parent, index_id) as draft:
        draft.facts = {"kind": "index", "model_id": "bench", "dim": vectors.shape[1], "factory": factory}
        draft.facts["items"] = len(vectors)
        faiss.write_index(built, str(draft.path / FAISS_FILE))
        save_file({VECTORS_KEY: vectors}, draft.path / VECTORS_FILE)
        popularity = pa.array(np.zeros(len(vectors), dtype=np.float32))
        pq.write_table(pa.table({"item_id": ids, "popularity": popularity}), draft.path / IDS_FILE)
    return Index.load(parent / index_id, check=False)
