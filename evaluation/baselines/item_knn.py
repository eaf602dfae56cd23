"""Item neighbours of `implicit`: an item scores by its likeness to the items in the history."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from tqdm import tqdm

from evaluation.baselines.library import (
    TooMuchWorkError,
    library_at_work,
    library_matrix,
    library_module,
    require_library,
)
from evaluation.baselines.selection import Ints, Valid, best_setting, binary
from evaluation.ranking import Csr

WEIGHTINGS = ("cosine", "TF-IDF", "BM25")
NEIGHBOURS = (50, 200, 1_000, 5_000)
MAX_KEPT = 50_000_000  # items x neighbours of one model: 1.2 GB while the library builds it
MAX_PAIRS = 500_000_000  # of items that one user has both of, over all users: a minute a model on one core

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnnSettings:
    """How a user's items are weighted before likeness is measured, and how many neighbours an item keeps."""

    weighting: str
    neighbours: int


@dataclass(frozen=True)
class ItemKnn:
    """Scores x · S, where row i of S holds the likeness of item i to its nearest items, its own among them.

    Source:
        https://github.com/benfred/implicit, `nearest_neighbours`: CosineRecommender, TFIDFRecommender,
        BM25Recommender (K1 = 1.2, B = .75); Deshpande and Karypis 2004, "Item-based top-N recommendation
        algorithms", TOIS 22(1), section 4.
    """

    likeness: "sparse.csr_array[np.float32]"  # (N, N)

    @classmethod
    def fit(cls, train: Csr, settings: KnnSettings) -> "ItemKnn":
        """Fit a model to `train` (U, N), in which any nonzero counts as 1.

        Raises:
            LibraryMissingError: `implicit` is not installed.
            ValueError: neighbours < 1, or a weighting that is not among WEIGHTINGS.
        """
        library = library_module("nearest_neighbours")
        if settings.neighbours < 1:
            raise ValueError(f"neighbours is {settings.neighbours}, not at least 1")
        kinds: dict[str, Any] = {
            "cosine": library.CosineRecommender,
            "TF-IDF": library.TFIDFRecommender,
            "BM25": library.BM25Recommender,
        }
        if settings.weighting not in kinds:
            raise ValueError(f"weighting is {settings.weighting!r}, not one of {', '.join(kinds)}")
        with library_at_work() as threads, np.errstate(invalid="ignore"):
            model = kinds[settings.weighting](K=min(settings.neighbours, train.shape[1]), num_threads=threads)
            model.fit(library_matrix(train), show_progress=False)
        likeness = sparse.csr_array(model.similarity.astype(np.float32))
        likeness.data[np.isnan(likeness.data)] = 0  # of an item whose users all weigh nothing: 0 / 0
        return cls(likeness)

    def scores(self, history: Csr, _users: Ints | None = None) -> NDArray[np.float32]:
        """Return (B, N) float32 scores from the users' items (B, N); no history gives a row of zeros."""
        return np.asarray((binary(history) @ self.likeness).toarray(), dtype=np.float32)


def choose_knn(
    train: Csr,
    valid_relevant: Csr,
    excluded: Csr,
    weightings: Sequence[str] = WEIGHTINGS,
    neighbours: Sequence[int] = NEIGHBOURS,
    k: int = 20,
) -> tuple[KnnSettings, ItemKnn]:
    """Return the settings with the best mean recall@k on valid, and their model; of equal ones the first.

    Numbers of neighbours that would keep more than MAX_KEPT are not tried. The other arguments are those of
    `choose_ease`.

    Raises:
        LibraryMissingError: `implicit` is not installed.
        NoTargetsError: valid_relevant is empty.
        TooMuchWorkError: users have more than MAX_PAIRS pairs of items, or no number of neighbours is small
            enough.
        ValueError: nothing to choose from, or settings out of range.
    """
    require_library()
    valid = Valid.of(train, valid_relevant, excluded)
    n_items = train.shape[1]
    pairs = float((np.diff(sparse.csr_array(train).indptr).astype(np.float64) ** 2).sum())
    if pairs > MAX_PAIRS:
        raise TooMuchWorkError(
            "ItemKNN", train.shape, pairs, "pairs of items that a user has both of", MAX_PAIRS
        )
    wanted = sorted({min(each, n_items) for each in neighbours})
    fitting = [each for each in wanted if each * n_items <= MAX_KEPT]
    if wanted and not fitting:
        raise TooMuchWorkError(
            "ItemKNN", train.shape, wanted[0] * n_items, "neighbours of all items", MAX_KEPT
        )
    settings = [KnnSettings(*each) for each in product(weightings, fitting)]
    log.info("choosing ItemKNN: %d x %d, %d settings", *train.shape, len(settings))
    bar = tqdm(settings, desc="ItemKNN", disable=None)
    return best_setting("ItemKNN", bar, lambda setting: ItemKnn.fit(train, setting), valid, k)
