"""Exact scores: of every vector, of some of them, and of candidates.

One kernel, `scores_of`, makes every score that is returned, one pair of query and row after another; so the
score of a row does not depend on what else is asked, and equal vectors have equal scores. Quicker kernels
only choose candidates, with room for all that rounding could put among the best. Equal scores are in the
order of their rows.
"""

from typing import TypeVar

import faiss
import numpy as np
import numpy.typing as npt

from indexer.files import FloatArray, IntArray, longest_of

Number = TypeVar("Number", bound=np.generic)
_BLOCK_BYTES = 64 << 20  # of gathered vectors at a time
_MULTIPLIED_BATCH = 8  # from this many queries on, a matrix product by numpy is quicker than FAISS's search
_PRODUCT_ROWS = 8_192  # of one matrix product: its scores stay in the cache
_GATHERED_BATCH = 4  # from this many queries on, gathering vectors once pays
_SORTED = 3  # times k; of more candidates than that, the best k are found before they are put in order
_SPARE = 8  # candidates beyond k of a first search, so that it is seen whether others are as good as the last
_CROWD = 1_000  # candidates beyond 4k of one query, from which on it is compared with every row by itself
_ROUNDED = 1.01  # times the slack, for the rounding of the lengths that it is made from
_LEAST = np.finfo(np.float32).min


Searched = tuple[IntArray, FloatArray]  # rows and scores, both (B, n)


