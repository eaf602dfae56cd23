"""The reindex flow: items of an export → item tower → FAISS → check → one published directory."""

import logging
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from encoder.dataset import rows_of
from encoder.runtime import Model
from encoder.text import TextEncoder, item_text
from encoder.text_cache import TextCache, encode_all
from indexer.index import FAISS_FILE, IDS_FILE, VECTORS_FILE, VECTORS_KEY, FloatArray, Index
from store.artifact import build, new_id
from store.export import Export
from store.home import Home

log = logging.getLogger(__name__)

CHECK_QUERIES = 200
CHECK_K = 10
_BATCH = 65_536


class FactoryError(ValueError):
    """A FAISS factory string is not understood."""

    def __init__(self, factory: str, reason: str) -> None:
        super().__init__(f"FAISS does not understand the factory {factory!r}: {reason}")
        self.factory = factory


class IndexCheckError(RuntimeError):
    """A freshly built index does not find what brute force finds."""


class ModelMismatchError(ValueError):
    """A model is asked to work with another text model's vectors."""

    def __init__(self, wanted: str, got: str) -> None:
        super().__init__(f"the model needs text model {wanted!r}, not {got!r}")


def reindex(
    home: Home,
    export: Export,
    model: Model,
    encoder: TextEncoder,
    cache: TextCache,
    factory: str = "Flat",
) -> Path:
    """Return the directory of a new index over the available items of an export; CURRENT is left as it is.

    Items without an id vector and without text have no vector; they are counted in the manifest and left out.

    Raises:
        ModelMismatchError: the encoder is not the model's text model.
        FactoryError: FAISS does not understand `factory`.
        IndexCheckError: the index does not agree with brute force; nothing is published.
    """
    if encoder.text_model_id != model.text_model_id:
        raise ModelMismatchError(model.text_model_id, encoder.text_model_id)
    built = empty_faiss(model.dim, factory)  # first, so that a bad factory fails before the work
    items = export.items(available_only=True)
    vectors = encode_items(items, model, encoder, cache)
    kept: npt.NDArray[np.bool_] = np.any(vectors, axis=1)  # (N,)
    ids = items.column("item_id").combine_chunks().filter(pa.array(kept))
    vectors = np.ascontiguousarray(vectors[kept])
    fill(built, vectors)
    ann_recall = check(built, vectors)
    index_id = new_id()
    with build(home.indexes, index_id) as draft:
        draft.facts = {
            "kind": "index",
            "model_id": model.model_id,
            "text_model_id": model.text_model_id,
            "export_id": export.export_id,
            "dim": model.dim,
            "factory": factory,
            "items": len(ids),
            "items_without_vector": int((~kept).sum()),
            f"ann_recall@{CHECK_K}": ann_recall,
        }
        faiss.write_index(built, str(draft.path / FAISS_FILE))
        save_file({VECTORS_KEY: vectors}, draft.path / VECTORS_FILE)
        pq.write_table(
            pa.table({"item_id": ids, "popularity": _popularity(ids, model)}), draft.path / IDS_FILE
        )
    log.info("index %s: %d items, %s, ANN recall@%d %.4f", index_id, len(ids), factory, CHECK_K, ann_recall)
    Index.load(
        home.indexes / index_id
    )  # what was written is read back, byte for byte, before anyone may serve it
    return home.indexes / index_id


def encode_items(items: pa.Table, model: Model, encoder: TextEncoder, cache: TextCache) -> FloatArray:
    """Return item vectors (N, D) float32 of a table with item_id, title, text; zero without any of them."""
    columns = (items.column(name).to_pylist() for name in ("title", "text"))
    texts = [item_text(title, text) for title, text in zip(*columns, strict=True)]
    text_vectors = encode_all(encoder, cache, texts, "item texts")  # (N, D_T)
    rows = rows_of(items.column("item_id"), model.item_ids)
    id_vectors = np.where((rows >= 0)[:, None], model.id_vectors[rows], np.float32(0.0))  # (N, D)
    chunks = [slice(i, i + _BATCH) for i in range(0, len(rows), _BATCH)]
    encoded = [model.encode_items(id_vectors[c], text_vectors[c]) for c in chunks]
    return np.concatenate(encoded) if encoded else np.zeros((0, model.dim), dtype=np.float32)


def empty_faiss(dim: int, factory: str) -> Any:
    """Return an empty FAISS index with inner-product metric.  Raises: FactoryError."""
    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise FactoryError(factory, str(error).rpartition(": ")[2]) from error


def fill(built: Any, vectors: FloatArray) -> None:
    """Train an empty FAISS index where its kind wants that, and add vectors (N, D)."""
    if not built.is_trained:
        built.train(vectors)
    built.add(vectors)


def check(built: Any, vectors: FloatArray, seed: int = 0) -> float:
    """Return ANN recall@10 of an index against brute force, on mixtures of its own vectors as queries.

    Raises:
        IndexCheckError: an exact index misses something, or any index finds less than half.
    """
    if not len(vectors):
        return 1.0
    generator = np.random.default_rng(seed)
    picked = vectors[generator.integers(len(vectors), size=(CHECK_QUERIES, 3))]  # (Q, 3, D)
    norms = np.maximum(np.linalg.norm(picked, axis=2, keepdims=True), 1e-12)
    queries = np.ascontiguousarray((picked / norms).sum(axis=1), dtype=np.float32)  # (Q, D)
    k = min(CHECK_K, len(vectors))
    exact = np.sort(queries @ vectors.T, axis=1)[:, -k]  # (Q,): the k-th best score
    rows = built.search(queries, k)[1]
    scores = np.einsum("qkd,qd->qk", vectors[rows], queries)
    good = (rows >= 0) & (scores >= exact[:, None] - 1e-5 * np.maximum(np.abs(exact[:, None]), 1.0))
    recall = float(good.mean())
    if recall < (1.0 if isinstance(built, faiss.IndexFlat) else 0.5):
        raise IndexCheckError(f"ANN recall@{k} against brute force is only {recall:.4f}")
    return recall


def _popularity(ids: pa.StringArray, model: Model) -> FloatArray:
    rows = rows_of(ids, model.item_ids)
    return np.where(rows >= 0, model.popularity[rows], 0.0).astype(np.float32)
