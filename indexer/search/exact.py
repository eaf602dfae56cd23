"""Exact scores: of every vector, of some of them, and of candidates.

One kernel, `scores_of`, computes every score that is returned, one pair of query and row after another. So
the score of a row does not depend on the batch, on k or on other rows, and equal vectors have equal scores.
Faster kernels only choose candidates, enough of them that rounding cannot lose one of the best k. Equal
scores are in the order of their rows.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import faiss
import numpy as np
import numpy.typing as npt

from indexer.files import FloatArray, IntArray, longest_of

Number = TypeVar("Number", bound=np.generic)
_BLOCK_BYTES = 64 << 20  # of gathered vectors at a time
_MULTIPLIED_BATCH = 8  # from this many queries on, a matrix product by numpy is quicker than FAISS's search
_PRODUCT_ROWS = 8_192  # of one matrix product: its scores stay in the cache
_GATHERED_BATCH = 4  # from this many queries on, copying the allowed vectors once is quicker
_SORTED = 3  # times k; of more candidates than that, the best k are selected before they are sorted
_SPARE = 8  # candidates beyond k of a first search, which show whether others score as high as the k-th
_CROWD = 1_000  # candidates of one query beyond 4k, from which on all rows are scored for it alone
_ROUNDED = 1.01  # times the slack, for the rounding of the lengths that it is computed from
_LEAST = np.finfo(np.float32).min


Searched = tuple[IntArray, FloatArray]  # rows and scores, both (B, n)


def best_of_all(vectors: FloatArray, queries: FloatArray, k: int, longest: float | None = None) -> Searched:
    """Compare every vector: return the rows (B, k) int64 and scores (B, k) float32 of the best, best first.

    Args:
        vectors: (N, D) float32, N at least 1; they may be memory-mapped, and are read block by block.
        queries: (B, D) float32.
        k: at most N.
        longest: `longest_of(vectors)`, or more, where it is known; None computes it.
    """
    slack = slack_of(queries, longest_of(vectors) if longest is None else longest)
    if len(queries) >= _MULTIPLIED_BATCH:
        rows, crowded = _by_product(vectors, None, queries, k, slack)
    else:
        count = min(k + _SPARE, len(vectors))
        scores, rows = faiss.knn(queries, vectors, count, metric=faiss.METRIC_INNER_PRODUCT)
        as_good = scores[:, -1:] >= scores[:, k - 1 : k] - slack
        crowded = np.flatnonzero(as_good) if count < len(vectors) else np.zeros(0, np.int64)
    best = best_of(rows, scores_of(vectors, queries, rows), k)
    return _rescan_crowded(best, crowded, vectors, None, queries, k)


def best_of_some(vectors: FloatArray, allowed: IntArray, queries: FloatArray, k: int) -> Searched:
    """Compare the sorted rows `allowed` (n,) alone; return as `best_of_all` does, min(k, n) columns."""
    k = min(k, len(allowed))
    if len(queries) < _GATHERED_BATCH:
        return best_of_parts(_scored(vectors, allowed, queries, k), k)
    block = max(1, _BLOCK_BYTES // (4 * vectors.shape[1]))
    found: list[Searched] = []
    for start in range(0, len(allowed), block):
        some = allowed[start : start + block]
        at, scores = best_of_all(np.ascontiguousarray(vectors[some]), queries, min(k, len(some)))
        found.append((some[at], scores))
    return best_of_parts(found, k)


def best_of_masked(
    vectors: FloatArray,
    allowed: npt.NDArray[np.bool_],
    queries: FloatArray,
    k: int,
    longest: float | None = None,
) -> Searched:
    """Compare the rows where `allowed` (N,) is true by a pass over all; return as `best_of_all` does.

    Where fewer than k are allowed, the rest is row −1 with score −inf, or there are fewer columns.
    """
    if len(queries) < _MULTIPLIED_BATCH:
        return best_of_some(vectors, np.flatnonzero(allowed), queries, k)
    slack = slack_of(queries, longest_of(vectors) if longest is None else longest)
    penalty = np.where(allowed, np.float32(0.0), np.float32(-np.inf))
    rows, crowded = _by_product(vectors, penalty, queries, k, slack)
    best = best_of(rows, scores_of(vectors, queries, rows), k)
    return _rescan_crowded(best, crowded, vectors, np.flatnonzero(allowed), queries, k)


def slack_of(queries: FloatArray, longest: float) -> FloatArray:
    """Return how far (B, 1) float32 a row of the best k can score below the k-th best of a faster kernel.

    Two sums of the same D products differ by 2 γ_D |q| |x| at most, and so do the k-th best scores of the two
    kernels.

    Source:
        Higham 2002, Accuracy and Stability of Numerical Algorithms, 2nd ed., equation 3.5.
    """
    unit = (queries.shape[1] + 1) * 2.0**-24  # one more, for the subtraction of the slack
    norms = np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    slack: FloatArray = (_ROUNDED * 4.0 * unit / (1.0 - unit) * longest * norms).astype(np.float32)
    return slack


def _by_product(
    vectors: FloatArray, penalty: FloatArray | None, queries: FloatArray, k: int, slack: FloatArray
) -> tuple[IntArray, IntArray]:
    """Return candidate rows (B, n) that include the best k, by matrix products with a penalty (N,) on scores.

    Row −1 fills up behind them. The second array (c,) names the crowded queries, for which too many rows
    score as high as the k-th; their candidates are useless.
    """
    pool = np.full((len(queries), 0), -1, np.int64), np.zeros((len(queries), 0), np.float32)
    last = np.full((len(queries), 1), -np.inf, dtype=np.float32)  # the k-th best; inf for a crowded query
    block = max(k, min(_PRODUCT_ROWS, _BLOCK_BYTES // (4 * len(queries))))
    for start in range(0, len(vectors), block):
        scores = queries @ vectors[start : start + block].T  # (B, n)
        if penalty is not None:
            scores += penalty[start : start + block]
        if pool[0].shape[1] < k <= scores.shape[1]:
            last = np.maximum(last, _kth(scores, k))
        pool = _add_candidates(pool, scores, start, np.maximum(last - slack, _LEAST))
        if pool[0].shape[1] >= k:
            last = np.maximum(last, _kth(pool[1], k))
            pool, last = _thin_out(pool, last, slack, 4 * k + _CROWD)
    return pool[0], np.flatnonzero(np.isposinf(last))


def _kth(scores: FloatArray, k: int) -> FloatArray:
    """Return the k-th greatest (B, 1) of scores (B, n)."""
    return -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]


def _add_candidates(pool: Searched, scores: FloatArray, start: int, least: FloatArray) -> Searched:
    """Add the rows from `start` on whose scores (B, n) reach the least (B, 1) to a pool of candidates."""
    query, at = np.divmod(np.flatnonzero(scores >= least), scores.shape[1])
    if not len(query):
        return pool
    rows, found = as_matrix(query, len(scores), at + start, scores[query, at])
    return np.concatenate([pool[0], rows], axis=1), np.concatenate([pool[1], found], axis=1)


def _thin_out(pool: Searched, last: FloatArray, slack: FloatArray, most: int) -> tuple[Searched, FloatArray]:
    """Drop candidates below the k-th best score; return the pool and the k-th, inf for a crowded query."""
    rows, scores = pool
    counts = (scores >= np.maximum(last - slack, _LEAST)).sum(axis=1)
    crowded = counts > most
    last = np.where(crowded[:, None], np.float32(np.inf), last)
    width = max(1, int(counts[~crowded].max(initial=0)))
    if width < rows.shape[1]:
        at = np.argpartition(-scores, width - 1, axis=1)[:, :width]
        rows, scores = take_columns(rows, at), take_columns(scores, at)
    scores[crowded] = -np.inf
    return (rows, scores), last


def _rescan_crowded(
    best: Searched,
    crowded: IntArray,
    vectors: FloatArray,
    allowed: IntArray | None,
    queries: FloatArray,
    k: int,
) -> Searched:
    """Return the best with those of the crowded queries replaced, from all rows or all that are allowed."""
    if not len(crowded):
        return best
    rows, scores = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, dtype=np.float32)
    width = best[0].shape[1]
    rows[:, :width], scores[:, :width] = best
    for query in crowded.tolist():
        found = _scanned(vectors, allowed, queries[query : query + 1], k)
        width = found[0].shape[1]
        rows[query, :width], scores[query, :width] = found[0][0], found[1][0]
        rows[query, width:], scores[query, width:] = -1, -np.inf
    return rows, scores


def _scanned(vectors: FloatArray, allowed: IntArray | None, query: FloatArray, k: int) -> Searched:
    """Return the best k for one query (1, D), from the scores of all rows, or of the sorted ones allowed."""
    if not query.any():  # every score is 0
        rows = np.arange(min(k, len(vectors))) if allowed is None else allowed[:k]
        return rows[None], np.zeros((1, len(rows)), np.float32)
    return best_of_parts(_scored(vectors, allowed, query, k), k)


def _scored(vectors: FloatArray, rows: IntArray | None, queries: FloatArray, k: int) -> Iterator[Searched]:
    """Yield the best k of each block of rows (n,), None for all, after scoring every row of it."""
    total = len(vectors) if rows is None else len(rows)
    block = max(k, _BLOCK_BYTES // (4 * vectors.shape[1]))
    for start in range(0, total, block):
        end = min(start + block, total)
        some = np.arange(start, end) if rows is None else rows[start:end]
        for_each = np.broadcast_to(some, (len(queries), len(some)))
        yield best_of(for_each, scores_of(vectors, queries, for_each), min(k, len(some)))


def as_matrix(query: IntArray, batch: int, rows: IntArray, scores: FloatArray) -> Searched:
    """Arrange rows (m,) and scores (m,), sorted by their query (m,), as (B, n), filled with −1 and −inf."""
    counts = np.bincount(query, minlength=batch)
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    all_rows = np.full((batch, counts.max(initial=0)), -1, dtype=np.int64)
    all_scores = np.full(all_rows.shape, -np.inf, dtype=np.float32)
    all_rows[query, place], all_scores[query, place] = rows, scores
    return all_rows, all_scores


def scores_of(vectors: FloatArray, queries: FloatArray, rows: IntArray) -> FloatArray:
    """Return the inner products (B, n) float32 of queries (B, D) with their rows (B, n); −inf for row −1.

    The score of a query and a row is the same to the last bit in every batch and among any other rows.
    """
    rows = np.ascontiguousarray(rows, dtype=np.int64)
    scores = np.empty(rows.shape, dtype=np.float32)
    if not rows.size:
        return scores
    threads = faiss.omp_get_max_threads() if len(queries) == 1 else 1
    if threads > 1:
        faiss.omp_set_num_threads(1)  # for this thread alone; otherwise idle threads are started
    faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]  # gives −inf for row −1
        faiss.swig_ptr(scores),
        faiss.swig_ptr(queries),
        faiss.swig_ptr(vectors),
        faiss.swig_ptr(rows),
        vectors.shape[1],
        len(queries),
        rows.shape[1],
    )
    if threads > 1:
        faiss.omp_set_num_threads(threads)
    return scores


def best_of_parts(parts: Iterable[Searched], k: int) -> Searched:
    """Merge (rows, scores) of the same queries, each best first, one after another; return the best k."""
    best: Searched | None = None
    for rows, scores in parts:
        if best is None:
            best = rows[:, :k], scores[:, :k]
        else:
            merged = np.concatenate([best[0], rows], axis=1), np.concatenate([best[1], scores], axis=1)
            best = best_of(*merged, k)
    if best is None:
        raise ValueError("there are no parts to merge")
    return best


def best_of(rows: IntArray, scores: FloatArray, k: int) -> Searched:
    """Select the best k of rows (B, n) with scores (B, n), best first, equal scores in the order of rows."""
    if scores.shape[1] > _SORTED * k:
        at = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        best = take_columns(scores, at)
        as_good = scores >= best.min(axis=1, keepdims=True)
        if np.count_nonzero(as_good) > at.size:
            _prefer_smallest_rows(at, rows, scores, np.flatnonzero(as_good.sum(axis=1) > k))
            best = take_columns(scores, at)
        rows, scores = take_columns(rows, at), best
    if (scores[:, 1:] > scores[:, :-1]).any():
        order = np.argsort(-scores, axis=1)  # not stable: numpy sorts that several times as fast
        rows, scores = take_columns(rows, order), take_columns(scores, order)
    tied = scores[:, 1:] == scores[:, :-1]
    if tied.any() and (tied & (rows[:, 1:] < rows[:, :-1])).any():
        order = np.lexsort((rows, -scores))
        rows, scores = take_columns(rows, order), take_columns(scores, order)
    return rows[:, :k], scores[:, :k]


def _prefer_smallest_rows(at: IntArray, rows: IntArray, scores: FloatArray, queries: IntArray) -> None:
    """Change columns of the best k so that of the rows with the k-th score the smallest are chosen.

    Args:
        at: (B, k) columns in any order, changed in place.
        rows: (B, n).
        scores: (B, n) of the rows.
        queries: those whose k-th score further rows have.
    """
    for query in queries.tolist():
        last = scores[query, at[query]].min()
        above, as_good = np.flatnonzero(scores[query] > last), np.flatnonzero(scores[query] == last)
        count = at.shape[1] - len(above)
        some = as_good[np.argpartition(rows[query, as_good], count - 1)[:count]]
        at[query] = np.concatenate([above, some])


def take_columns(values: npt.NDArray[Number], at: IntArray) -> npt.NDArray[Number]:
    """Return np.take_along_axis(values, at, 1) of values (B, n), 3 µs sooner for one query of some 150 µs."""
    found: npt.NDArray[Number]
    found = values[0][at] if len(values) == 1 else values[np.arange(len(at))[:, None], at]
    return found