def best_of_all(vectors: FloatArray, queries: FloatArray, k: int, longest: float | None = None) -> Searched:
    """Return the rows (B, k) int64 and scores (B, k) float32 of the best of vectors (N, D), best first.

    k is at most N, and N at least 1.

    Args:
        vectors: (N, D) float32.
        queries: (B, D) float32.
        k: how many.
        longest: what `longest_of(vectors)` returns, or more, where somebody keeps it.
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
    return _compared_again(best, crowded, vectors, None, queries, k)


def best_of_some(vectors: FloatArray, allowed: IntArray, queries: FloatArray, k: int) -> Searched:
    """Return what `best_of_all` returns, of the sorted rows `allowed` (n,) alone; min(k, n) columns."""
    k = min(k, len(allowed))
    found: list[Searched] = []
    block = max(1, _BLOCK_BYTES // (4 * vectors.shape[1]))
    for start in range(0, len(allowed), block):
        some = allowed[start : start + block]
        count = min(k, len(some))
        if len(queries) < _GATHERED_BATCH:
            rows = np.broadcast_to(some, (len(queries), len(some)))
            found.append(best_of(rows, scores_of(vectors, queries, rows), count))
        else:
            at, scores = best_of_all(np.ascontiguousarray(vectors[some]), queries, count)
            found.append((some[at], scores))
    return best_of_parts(found, k)


def best_of_masked(
    vectors: FloatArray,
    allowed: npt.NDArray[np.bool_],
    queries: FloatArray,
    k: int,
    longest: float | None = None,
) -> Searched:
    """Return what `best_of_all` returns, of the rows where `allowed` (N,) is true, by a pass over all rows.

    Where fewer than k are allowed, the rest is row −1 with score −inf, or missing.
    """
    if len(queries) < _MULTIPLIED_BATCH:
        return best_of_some(vectors, np.flatnonzero(allowed), queries, k)
    slack = slack_of(queries, longest_of(vectors) if longest is None else longest)
    penalty = np.where(allowed, np.float32(0.0), np.float32(-np.inf))
    rows, crowded = _by_product(vectors, penalty, queries, k, slack)
    best = best_of(rows, scores_of(vectors, queries, rows), k)
    return _compared_again(best, crowded, vectors, np.flatnonzero(allowed), queries, k)


def slack_of(queries: FloatArray, longest: float) -> FloatArray:
    """Return how far (B, 1) float32 below the k-th best, by another kernel, a row of the best k can lie.

    Two sums of the same D products differ by 2 γ_D |q| |x| at most, and so does the last of the best k by the
    one kernel and by the other.

    Source:
        Higham 2002, Accuracy and Stability of Numerical Algorithms, 2nd ed., equation 3.5.
    """
    unit = (queries.shape[1] + 1) * 2.0**-24  # one more, for the subtraction of what is returned here
    norms = np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    slack: FloatArray = (_ROUNDED * 4.0 * unit / (1.0 - unit) * longest * norms).astype(np.float32)
    return slack


def _by_product(
    vectors: FloatArray, penalty: FloatArray | None, queries: FloatArray, k: int, slack: FloatArray
) -> tuple[IntArray, IntArray]:
    """Return rows (B, n) that hold the best k, found by matrix products with a penalty (N,) on the scores.

    Behind them, and where fewer pass, is row −1. The second array names the queries for which too many are
    as good; what is found for them is of no account.
    """
    pool = np.full((len(queries), 0), -1, np.int64), np.zeros((len(queries), 0), np.float32)
    last = np.full((len(queries), 1), -np.inf, dtype=np.float32)  # the k-th best; inf of a crowded query
    block = max(k, min(_PRODUCT_ROWS, _BLOCK_BYTES // (4 * len(queries))))
    for start in range(0, len(vectors), block):
        scores = queries @ vectors[start : start + block].T  # (B, n)
        if penalty is not None:
            scores += penalty[start : start + block]
        if pool[0].shape[1] < k <= scores.shape[1]:
            last = np.maximum(last, _kth(scores, k))
        pool = _with_further(pool, scores, start, np.maximum(last - slack, _LEAST))
        if pool[0].shape[1] >= k:
            last = np.maximum(last, _kth(pool[1], k))
            pool, last = _thinned(pool, last, slack, 4 * k + _CROWD)
    return pool[0], np.flatnonzero(np.isposinf(last))


def _kth(scores: FloatArray, k: int) -> FloatArray:
    """Return the k-th greatest (B, 1) of scores (B, n)."""
    return -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]


def _with_further(pool: Searched, scores: FloatArray, start: int, least: FloatArray) -> Searched:
    """Return a pool with the rows from `start` on whose scores (B, n) reach the least (B, 1)."""
    query, at = np.divmod(np.flatnonzero(scores >= least), scores.shape[1])
    if not len(query):
        return pool
    rows, found = padded(query, len(scores), at + start, scores[query, at])
    return np.concatenate([pool[0], rows], axis=1), np.concatenate([pool[1], found], axis=1)


def _thinned(pool: Searched, last: FloatArray, slack: FloatArray, most: int) -> tuple[Searched, FloatArray]:
    """Return a pool without what is not among the best, and the k-th best scores, inf for a crowded query."""
    rows, scores = pool
    counts = (scores >= np.maximum(last - slack, _LEAST)).sum(axis=1)
    crowded = counts > most
    last = np.where(crowded[:, None], np.float32(np.inf), last)
    width = max(1, int(counts[~crowded].max(initial=0)))
    if width < rows.shape[1]:
        at = np.argpartition(-scores, width - 1, axis=1)[:, :width]
        rows, scores = taken(rows, at), taken(scores, at)
    scores[crowded] = -np.inf
    return (rows, scores), last


def _compared_again(
    best: Searched,
    crowded: IntArray,
    vectors: FloatArray,
    allowed: IntArray | None,
    queries: FloatArray,
    k: int,
) -> Searched:
    """Return the best with those of the crowded queries put right, by comparing every row, or all allowed."""
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
    total = len(vectors) if allowed is None else len(allowed)
    if not query.any():  # every score is 0, as of somebody of whom nothing is known
        rows = np.arange(min(k, total)) if allowed is None else allowed[:k]
        return rows[None], np.zeros((1, len(rows)), np.float32)
    found: list[Searched] = []
    block = max(k, _BLOCK_BYTES // (4 * vectors.shape[1]))
    for start in range(0, total, block):
        end = min(start + block, total)
        rows = (np.arange(start, end) if allowed is None else allowed[start:end])[None]
        found.append(best_of(rows, scores_of(vectors, query, rows), k))
    return best_of_parts(found, k)


def padded(query: IntArray, batch: int, rows: IntArray, scores: FloatArray) -> Searched:
    """Return rows (m,) and scores (m,) with their query, in order, as (B, n), −1 and −inf behind them."""
    counts = np.bincount(query, minlength=batch)
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    all_rows = np.full((batch, counts.max(initial=0)), -1, dtype=np.int64)
    all_scores = np.full(all_rows.shape, -np.inf, dtype=np.float32)
    all_rows[query, place], all_scores[query, place] = rows, scores
    return all_rows, all_scores


def scores_of(vectors: FloatArray, queries: FloatArray, rows: IntArray) -> FloatArray:
    """Return the inner products (B, n) float32 of queries (B, D) with their rows (B, n); −inf for row −1.

    The score of a query and a row is the same to the last bit whatever else is asked.
    """
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
    """Return the best k over several (rows, scores) of the same queries, each of them best first."""
    if len(parts) == 1:
        return parts[0][0][:, :k], parts[0][1][:, :k]
    rows = np.concatenate([part[0] for part in parts], axis=1)
    return best_of(rows, np.concatenate([part[1] for part in parts], axis=1), k)


def best_of(rows: IntArray, scores: FloatArray, k: int) -> Searched:
    """Return the best k of rows (B, n) with scores (B, n), best first, equal ones in the order of rows."""
    if scores.shape[1] > _SORTED * k:
        at = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        best = taken(scores, at)
        as_good = scores >= best.min(axis=1, keepdims=True)
        if np.count_nonzero(as_good) > at.size:
            _put_right(at, rows, scores, np.flatnonzero(as_good.sum(axis=1) > k))
            best = taken(scores, at)
        rows, scores = taken(rows, at), best
    if (scores[:, 1:] > scores[:, :-1]).any():
        order = np.argsort(-scores, axis=1)  # not stable: numpy sorts that several times as fast
        rows, scores = taken(rows, order), taken(scores, order)
    tied = scores[:, 1:] == scores[:, :-1]
    if tied.any() and (tied & (rows[:, 1:] < rows[:, :-1])).any():
        order = np.lexsort((rows, -scores))
        rows, scores = taken(rows, order), taken(scores, order)
    return rows[:, :k], scores[:, :k]


def _put_right(at: IntArray, rows: IntArray, scores: FloatArray, queries: IntArray) -> None:
    """Change the places (B, k) of the best so that of the rows as good as the last the smallest are there.

    Args:
        at: places in any order, changed in place.
        rows: (B, n), what they are places in.
        scores: (B, n) of them.
        queries: those whose k-th score other rows have too.
    """
    for query in queries.tolist():
        last = scores[query, at[query]].min()
        above, as_good = np.flatnonzero(scores[query] > last), np.flatnonzero(scores[query] == last)
        count = at.shape[1] - len(above)
        some = as_good[np.argpartition(rows[query, as_good], count - 1)[:count]]
        at[query] = np.concatenate([above, some])


def taken(values: npt.NDArray[Number], at: IntArray) -> npt.NDArray[Number]:
    """Return np.take_along_axis(values, at, 1) of values (B, n), in half the time."""
    found: npt.NDArray[Number]
    found = values[0][at] if len(values) == 1 else values[np.arange(len(at))[:, None], at]
    return found
