"""iALS of `implicit`: matrix factorisation of implicit feedback, by alternating least squares."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from evaluation.baselines.library import (
    TooMuchWorkError,
    library_at_work,
    library_matrix,
    library_module,
    require_library,
)
from evaluation.baselines.selection import Ints, Valid, best_setting
from evaluation.ranking import Csr

SWEEPS = 15
MAX_WORK = 8e11  # multiplications of the whole choice: about three minutes of one core
_STEPS = 4  # of the conjugate gradient that solves a row, and the residual it begins with

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AlsSettings:
    """Size of the vectors, weight of what is seen (of what is not it is 1), and regularisation."""

    dim: int
    alpha: float
    reg: float


ALS_DIM = 64
ALS_ALPHAS = (3.0, 10.0, 30.0, 100.0)
ALS_REGS = (0.25, 0.5, 1.0, 1.75, 2.5, 3.5, 5.0, 7.0)  # times alpha: both then grow with the events of a row
ALS_DIMS = (32, 128, 256)
_REG = 2.5  # times alpha, while alpha is chosen


@dataclass(frozen=True)
class Ials:
    """Scores <w_u, v_i>; a user's w is solved from the history at hand, so unseen users score too.

    Minimises Σ_seen α (<w_u, v_i> − 1)² + Σ_unseen <w_u, v_i>² + λ (Σ_u |w_u|² + Σ_i |v_i|²).

    Source:
        https://github.com/benfred/implicit, `als.AlternatingLeastSquares`; Hu, Koren and Volinsky 2008,
        "Collaborative filtering for implicit feedback datasets", ICDM; Takács, Pilászy and Tikk 2011,
        "Applications of the conjugate gradient method for implicit feedback collaborative filtering", RecSys.
    """

    model: Any  # implicit.cpu.als.AlternatingLeastSquares, fitted

    @classmethod
    def fit(cls, train: Csr, settings: AlsSettings, seed: int = 0) -> "Ials":
        """Fit a model to `train` (U, N), any nonzero counting as 1, by SWEEPS sweeps over users and items.

        Raises:
            LibraryMissingError: `implicit` is not installed.
            ValueError: dim < 1, alpha < 1, or reg is not positive.
        """
        als = library_module("cpu.als")
        if settings.dim < 1 or not settings.alpha >= 1 or not settings.reg > 0:
            raise ValueError(f"{settings}: dim and alpha are at least 1, reg is positive")
        with library_at_work() as threads:
            model = als.AlternatingLeastSquares(
                factors=settings.dim,
                alpha=settings.alpha,
                regularization=settings.reg,
                iterations=SWEEPS,
                num_threads=threads,
                random_state=seed,
            )
            model.fit(library_matrix(train), show_progress=False)
        return cls(model)

    def scores(self, history: Csr, _users: Ints | None = None) -> NDArray[np.float32]:
        """Return (B, N) float32 scores from the users' items (B, N); no history gives a row of zeros."""
        with library_at_work():
            users = self.model.recalculate_user(np.arange(history.shape[0]), library_matrix(history))
        return np.asarray(users @ self.model.item_factors.T, dtype=np.float32)


def choose_als(
    train: Csr,
    valid_relevant: Csr,
    excluded: Csr,
    dim: int = ALS_DIM,
    dims: Sequence[int] = ALS_DIMS,
    k: int = 20,
) -> tuple[AlsSettings, Ials]:
    """Return the settings with the best mean recall@k on valid, and their model; of equal ones the first.

    One after the other with vectors of length `dim`: each of ALS_ALPHAS, each of ALS_REGS; then each length
    of `dims` that the work allows. The other arguments are those of `choose_ease`.

    Raises:
        LibraryMissingError: `implicit` is not installed.
        NoTargetsError: valid_relevant is empty.
        TooMuchWorkError: already `dim` would take more than MAX_WORK multiplications.
        ValueError: `dim` is out of range.
    """
    require_library()
    valid = Valid.of(train, valid_relevant, excluded)
    work = (len(ALS_ALPHAS) + len(ALS_REGS) - 1) * work_of(train, dim)
    if work > MAX_WORK:
        raise TooMuchWorkError("iALS", train.shape, work, "multiplications", MAX_WORK)
    log.info("choosing iALS: %d x %d, about %.1e multiplications", *train.shape, work)
    fitted: dict[AlsSettings, Ials] = {}  # of the stage before: its best one is not fitted again

    def stage(settings: list[AlsSettings], what: str) -> AlsSettings:
        def fit(setting: AlsSettings) -> Ials:
            return fitted.get(setting) or Ials.fit(train, setting)

        bar = tqdm(settings, desc=f"iALS, {what}", disable=None)
        chosen, model = best_setting("iALS", bar, fit, valid, k)
        fitted.clear()
        fitted[chosen] = model
        return chosen

    chosen = stage([AlsSettings(dim, alpha, _REG * alpha) for alpha in ALS_ALPHAS], "alpha")
    chosen = stage([replace(chosen, reg=each * chosen.alpha) for each in ALS_REGS], "reg")
    lengths = [chosen]
    for each in dims:
        work += work_of(train, each)
        if work <= MAX_WORK:
            lengths.append(replace(chosen, dim=each))
    chosen = stage(lengths, "dim")
    return chosen, fitted[chosen]


def work_of(train: Csr, dim: int) -> float:
    """Return the multiplications of fitting `train` (U, N): with what each row has, and with all rows."""
    return SWEEPS * _STEPS * (4.0 * train.nnz * dim + sum(train.shape) * dim**2)
