"""Maximal marginal relevance: candidates with a high score that are not all alike."""

import numpy as np

from encoder.views import FloatArray, unit_rows
from indexer.files import IntArray

_MIN_POOL = 100
_MAX_POOL = 2_000


def pool_size(k: int) -> int:
    """Return how many candidates k are chosen from: 5k, but 100 at least, and 2,000 (or k) at most."""
    return max(_MIN_POOL, min(5 * k, _MAX_POOL), k)


def diversified(scores: FloatArray, vectors: FloatArray, k: int, weight: float) -> IntArray:
    """Choose k candidates one by one; return their places (min(k, n),) in the order of choice.

    Each choice is the candidate with the greatest λ·r − (1 − λ)·s: r is its score, scaled so that the best
    of the candidates has 1 and the worst 0; s its greatest cosine with those chosen before, 0 for the first
    choice. Of equal ones the first is chosen. λ = 1 is the order by score.

    Args:
        scores: (n,) of the candidates, best first.
        vectors: (n, D) of the candidates.
        k: how many to choose.
        weight: λ, 0 to 1.

    Source:
        Carbonell and Goldstein 1998, "The use of MMR, diversity-based reranking for reordering documents
        and producing summaries", SIGIR, section 2; the scaling is ours.
    """
    count = min(k, len(scores))
    if weight >= 1.0 or count <= 1:
        return np.arange(count)
    spread = float(scores[0] - scores[-1])
    relevance = (scores - scores[-1]) / np.float32(spread) if spread > 0 else np.ones_like(scores)
    unit = unit_rows(vectors)
    value = np.float32(weight) * relevance
    chosen = np.empty(count, dtype=np.int64)
    similarity = np.zeros_like(value)
    for rank in range(count):
        marginal = value - np.float32(1.0 - weight) * similarity
        marginal[chosen[:rank]] = -np.inf
        chosen[rank] = marginal.argmax()
        cosines = unit @ unit[chosen[rank]]
        similarity = np.maximum(similarity, cosines) if rank else cosines
    return chosen
