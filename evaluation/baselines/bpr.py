"""BPR of `implicit`: matrix factorisation that learns to order pairs of items."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from evaluation.baselines.library import library_at_work, library_matrix, library_module, require_library
from evaluation.baselines.selection import Ints, Valid, best_setting
from evaluation.ranking import Csr

Floats32 = NDArray[np.float32]

EPOCHS = 200
MAX_TRIPLES = 160_000_000  # of one model, a minute or two: where the data is larger there are fewer epochs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BprSettings:
    """Size of the vectors, learning rate, regularisation, and the weight of log popularity in the scores."""

    dim: int
    rate: float
    reg: float
    popularity: float


BPR_FITS = tuple(product((64,), (0.05, 0.1), (0.01, 0.03)))  # dim, rate, reg
BPR_POPULARITY = (0.0, 0.25, 0.5, 0.75, 1.0)
BPR_SETTINGS = tuple(BprSettings(*fit, weight) for fit, weight in product(BPR_FITS, BPR_POPULARITY))


@dataclass(frozen=True)
class Bpr:
    """Scores <w_u, v_i> + b_i + p · ln(1 + n_i), where n_i users have item i; w_u comes from the training.

    The library holds what a user has against items drawn by popularity, so its own scores (p = 0) say how
    much more an item is liked than its popularity makes likely, which is not what recall asks.

    Source:
        https://github.com/benfred/implicit, `bpr.BayesianPersonalizedRanking`; Rendle et al. 2009, "BPR:
        Bayesian personalized ranking from implicit feedback", UAI. The weight of popularity undoes the
        sampling: Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item
        recommendations", RecSys, section 4, with a weight that is chosen.
    """

    users: Floats32  # (U, dim + 1), the last column is 1
    items: Floats32  # (N, dim + 1), the last column is b
    counts: Floats32  # (N,)
    settings: BprSettings

    @classmethod
    def fit(cls, train: Csr, settings: BprSettings, seed: int = 0) -> "Bpr":
        """Fit a model to `train` (U, N), in which any nonzero counts as 1.

        By one thread, since several would overwrite each other's steps, other ones in each run.

        Raises:
            LibraryMissingError: `implicit` is not installed.
            ValueError: dim < 1, the rate is not positive, or reg or the weight of popularity is negative.
        """
        bpr = library_module("cpu.bpr")
        wrong = settings.dim < 1 or not settings.rate > 0
        if wrong or not settings.reg >= 0 or not settings.popularity >= 0:
            raise ValueError(f"{settings}: dim is at least 1, the rate positive, the others at least 0")
        x = library_matrix(train)
        with library_at_work():
            model = bpr.BayesianPersonalizedRanking(
                factors=settings.dim,
                learning_rate=settings.rate,
                regularization=settings.reg,
                iterations=min(EPOCHS, max(1, MAX_TRIPLES // max(1, x.nnz))),
                num_threads=1,
                random_state=seed,
            )
            model.fit(x, show_progress=False)
        counts = np.bincount(x.indices, minlength=x.shape[1]).astype(np.float32)
        return cls(model.user_factors, model.item_factors, counts, settings)

    def scores(self, _history: Csr, users: Ints) -> Floats32:
        """Return (B, N) float32 scores of users (B,), rows of `train`; w of an empty row is zero."""
        prior = np.float32(self.settings.popularity) * np.log1p(self.counts)
        return np.asarray(self.users[users] @ self.items.T + prior, dtype=np.float32)


def choose_bpr(
    train: Csr,
    valid_relevant: Csr,
    excluded: Csr,
    settings: Sequence[BprSettings] = BPR_SETTINGS,
    k: int = 20,
) -> tuple[BprSettings, Bpr]:
    """Return the settings with the best mean recall@k on valid, and their model; of equal ones the first.

    Settings that differ in the weight of popularity only and follow each other are fitted once. The other
    arguments are those of `choose_ease`.

    Raises:
        LibraryMissingError: `implicit` is not installed.
        NoTargetsError: valid_relevant is empty.
        ValueError: no settings, or ones out of range.
    """
    require_library()
    valid = Valid.of(train, valid_relevant, excluded)
    log.info("choosing BPR: %d x %d, %d settings", *train.shape, len(settings))
    last: list[Bpr] = []

    def fit(setting: BprSettings) -> Bpr:
        if not last or replace(last[0].settings, popularity=setting.popularity) != setting:
            last[:] = [Bpr.fit(train, setting)]
        return replace(last[0], settings=setting)

    bar = tqdm(settings, desc="BPR", disable=None)
    return best_setting("BPR", bar, fit, valid, k)
