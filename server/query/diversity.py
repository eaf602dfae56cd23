"""Maximal marginal relevance: results that are good and not all alike."""

import numpy as np

from encoder.views import FloatArray, unit_rows
from indexer.files import IntArray

_LEAST_POOL = 100
_MOST_POOL = 2_000


def pool_size(k: int) -> int:
    """Return how many candidates k results are chosen from: 5k, but 100 at least and about 2,000 at most."""
    return max(_LEAST_POOL, min(5 * k, _MOST_POOL), k)


def diversified(scores: FloatArray, vectors: FloatArray, k: int, weight: float) -> IntArray:
    """Return the places (min(k, n),) of the chosen candidates, in the order of choice.

    Each time the candidate with the greatest λ·r − (1 − λ)·s is taken: r is its score, scaled so that the
    best of the candidates has 1 and the worst 0; s its greatest cosine with what is taken already, 0 before
    anything is. Of equal ones the first is taken. λ = 1 is the order by score.

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
    likeness = np.zeros_like(value)
    for rank in range(count):
        best = value - np.float32(1.0 - weight) * likeness
        best[chosen[:rank]] = -np.inf
        chosen[rank] = best.argmax()
        new = unit @ unit[chosen[rank]]
        likeness = np.maximum(likeness, new) if rank else new
    return chosen
