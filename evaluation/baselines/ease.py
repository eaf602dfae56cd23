"""Popularity, and EASE, the strongest closed form on behaviour alone."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from tqdm import tqdm

from evaluation.baselines.selection import Ints, Valid, best_setting, binary
from evaluation.ranking import Csr, Floats

MAX_EASE_ITEMS = 20_000
EASE_LAMS = (20.0, 50.0, 125.0, 315.0, 800.0, 2000.0, 5000.0)

log = logging.getLogger(__name__)


class TooManyItemsError(ValueError):
    """EASE would need a dense items × items matrix that is too large."""

    def __init__(self, n_items: int) -> None:
        super().__init__(
            f"EASE inverts a dense {n_items} x {n_items} matrix, which takes {_gigabytes(n_items):.1f} GB of "
            f"memory; the limit is {MAX_EASE_ITEMS} items ({_gigabytes(MAX_EASE_ITEMS):.1f} GB)"
        )
        self.n_items = n_items


@dataclass(frozen=True)
class Popularity:
    """The same scores for everyone: how many users have the item in their train rows."""

    counts: NDArray[np.float32]  # (N,)

    @classmethod
    def fit(cls, train: Csr) -> "Popularity":
        """Return the popularity of each item in `train` (U, N); any nonzero counts once."""
        return cls(np.asarray(binary(train).sum(axis=0), dtype=np.float32).ravel())

    def scores(self, history: Csr, _users: Ints | None = None) -> NDArray[np.float32]:
        """Return (B, N) float32, the same row for each of the B users of `history`; read-only."""
        return np.broadcast_to(self.counts, (history.shape[0], len(self.counts)))


@dataclass(frozen=True)
class Ease:
    """A linear item-to-item model with a zero diagonal, fitted in closed form.

    Source:
        Steck 2019, "Embarrassingly shallow autoencoders for sparse data", WWW, equation 8:
        B = I − P · diag(1 / diag P), P = (XᵀX + λI)⁻¹.
    """

    weights: NDArray[np.float32]  # (N, N), zero diagonal

    @classmethod
    def fit(cls, train: Csr, lam: float) -> "Ease":
        """Fit a model to `train` (U, N), any nonzero counting as 1; solved in float64, kept in float32.

        Raises:
            TooManyItemsError: more than MAX_EASE_ITEMS items.
            ValueError: lam is not positive.
        """
        return cls.solved(gram_of(train), lam)

    @classmethod
    def solved(cls, gram: Floats, lam: float) -> "Ease":
        """Return the model of a Gram matrix (N, N) float64, which may hold more than behaviour.

        Raises:
            ValueError: lam is not positive.
        """
        lower, diagonal = _inverse(gram, lam)
        lower += lower.T  # (N, N), symmetric: the diagonal is still 0
        lower /= -diagonal  # column j by −P_jj
        return cls(lower)

    def scores(self, history: Csr, _users: Ints | None = None) -> NDArray[np.float32]:
        """Return (B, N) float32 scores from the users' items (B, N); no history gives a row of zeros."""
        return np.asarray(binary(history) @ self.weights, dtype=np.float32)


def choose_ease(
    train: Csr, valid_relevant: Csr, excluded: Csr, lams: Sequence[float] = EASE_LAMS, k: int = 20
) -> tuple[float, Ease]:
    """Return the λ with the best mean recall@k on valid, and its model; of equal ones the first.

    Args:
        train: (U, N) binary input and history.
        valid_relevant: (U, N) held-out items that λ is chosen by; users without any are not ranked.
        excluded: (U, N) items that are not ranked, the train rows at least.
        lams: the λ to try.
        k: the cut of the criterion.

    Raises:
        TooManyItemsError: more than MAX_EASE_ITEMS items.
        NoTargetsError: valid_relevant is empty.
        ValueError: no λ, or one that is not positive.
    """
    if not lams:
        raise ValueError("no lam to choose from")
    valid = Valid.of(train, valid_relevant, excluded)
    gram = gram_of(train)
    log.info(
        "choosing λ of EASE: %d items, %d values, %d valid users", len(gram), len(lams), len(valid.users)
    )
    return best_setting(
        "EASE", tqdm(lams, desc="EASE", disable=None), lambda lam: Ease.solved(gram, lam), valid, k
    )


def _inverse(gram: Floats, lam: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return P = (gram + λI)⁻¹ as its strictly lower triangle (N, N) and its diagonal (N,).

    Solved in float64. Cholesky and its inverse take N³ operations; one eigendecomposition for all λ would
    cost more than seven of them, because each λ still needs a product of 2N³ after it.
    """
    if not lam > 0:
        raise ValueError(f"lam is {lam}, not positive")
    inverse = np.array(gram, order="F")  # LAPACK works in place on Fortran order
    np.fill_diagonal(inverse, gram.diagonal() + lam)
    factor, info = lapack.dpotrf(inverse, lower=1, overwrite_a=1)
    if info != 0:
        raise np.linalg.LinAlgError(f"the Gram matrix at lam = {lam} is not positive definite (row {info})")
    inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    diagonal = inverse.diagonal().astype(np.float32)
    inverse = inverse.astype(np.float32, order="C")
    return np.tril(inverse, -1), diagonal


def gram_of(train: Csr) -> Floats:
    """Return XᵀX of the binary `train` (U, N), dense (N, N) float64.

    Raises:
        TooManyItemsError: more than MAX_EASE_ITEMS items.
    """
    if train.shape[1] > MAX_EASE_ITEMS:
        raise TooManyItemsError(train.shape[1])
    x = binary(train).astype(np.float64)
    return np.asarray((x.T @ x).toarray())


def _gigabytes(n_items: int) -> float:
    """Return the memory of choosing λ at its peak: Gram and inverse in float64, two models in float32."""
    return n_items**2 * (8 + 8 + 4 + 4) / 1e9
