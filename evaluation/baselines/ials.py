"""iALS: matrix factorisation of implicit feedback, by alternating least squares."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from tqdm import tqdm

from evaluation.baselines.selection import Valid, best_setting, binary
from evaluation.ranking import Csr

Floats32 = NDArray[np.float32]

SWEEPS = 10
MAX_WORK = 2e11  # multiplications of the whole choice: about two minutes on two cores
_FLOATS_AT_ONCE = 8_000_000
_GEMM_ALONE = 262_144  # multiplications from which OpenBLAS wakes its threads, for each small product anew

log = logging.getLogger(__name__)


class TooMuchWorkError(ValueError):
    """Alternating least squares would take too long."""

    def __init__(self, shape: tuple[int, int], work: float) -> None:
        users, items = shape
        super().__init__(
            f"choosing iALS for {users:,} users x {items:,} items takes {work:.1e} multiplications; "
            f"the limit is {MAX_WORK:.0e}"
        )
        self.work = work


@dataclass(frozen=True)
class AlsSettings:
    """Size of the vectors, weight of what is not seen, and regularisation per unit of frequency."""

    dim: int
    unobserved: float
    reg: float


ALS_START = AlsSettings(32, 0.1, 0.03)
ALS_UNOBSERVED = (0.01, 0.03, 0.1, 0.3, 1.0)
ALS_REGS = (0.003, 0.01, 0.03, 0.1)
ALS_DIMS = (64, 96)  # beyond 96 LAPACK wakes its threads for each small system anew: 30 times slower


@dataclass(frozen=True)
class Ials:
    """Scores <w_u, v_i>; a user's w is solved from the history at hand, so unseen users score too.

    Minimises Σ_seen (<w_u, v_i> − 1)² + α Σ_all <w_u, v_i>²
        + λ Σ_u (n_u + α N) |w_u|² + λ Σ_i (n_i + α U) |v_i|².

    Source:
        Hu, Koren and Volinsky 2008, "Collaborative filtering for implicit feedback datasets", ICDM;
        Rendle et al. 2022, "Revisiting the performance of iALS on item recommendation benchmarks", RecSys,
        for the weights and the regularisation by frequency (ν = 1).
    """

    items: Floats32  # (N, dim)
    settings: AlsSettings

    @classmethod
    def fit(cls, train: Csr, settings: AlsSettings, sweeps: int = SWEEPS, seed: int = 0) -> "Ials":
        """Fit a model to `train` (U, N), any nonzero counting as 1, by sweeps over users and items.

        Raises:
            ValueError: dim < 1, or a weight that is not positive.
        """
        if settings.dim < 1 or not settings.unobserved > 0 or not settings.reg > 0:
            raise ValueError(f"{settings}: dim is at least 1, unobserved and reg are positive")
        x = binary(train)
        by_item = sparse.csr_array(x.T)
        spread = 0.1 / np.sqrt(settings.dim)
        items = np.random.default_rng(seed).normal(0, spread, (x.shape[1], settings.dim)).astype(np.float32)
        for _ in range(sweeps):
            items = solve(by_item, solve(x, items, settings), settings)
        return cls(items, settings)

    def scores(self, history: Csr) -> Floats32:
        """Return (B, N) float32 scores from the users' items (B, N); no history gives a row of zeros."""
        return solve(binary(history), self.items, self.settings) @ self.items.T


def choose_als(
    train: Csr,
    valid_relevant: Csr,
    excluded: Csr,
    start: AlsSettings = ALS_START,
    dims: Sequence[int] = ALS_DIMS,
    k: int = 20,
) -> tuple[AlsSettings, Ials]:
    """Return the settings with the best mean recall@k on valid, and their model; of equal ones the first.

    One after the other from `start`: each of ALS_UNOBSERVED, each of ALS_REGS, each of `dims` that the work
    allows. The other arguments are those of `choose_ease`.

    Raises:
        TooMuchWorkError: already the first two would take more than MAX_WORK multiplications.
        NoTargetsError: valid_relevant is empty.
        ValueError: `start` is out of range.
    """
    valid = Valid.of(train, valid_relevant, excluded)
    work = (len(ALS_UNOBSERVED) + len(ALS_REGS)) * work_of(train, start.dim)
    if work > MAX_WORK:
        raise TooMuchWorkError(train.shape, work)
    log.info("choosing iALS: %d x %d, about %.1e multiplications", *train.shape, work)
    fitted: dict[AlsSettings, Ials] = {}  # of the stage before: its best one is not fitted again

    def stage(settings: list[AlsSettings], what: str) -> AlsSettings:
        def fit(setting: AlsSettings) -> Ials:
            return fitted.get(setting) or Ials.fit(train, setting)

        chosen, model = best_setting(
            "iALS", tqdm(settings, desc=f"iALS, {what}", disable=None), fit, valid, k
        )
        fitted.clear()
        fitted[chosen] = model
        return chosen

    chosen = stage([replace(start, unobserved=each) for each in ALS_UNOBSERVED], "unobserved")
    chosen = stage([replace(chosen, reg=each) for each in ALS_REGS], "reg")
    wider = [replace(chosen, dim=dim) for dim in dims if work + work_of(train, dim) <= MAX_WORK]
    chosen = stage([chosen, *wider], "dim")
    return chosen, fitted[chosen]


def work_of(train: Csr, dim: int) -> float:
    """Return the multiplications of fitting `train` (U, N): the products of vectors, and a system a row."""
    return SWEEPS * (2.0 * train.nnz * dim**2 + sum(train.shape) * dim**3 / 3)


def solve(x: "sparse.csr_array[np.float32]", others: Floats32, settings: AlsSettings) -> Floats32:
    """Return the vectors (B, dim) of the rows of `x` (B, N), the other side's (N, dim) held still.

    Row u solves (Σ_seen v vᵀ + α Σ_all v vᵀ + λ (n_u + α N) I) w_u = Σ_seen v; a row of nothing is zero.
    """
    counts = np.diff(x.indptr)  # (B,)
    dim = others.shape[1]
    common = settings.unobserved * (others.T @ others)  # (dim, dim)
    scale = settings.reg * (counts + settings.unobserved * len(others))  # (B,)
    targets = np.asarray(x @ others)  # (B, dim)
    padded = np.vstack([others, np.zeros((1, dim), dtype=np.float32)])  # the last row fills short histories
    order = np.argsort(counts, kind="stable")  # like lengths together: little padding
    solved = np.zeros((len(counts), dim), dtype=np.float32)
    start = int((counts == 0).sum())
    most = max(1, _GEMM_ALONE // dim**2)
    size = max(1, _FLOATS_AT_ONCE // (dim * max(dim, most)))
    while start < len(order):
        rows = order[start : start + size]
        systems = np.tile(common, (len(rows), 1, 1))  # (b, dim, dim)
        first = 0
        while first < counts[rows[-1]]:
            longer = int(np.searchsorted(counts[rows], first, side="right"))  # from here on, rows have more
            step = min(most, int(counts[rows[-1]]) - first)
            at = x.indptr[rows[longer:]][:, None] + np.arange(first, first + step)  # (b', step)
            within = at < x.indptr[rows[longer:] + 1][:, None]
            seen = padded[np.where(within, x.indices[np.where(within, at, 0)], len(others))]
            systems[longer:] += seen.transpose(0, 2, 1) @ seen
            first += step
        systems[:, np.arange(dim), np.arange(dim)] += scale[rows][:, None].astype(np.float32)
        solved[rows] = np.linalg.solve(systems, targets[rows][:, :, None])[:, :, 0]
        start += size
    return solved
