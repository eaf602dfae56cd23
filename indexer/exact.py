"""Exact scores: of every vector, of some of them, and of candidates."""

from typing import TypeVar

import faiss
import numpy as np
import numpy.typing as npt

from indexer.arrays import FloatArray, IntArray

Number = TypeVar("Number", bound=np.generic)
Searched = tuple[IntArray, FloatArray]  # rows and scores, both (B, n)

_BLOCK_BYTES = 64 << 20  # of gathered vectors at a time
_MULTIPLIED_BATCH = 8  # from this many queries on, a matrix product by numpy is quicker than FAISS's search
_PRODUCT_ROWS = 8_192  # of one matrix product: its scores stay in the cache
_GATHERED_BATCH = 4  # from this many queries on, gathering vectors once pays
_SORTED = 3  # times k; of more candidates than that, the best k are found before they are put in order


def best_of_all(vectors: FloatArray, queries: FloatArray, k: int) -> Searched:
    """Return the rows (B, k) int64 and scores (B, k) float32 of the best of vectors (N, D), best first.

    k is at most N, and N at least 1.
    """
    if len(queries) >= _MULTIPLIED_BATCH:
        return _by_product(vectors, None, queries, k)
    scores, rows = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    return rows, scores


def best_of_some(vectors: FloatArray, allowed: IntArray, queries: FloatArray, k: int) -> Searched:
    """Return what `best_of_all` returns, of the rows `allowed` (n,) alone; min(k, n) columns."""
    k = min(k, len(allowed))
    found: list[Searched] = []
    block = max(1, _BLOCK_BYTES // (4 * vectors.shape[1]))
    for start in range(0, len(allowed), block):
        some = allowed[start : start + block]
        count = min(k, len(some))
        if len(queries) < _GATHERED_BATCH:
            scores = scores_of(vectors, queries, np.broadcast_to(some, (len(queries), len(some))))
            at = np.argpartition(-scores, count - 1, axis=1)[:, :count]
            found.append((some[at], taken(scores, at)))
        else:
            at, scores = best_of_all(np.ascontiguousarray(vectors[some]), queries, count)
            found.append((some[at], scores))
    return best_of_parts(found, k)


def best_of_masked(
    vectors: FloatArray, allowed: npt.NDArray[np.bool_], queries: FloatArray, k: int
) -> Searched:
    """Return what `best_of_all` returns, of the rows where `allowed` (N,) is true, by a pass over all rows.

    Where fewer than k are allowed, the rest is row −1 with score −inf, or missing.
    """
    if len(queries) < _MULTIPLIED_BATCH:
        return best_of_some(vectors, np.flatnonzero(allowed), queries, k)
    return _by_product(vectors, np.where(allowed, np.float32(0.0), np.float32(-np.inf)), queries, k)


def _by_product(vectors: FloatArray, penalty: FloatArray | None, queries: FloatArray, k: int) -> Searched:
    """Return the best k of vectors (N, D) by matrix products, after a penalty (N,) on their scores."""
    best = np.full((len(queries), 0), -1, np.int64), np.zeros((len(queries), 0), np.float32)
    block = max(k, min(_PRODUCT_ROWS, _BLOCK_BYTES // (4 * len(queries))))
    for start in range(0, len(vectors), block):
        scores = queries @ vectors[start : start + block].T  # (B, n)
        if penalty is not None:
            scores += penalty[start : start + block]
        best = with_better(best, scores, np.arange(start, start + scores.shape[1]), k)
    return best


def with_better(best: Searched, scores: FloatArray, rows: IntArray, k: int) -> Searched:
    """Return the best k, best first, of what was found and of further rows (n,) with scores (B, n).

    A row with score −inf is not found.
    """
    if best[0].shape[1] < k:
        few = min(k, scores.shape[1])
        at = np.argpartition(-scores, few - 1, axis=1)[:, :few]
        new = taken(scores, at)
        return best_of_parts([best, (np.where(np.isneginf(new), -1, rows[at]), new)], k)
    query, at = better(scores, best)
    return merged(best, query, rows[at], scores[query, at], k)


def better(scores: FloatArray, best: Searched) -> tuple[IntArray, IntArray]:
    """Return query and column of scores (B, n) above the last of what was found, which are few as a rule."""
    places = np.flatnonzero(scores > best[1][:, -1:])
    if not len(places) or len(scores) == 1:
        return np.zeros(len(places), dtype=np.int64), places
    query, at = np.divmod(places, scores.shape[1])
    return query, at


def merged(best: Searched, query: IntArray, rows: IntArray, scores: FloatArray, k: int) -> Searched:
    """Return the best k of what was found and of rows (m,) with their query, in order, and score."""
    if not len(query):
        return best
    if len(best[0]) == 1:
        return best_of_parts([best, (rows[None], scores[None])], k)
    counts = np.bincount(query, minlength=len(best[0]))
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    new_rows = np.full((len(counts), counts.max()), -1, dtype=np.int64)
    new_scores = np.full(new_rows.shape, -np.inf, dtype=np.float32)
    new_rows[query, place], new_scores[query, place] = rows, scores
    return best_of_parts([best, (new_rows, new_scores)], k)


def scores_of(vectors: FloatArray, queries: FloatArray, rows: IntArray) -> FloatArray:
    """Return the inner products (B, n) float32 of queries (B, D) with their rows (B, n); −inf for row −1."""
    rows = np.ascontiguousarray(rows, dtype=np.int64)
    scores = np.empty(rows.shape, dtype=np.float32)
    if not rows.size:
        return scores
    threads = faiss.omp_get_max_threads()
    if len(queries) == 1:
        faiss.omp_set_num_threads(1)  # of this thread alone; else others are started, with nothing to do
    faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]  # gives −inf for row −1
        faiss.swig_ptr(scores),
        faiss.swig_ptr(queries),
        faiss.swig_ptr(vectors),
        faiss.swig_ptr(rows),
        vectors.shape[1],
        len(queries),
        rows.shape[1],
    )
    if len(queries) == 1:
        faiss.omp_set_num_threads(threads)
    return scores


def best_of_parts(parts: list[Searched], k: int) -> Searched:
    """Return the best k over several (rows, scores) of the same queries, best first."""
    rows = np.concatenate([part[0] for part in parts], axis=1)
    return best_of(rows, np.concatenate([part[1] for part in parts], axis=1), k)


def best_of(rows: IntArray, scores: FloatArray, k: int) -> Searched:
    """Return the best k of rows (B, n) with scores (B, n), best first; equal scores come in any order."""
    if not (scores[:, 1:] > scores[:, :-1]).any():
        return rows[:, :k], scores[:, :k]
    if scores.shape[1] > _SORTED * k:
        at = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        rows, scores = taken(rows, at), taken(scores, at)
    order = np.argsort(-scores, axis=1)[:, :k]  # not stable: numpy sorts that several times as fast
    return taken(rows, order), taken(scores, order)


def taken(values: npt.NDArray[Number], at: IntArray) -> npt.NDArray[Number]:
    """Return np.take_along_axis(values, at, 1) of values (B, n), in half the time."""
    found: npt.NDArray[Number]
    found = values[0][at] if len(values) == 1 else values[np.arange(len(at))[:, None], at]
    return found
