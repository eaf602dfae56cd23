"""Item neighbours: an item scores by its likeness to the items in the history."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from tqdm import tqdm

from evaluation.baselines.selection import Valid, best_setting, binary
from evaluation.ranking import Csr

MAX_PAIRS = 200_000_000  # of items that one user has both of, over all users: up to 1.6 GB

log = logging.getLogger(__name__)


class TooManyPairsError(ValueError):
    """The likeness of all items to all would take too much memory."""

    def __init__(self, pairs: int) -> None:
        super().__init__(
            f"ItemKNN counts {pairs:,} pairs of items that a user has both of; the limit is {MAX_PAIRS:,}"
        )
        self.pairs = pairs


@dataclass(frozen=True)
class KnnSettings:
    """How many neighbours an item keeps (None: all), and what shrinks the likeness of rare items."""

    neighbours: int | None
    shrink: float


KNN_SETTINGS = tuple(KnnSettings(n, shrink) for shrink, n in product((0.0, 10.0, 100.0), (50, 200, None)))


@dataclass(frozen=True)
class ItemKnn:
    """Scores x · S, where column j of S holds the likeness of item j to its nearest items.

    S_ij = c_ij / (√(c_ii c_jj) + shrink), c_ij = users who have both; zero diagonal.

    Source:
        Sarwar et al. 2001, "Item-based collaborative filtering recommendation algorithms", WWW, section 3;
        Deshpande and Karypis 2004, "Item-based top-N recommendation algorithms", TOIS 22(1), section 4.
    """

    likeness: "sparse.csr_array[np.float32]"  # (N, N)

    @classmethod
    def fit(cls, train: Csr, settings: KnnSettings) -> "ItemKnn":
        """Fit a model to `train` (U, N), in which any nonzero counts as 1.

        Raises:
            TooManyPairsError: more than MAX_PAIRS pairs of items that a user has both of.
            ValueError: neighbours < 1, or shrink is negative.
        """
        return cls._keep(_likeness(_pair_counts(train), settings.shrink), settings.neighbours)

    @classmethod
    def _keep(cls, likeness: "sparse.csr_array[np.float32]", neighbours: int | None) -> "ItemKnn":
        """Return the model of the `neighbours` nearest of each row; the likeness is symmetric."""
        if neighbours is None:
            return cls(likeness)
        if neighbours < 1:
            raise ValueError(f"neighbours is {neighbours}, not at least 1")
        kept = np.ones(likeness.nnz, dtype=bool)
        for start, stop in zip(likeness.indptr[:-1], likeness.indptr[1:], strict=True):
            if stop - start > neighbours:
                order = np.argsort(-likeness.data[start:stop], kind="stable")  # of equal ones the lower rows
                kept[start + order[neighbours:]] = False
        rows = np.repeat(np.arange(likeness.shape[0]), np.diff(likeness.indptr))[kept]
        columns = likeness.indices[kept]
        return cls(sparse.csr_array((likeness.data[kept], (columns, rows)), shape=likeness.shape))

    def scores(self, history: Csr) -> NDArray[np.float32]:
        """Return (B, N) float32 scores from the users' items (B, N); no history gives a row of zeros."""
        return np.asarray((binary(history) @ self.likeness).toarray(), dtype=np.float32)


def choose_knn(
    train: Csr,
    valid_relevant: Csr,
    excluded: Csr,
    settings: Sequence[KnnSettings] = KNN_SETTINGS,
    k: int = 20,
) -> tuple[KnnSettings, ItemKnn]:
    """Return the settings with the best mean recall@k on valid, and their model; of equal ones the first.

    The arguments are those of `choose_ease`.

    Raises:
        TooManyPairsError: more than MAX_PAIRS pairs of items that a user has both of.
        NoTargetsError: valid_relevant is empty.
        ValueError: no settings, or ones out of range.
    """
    valid = Valid.of(train, valid_relevant, excluded)
    pair_counts = _pair_counts(train)
    log.info("choosing ItemKNN: %d pairs of items, %d settings", pair_counts.nnz, len(settings))

    def fit(setting: KnnSettings) -> ItemKnn:
        return ItemKnn._keep(_likeness(pair_counts, setting.shrink), setting.neighbours)

    return best_setting("ItemKNN", tqdm(settings, desc="ItemKNN", disable=None), fit, valid, k)


def _pair_counts(train: Csr) -> "sparse.csr_array[np.float32]":
    """Return how many users have both items, (N, N)."""
    x = binary(train)
    pairs = int((np.diff(x.indptr).astype(np.int64) ** 2).sum())
    if pairs > MAX_PAIRS:
        raise TooManyPairsError(pairs)
    pair_counts = sparse.csr_array(x.T @ x)
    pair_counts.sort_indices()  # which of equal neighbours is kept must not depend on the product's order
    return pair_counts


def _likeness(pair_counts: "sparse.csr_array[np.float32]", shrink: float) -> "sparse.csr_array[np.float32]":
    if not shrink >= 0:
        raise ValueError(f"shrink is {shrink}, not at least 0")
    norms = np.sqrt(pair_counts.diagonal())  # (N,)
    rows = np.repeat(np.arange(pair_counts.shape[0]), np.diff(pair_counts.indptr))
    values = pair_counts.data / (norms[rows] * norms[pair_counts.indices] + np.float32(shrink))
    other = rows != pair_counts.indices
    at = (rows[other], pair_counts.indices[other])
    return sparse.csr_array((values[other].astype(np.float32), at), shape=pair_counts.shape)
