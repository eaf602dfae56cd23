"""A small data set of tastes, for all baselines."""

import numpy as np
from scipy import sparse

Matrix = sparse.csr_array
TRAIN = sparse.csr_array(np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1]], dtype=np.float32))


def tastes() -> tuple[Matrix, Matrix]:
    """Train and held-out items of 200 users who like one half of 40 items; the last two are empty."""
    generator = np.random.default_rng(3)
    half = np.arange(40) // 20 == generator.integers(2, size=200)[:, None]
    liked = generator.random((200, 40)) < np.where(half, 0.4, 0.01)
    liked[-2:] = False
    held_out = liked & (generator.random((200, 40)) < 0.25)
    return tuple(sparse.csr_array(each.astype(np.float32)) for each in (liked & ~held_out, held_out))
