"""From what queries search for to the items found, with scores and shares."""

from collections.abc import Sequence

import numpy as np

from indexer.delta import IndexState
from indexer.files import IntArray
from indexer.filters.filter import Filter
from indexer.index import Index
from indexer.search.exact import scores_of
from indexer.search.search import Exclusions
from server.cancellation import check_wanted
from server.query.diversity import diversified, pool_size
from server.query.query import Candidates, FloatArray, Query
from server.query.query_vector import QueryVector
from server.query.snapshot import Snapshot
from server.query.subject_views import SubjectViews


def search(
    index: Index,
    queries: Sequence[Query],
    asked: Sequence[SubjectViews],
    query_vectors: Sequence[QueryVector],
    now: IndexState,
) -> tuple[IntArray, FloatArray]:
    """Return rows (B, n) and scores (B, n) of the best items for each query, −1 where there are fewer.

    Everything is looked up and searched in one state of the index, `now`.

    Raises:
        AbandonedError: the call ended under way.
    """
    vectors = np.stack([query_vector.vector for query_vector in query_vectors])
    numbers = np.repeat(np.arange(len(asked)), [len(one.left_out) for one in asked])
    left_out = index.rows([item_id for one in asked for item_id in one.left_out], now)
    numbers, left_out = numbers[left_out >= 0], left_out[left_out >= 0]
    # A batch is searched with its largest k; each query takes the head of its own row.
    k = max(_pool(query) for query in queries)
    rows, scores = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, dtype=np.float32)
    groups: dict[tuple[Filter | None, bool], list[int]] = {}
    for i, query in enumerate(queries):
        groups.setdefault((query.filter, query.options.exact), []).append(i)
    for (wanted, exact), group in groups.items():  # each filter once
        check_wanted()
        place = np.full(len(queries), -1)
        place[group] = np.arange(len(group))
        own = place[numbers] >= 0
        excluded = Exclusions(place[numbers[own]], left_out[own])
        find = index.brute_force if exact else index.search
        rows[group], scores[group] = find(vectors[group], k, excluded, wanted, now)
    return rows, scores


def candidates(
    snapshot: Snapshot,
    query: Query,
    rows: IntArray,
    scores: FloatArray,
    query_vector: QueryVector,
    asked: SubjectViews,
    now: IndexState,
) -> tuple[Candidates, IntArray]:
    """Return the answer to one query, and the rows (n,) of its items.

    Where there was nothing to search for, popularity answers, in the same state of the index.

    Raises:
        AbandonedError: the call ended under way.
    """
    check_wanted()
    index, pool = snapshot.index, _pool(query)
    prior: FloatArray | None = None
    if query_vector.is_empty:
        rows = index.popular(pool, index.rows(asked.left_out, now), query.filter, now)
        scores = prior = index.popularity_of(rows)
    else:
        there = rows[:pool] >= 0
        rows, scores = rows[:pool][there], scores[:pool][there]
    chosen = _chosen(index, query, rows, scores)
    rows, scores = rows[chosen], scores[chosen]
    prior = None if prior is None else prior[chosen]
    shares = (
        None
        if query_vector.parts is None or prior is not None
        else _shares(index, rows, scores, query_vector.parts)
    )
    found = Candidates(
        index.item_ids(rows),
        scores,
        shares,
        prior,
        query_vector.used,
        index.exact or query.options.exact,
        snapshot.model.model_id,
        index.index_id,
    )
    return found, rows


def _pool(query: Query) -> int:
    """Return how many items an answer is chosen from."""
    return query.depth if query.options.diversity >= 1.0 else pool_size(query.depth)


def _chosen(index: Index, query: Query, rows: IntArray, scores: FloatArray) -> IntArray:
    """Return the places of the candidates, best first, that are the page asked for, in its order."""
    options, places = query.options, np.arange(len(rows))
    if options.min_score is not None:
        places = places[scores.astype(np.float64) >= options.min_score]
    if options.diversity < 1.0:
        vectors = index.vectors_of(rows[places])
        places = places[diversified(scores[places], vectors, query.depth, options.diversity)]
    return places[query.offset : query.depth]


def _shares(index: Index, rows: IntArray, scores: FloatArray, parts: FloatArray) -> FloatArray:
    """Return the shares (n, P) of parts (P, D) in scores (n,); what rounding leaves goes to the greatest."""
    vectors = index.vectors_of(rows)
    every = np.broadcast_to(np.arange(len(rows)), (len(parts), len(rows)))
    shares = np.ascontiguousarray(scores_of(vectors, np.ascontiguousarray(parts), every).T)
    greatest = np.arange(len(rows)), np.abs(shares).argmax(axis=1)
    shares[greatest] += (scores - shares.sum(axis=1, dtype=np.float64)).astype(np.float32)
    return shares
