"""Ranking metrics per user, so that intervals can be taken over users.

Every function reads `ranked` (U, K) int64, item rows best first, filled up with −1, and
`relevant` (U, N) csr, nonzero = relevant. A user with nothing relevant gets NaN and does not count in a mean.
"""

import numpy as np
from numpy.typing import NDArray

from evaluation.ranking import Csr, Floats


class RankingError(ValueError):
    """A ranking does not fit its question: k, shape, a row out of range, or an item listed twice."""


def recall(ranked: NDArray[np.int64], relevant: Csr, k: int) -> Floats:
    """Return |top-k ∩ relevant| / |relevant| of each user, (U,); not capped at k.

    Raises:
        RankingError: see `hits`.

    Source:
        Herlocker et al. 2004, "Evaluating collaborative filtering recommender systems", TOIS 22(1).
    """
    return _divide(hits(ranked, relevant, k).sum(axis=1), relevant_counts(relevant))


def ndcg(ranked: NDArray[np.int64], relevant: Csr, k: int) -> Floats:
    """Return DCG@k / ideal DCG@k of each user, (U,).

    DCG@k = Σ_{r ≤ k} [item at rank r is relevant] / log2(r + 1); the ideal ranking begins with
    min(k, |relevant|) relevant items.

    Raises:
        RankingError: see `hits`.

    Source:
        Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques", TOIS 20(4); here
        with binary gain and the discount of Burges et al. 2005.
    """
    hit = hits(ranked, relevant, k)
    discount = 1 / np.log2(np.arange(2, k + 2))  # (k,)
    ideal = np.concatenate([[0.0], np.cumsum(discount)])  # (k + 1,): by number of relevant items
    return _divide(hit @ discount, ideal[np.minimum(relevant_counts(relevant), k)])


def mrr(ranked: NDArray[np.int64], relevant: Csr, k: int) -> Floats:
    """Return 1 / rank of each user's first relevant item, 0 where none is within k, (U,).

    Raises:
        RankingError: see `hits`.

    Source:
        Voorhees 1999, "The TREC-8 question answering track report".
    """
    hit = hits(ranked, relevant, k)
    first = np.where(hit.any(axis=1), 1 / (hit.argmax(axis=1) + 1), 0.0)
    return np.where(relevant_counts(relevant) > 0, first, np.nan)


def coverage(ranked: NDArray[np.int64], n_items: int, k: int) -> float:
    """Return the share of all items that are in the top k of any user.

    Raises:
        RankingError: k or a row is out of range, or an item is listed twice for a user.

    Source:
        Ge et al. 2010, "Beyond accuracy: evaluating recommender systems by coverage and serendipity", RecSys,
        catalog coverage.
    """
    top = _top(ranked, n_items, k)
    return len(np.unique(top[top >= 0])) / n_items


def intra_list_diversity(ranked: NDArray[np.int64], vectors: NDArray[np.float32], k: int) -> Floats:
    """Return the mean of 1 − cosine over all pairs of items in each user's top k, (U,); NaN below two items.

    Args:
        ranked: as everywhere.
        vectors: (N, D) of the items; a zero row has cosine 0 with all others.
        k: ranks that count.

    Raises:
        RankingError: k or a row is out of range, or an item is listed twice for a user.

    Source:
        Smyth and McClave 2001, "Similarity vs. diversity", ICCBR, section 2.1; with the cosine as similarity
        1 minus the intra-list similarity, per pair, of Ziegler et al. 2005, "Improving recommendation lists
        through topic diversification", WWW.
    """
    top = _top(ranked, len(vectors), k)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros(vectors.shape), where=norms > 0)
    diversity = np.full(len(top), np.nan)
    for user, rows in enumerate(top):
        listed = unit[rows[rows >= 0]]
        pairs = len(listed) * (len(listed) - 1)
        if pairs:
            total = listed.sum(axis=0)
            # The squared length of the sum is the sum of all cosines, those with themselves included.
            diversity[user] = 1 - (total @ total - (listed * listed).sum()) / pairs
    return diversity


def mean_over_users(values: Floats) -> float:
    """Return the mean over users with at least one relevant item, NaN without any."""
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if len(counted) else float("nan")


def relevant_counts(relevant: Csr) -> NDArray[np.int64]:
    """Return the number of different relevant items of each user, (U,)."""
    n_users, n_items = relevant.shape
    return np.bincount(_pairs(relevant) // n_items, minlength=n_users)


def hits(ranked: NDArray[np.int64], relevant: Csr, k: int) -> NDArray[np.bool_]:
    """Return whether the item at each of the first k ranks is relevant, (U, k).

    Raises:
        RankingError: k is not in 1..K, the users differ in number, a row is not in −1..N−1, or an item is
            listed twice for one user (recall could pass 1).
    """
    n_users, n_items = relevant.shape
    if len(ranked) != n_users:
        raise RankingError(f"{len(ranked)} users are ranked, but {n_users} have relevant items")
    top = _top(ranked, n_items, k)
    wanted = np.arange(n_users)[:, None] * n_items + top  # (U, k)
    return np.isin(wanted, _pairs(relevant)) & (top >= 0)


def _pairs(relevant: Csr) -> NDArray[np.int64]:
    """Return user · N + item of each nonzero, ascending and each once."""
    users, items = relevant.nonzero()
    pairs = users.astype(np.int64) * relevant.shape[1] + items
    ascending = (pairs[1:] > pairs[:-1]).all()  # as they are in the usual form, where sorting is spared
    return pairs if ascending else np.unique(pairs)


def _top(ranked: NDArray[np.int64], n_items: int, k: int) -> NDArray[np.int64]:
    """Return the first k ranks, (U, k), checked."""
    if ranked.ndim != 2 or not 1 <= k <= ranked.shape[1]:
        raise RankingError(f"k is {k}, but the ranking is {ranked.shape}: it must be (U, K) with 1 <= k <= K")
    top = ranked[:, :k]
    wrong = (top < -1) | (top >= n_items)
    if wrong.any():
        raise RankingError(f"row {int(top[wrong][0])} is ranked, but the items are 0..{n_items - 1}")
    ordered = np.sort(top, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        user = int(twice.any(axis=1).argmax())
        raise RankingError(
            f"user {user} has item {int(ordered[user, 1:][twice[user]][0])} twice in the top {k}"
        )
    return top


def _divide(part: NDArray[np.number], whole: NDArray[np.number]) -> Floats:
    """Return part / whole as float64, NaN where whole is 0."""
    quotient = np.full(len(whole), np.nan)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient
