"""Exact scores: of every vector, of some of them, and of candidates."""

import faiss
import numpy as np
import numpy.typing as npt

from indexer.arrays import FloatArray, IntArray

_BLOCK_BYTES = 64 << 20  # of gathered vectors at a time
_GATHERED_BATCH = 4  # from this many queries on, gathering vectors once pays


def best_of_all(vectors: FloatArray, queries: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    """Return the rows (B, k) int64 and scores (B, k) float32 of the best of vectors (N, D), best first.

    k is at most N, and N at least 1.
    """
    scores, rows = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    return rows, scores


def best_of_some(
    vectors: FloatArray, allowed: IntArray, queries: FloatArray, k: int
) -> tuple[IntArray, FloatArray]:
    """Return what `best_of_all` returns, of the rows `allowed` (n,) alone; min(k, n) columns."""
    k = min(k, len(allowed))
    found: list[tuple[IntArray, FloatArray]] = []
    block = max(1, _BLOCK_BYTES // (4 * vectors.shape[1]))
    for start in range(0, len(allowed), block):
        some = allowed[start : start + block]
        count = min(k, len(some))
        if len(queries) < _GATHERED_BATCH:
            scores = scores_of(vectors, queries, np.broadcast_to(some, (len(queries), len(some))))
            at = np.argpartition(-scores, count - 1, axis=1)[:, :count]
            found.append((some[at], np.take_along_axis(scores, at, 1)))
        else:
            at, scores = best_of_all(np.ascontiguousarray(vectors[some]), queries, count)
            found.append((some[at], scores))
    return best_of_parts(found, k)


def best_of_masked(
    vectors: FloatArray, allowed: npt.NDArray[np.bool_], queries: FloatArray, k: int
) -> tuple[IntArray, FloatArray]:
    """Return what `best_of_all` returns, of the rows where `allowed` (N,) is true, by a pass over all rows.

    Where fewer than k are allowed, the rest is row −1 with score −inf.
    """
    found: list[tuple[IntArray, FloatArray]] = []
    block = max(k, _BLOCK_BYTES // (4 * max(vectors.shape[1], len(queries))))
    for start in range(0, len(vectors), block):
        scores = queries @ vectors[start : start + block].T  # (B, n)
        scores[:, ~allowed[start : start + block]] = -np.inf
        count = min(k, scores.shape[1])
        at = np.argpartition(-scores, count - 1, axis=1)[:, :count].astype(np.int64)
        best = np.take_along_axis(scores, at, 1)
        found.append((np.where(np.isneginf(best), -1, at + start), best))
    return best_of_parts(found, k)


def scores_of(vectors: FloatArray, queries: FloatArray, rows: IntArray) -> FloatArray:
    """Return the inner products (B, n) float32 of queries (B, D) with their rows (B, n); −inf for row −1."""
    rows = np.ascontiguousarray(rows, dtype=np.int64)
    scores = np.empty(rows.shape, dtype=np.float32)
    if rows.size:
        faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]
            faiss.swig_ptr(scores),
            faiss.swig_ptr(queries),
            faiss.swig_ptr(vectors),
            faiss.swig_ptr(rows),
            vectors.shape[1],
            len(queries),
            rows.shape[1],
        )
        scores[rows < 0] = -np.inf
    return scores


def best_of_parts(parts: list[tuple[IntArray, FloatArray]], k: int) -> tuple[IntArray, FloatArray]:
    """Return the best k over several (rows, scores) of the same queries, best first."""
    rows = np.concatenate([part[0] for part in parts], axis=1)
    scores = np.concatenate([part[1] for part in parts], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
