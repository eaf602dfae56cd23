"""From query vectors to pages: the search, the page of each query, and the shares of its scores."""

from collections.abc import Sequence

import numpy as np

from indexer.delta import IndexState
from indexer.files import IntArray
from indexer.filters import Filter
from indexer.index import Index
from indexer.search import Exclusions
from server.cancellation import check_wanted
from server.query.diversity import diversified, pool_size
from server.query.query import FloatArray, Query, QueryVector

Ranked = tuple[IntArray, FloatArray]  # rows (n,) and their scores (n,)
NO_ROWS: IntArray = np.zeros(0, dtype=np.int64)


# What queries share that are searched together, so that each has the candidates that it has alone: the
# filter, whether it is exact, the size of the pool, and whether rows are left out.
_GroupKey = tuple[Filter | None, bool, int, bool]


def search(
    index: Index,
    queries: Sequence[Query],
    query_vectors: Sequence[QueryVector],
    excluded: Sequence[IntArray],
    state: IndexState,
) -> list[Ranked]:
    """Find the pool of each query: rows (n,) and scores (n,) of the best items in one state, best first.

    The pool of a query is the same in every batch. An empty query vector has the most popular items for a
    pool, scored by popularity. Scores that are not finite, as from a damaged model, are left out.

    Args:
        index: what to search.
        queries: B of them; those with the same filter and size of the pool are searched together.
        query_vectors: of each.
        excluded: rows (n,) that each of them leaves out, looked up in `state`; −1 is ignored.
        state: of the index.

    Raises:
        ReindexNeededError: a filter needs what the files of an older index do not hold.
        AbandonedError: the call ended meanwhile.
    """
    pools = [(NO_ROWS, np.zeros(0, dtype=np.float32))] * len(queries)
    groups: dict[_GroupKey, list[int]] = {}
    for i, query in enumerate(queries):
        if query_vectors[i].is_empty:
            check_wanted()
            rows = index.popular(_pool_size(query), excluded[i], query.filter, state)
            pools[i] = rows, index.popularity_of(rows, state)
        else:
            key = query.filter, query.options.exact, _pool_size(query), len(excluded[i]) > 0
            groups.setdefault(key, []).append(i)
    for (item_filter, exact, size, excludes), group in groups.items():
        check_wanted()
        exclusions = _exclusions([excluded[i] for i in group]) if excludes else None
        vectors = np.array([query_vectors[i].vector for i in group])  # (b, D)
        find = index.brute_force if exact else index.search
        all_rows, all_scores = find(vectors, size, exclusions, item_filter, state)
        finite = np.isfinite(all_scores)  # −inf where fewer are left
        everywhere = bool(finite.all())
        for place, i in enumerate(group):
            rows, scores = all_rows[place], all_scores[place]
            pools[i] = (rows, scores) if everywhere else (rows[finite[place]], scores[finite[place]])
    return pools


def _exclusions(rows: Sequence[IntArray]) -> Exclusions:
    if len(rows) == 1:
        return Exclusions(np.zeros(len(rows[0]), dtype=np.int64), rows[0])
    return Exclusions(np.repeat(np.arange(len(rows)), [len(one) for one in rows]), np.concatenate(rows))


def page_of(index: Index, query: Query, rows: IntArray, scores: FloatArray, state: IndexState) -> Ranked:
    """Choose the page of a query from its pool: rows (n,) and scores (n,), in its order.

    Args:
        index: where the vectors are.
        query: its page, least score and diversity.
        rows: (m,) of the pool, best first.
        scores: (m,) of them.
        state: of the index, whose rows they are.
    """
    options, page = query.options, slice(query.offset, query.depth)
    if options.min_score is not None:
        enough = scores.astype(np.float64) >= options.min_score
        rows, scores = rows[enough], scores[enough]
    if options.diversity >= 1.0:
        return rows[page], scores[page]
    chosen = diversified(scores, index.vectors_of(rows, state), query.depth, options.diversity)[page]
    return rows[chosen], scores[chosen]


def shares_of(
    index: Index, query_vectors: Sequence[QueryVector], pages: Sequence[Ranked], state: IndexState
) -> list[FloatArray | None]:
    """Divide the scores (n,) of each page among the parts (P, D) of its vector: shares (n, P).

    The shares of a score sum to it: each is the inner product with the part, and the rounding error is added
    to the largest. A page of an empty vector, or of one without parts, has none.
    """
    all_shares: list[FloatArray | None] = [None] * len(pages)
    groups: dict[int, list[int]] = {}  # by P
    for i, query_vector in enumerate(query_vectors):
        if query_vector.parts is not None and not query_vector.is_empty:
            groups.setdefault(len(query_vector.parts), []).append(i)
    for count, group in groups.items():
        lengths = [len(pages[i][0]) for i in group]
        most = max(lengths)
        if not most:
            for i in group:
                all_shares[i] = np.zeros((0, count), dtype=np.float32)
            continue
        rows, scores = np.zeros((len(group), most), np.int64), np.zeros((len(group), most), np.float32)
        for place, i in enumerate(group):
            rows[place, : lengths[place]], scores[place, : lengths[place]] = pages[i]
        parts = np.concatenate([parts_of(query_vectors[i]) for i in group])  # (b · P, D)
        products = index.scores_of(parts, np.repeat(rows, count, axis=0), state)
        products = products.reshape(len(group), count, most)
        shares = np.ascontiguousarray(products.transpose(0, 2, 1))  # (b, n, P)
        flat = shares.reshape(-1, count)  # the same memory
        largest = np.arange(len(flat)), np.abs(flat).argmax(axis=1)
        flat[largest] += (scores.ravel() - flat.sum(axis=1, dtype=np.float64)).astype(np.float32)
        for place, i in enumerate(group):
            all_shares[i] = shares[place, : lengths[place]]
    return all_shares


def parts_of(query_vector: QueryVector) -> FloatArray:
    """Return the parts (P, D) of a vector that has some."""
    if query_vector.parts is None:
        raise ValueError("the parts of this query vector are unknown")
    return query_vector.parts


def _pool_size(query: Query) -> int:
    """Return how many candidates the page of a query is chosen from."""
    return query.depth if query.options.diversity >= 1.0 else pool_size(query.depth)
