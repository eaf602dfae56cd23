"""The spectral item table: a linear autoencoder of histories from one truncated SVD."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import solve_triangular

from encoder.products import product
from encoder.progress import watched
from encoder.views import FloatArray, Matrix

_OVERSAMPLING = 32
_POWER_ITERATIONS = 12
_ROWS = 16_384  # users whose projections, in float64, are in memory at once
_STARTED_ITERATIONS = 2  # from the vectors of nearly the same matrix
_LEAST = 1e-4  # of the greatest singular value; a smaller one is rounding, of numbers with 7 digits


@dataclass(frozen=True)
class Spectrum:
    """Truncated SVD of a degree-normalised behaviour matrix.

    Shapes:
        singular: (R,) float64, descending, none of them numerically 0.
        right: (N, R) float32, orthonormal columns; zero rows for items without events.
        degree: (N,) float64, summed weight of each item.
        item_exponent: b, the power of the degree that the matrix was divided by.
        rank: of the matrix, as far as it was computed: more than R only where the cut to R lost directions.
    """

    singular: npt.NDArray[np.float64]
    right: FloatArray
    degree: npt.NDArray[np.float64]
    item_exponent: float
    rank: int

    def ranks_unseen(self, dim: int, damping: float) -> bool:
        """Return whether a table of these settings scores items that a user has not seen.

        All directions together and undamped reproduce the history itself, with 0 for every other item.
        """
        return damping > 0 or dim < self.rank

    def table(self, dim: int, damping: float) -> FloatArray:
        """Return the table that pools histories, (N, dim) float32: D^-b V filtered by s²/(s² + damping·s₁²).

        Source:
            The ridge-damped projection of a linear autoencoder; damping 0 is the plain truncated SVD.
        """
        power = self.singular[:dim] ** 2
        keep = power / (power + damping * self.singular[0] ** 2)  # (dim,)
        table: FloatArray = (
            self.right[:, :dim] * keep * self._degree_power(-self.item_exponent)[:, None]
        ).astype(np.float32)
        return table

    def items(self, dim: int) -> FloatArray:
        """Return item vectors (N, dim) float32: D^b V, so that a popular item is a longer vector."""
        vectors: FloatArray = (self.right[:, :dim] * self._degree_power(self.item_exponent)[:, None]).astype(
            np.float32
        )
        return vectors

    def _degree_power(self, exponent: float) -> npt.NDArray[np.float64]:
        return np.power(self.degree, exponent, out=np.zeros_like(self.degree), where=self.degree > 0)


def spectrum(
    events: Matrix,
    rank: int,
    user_exponent: float,
    item_exponent: float = 0.5,
    seed: int = 0,
    start: FloatArray | None = None,
) -> Spectrum:
    """Compute the top singular values and right vectors of D_u^-a X D_i^-b.

    The rank is cut to that of the matrix. Memory: (U + N) × rank floats.

    Args:
        events: X (U, N).
        rank: of the result, at most.
        user_exponent: a.
        item_exponent: b.
        seed: of the random directions.
        start: (N, R) right vectors of nearly the same matrix, zero rows for items that it lacked; a few
            iterations suffice from there.

    Source:
        Halko, Martinsson, Tropp 2011, "Finding structure with randomness", algorithm 4.4 (randomised
        subspace iteration); normalisation as in Shen et al. 2021 (GF-CF) with exponents of its
        own for users and for items.
    """
    user_degree = np.asarray(events.sum(axis=1), dtype=np.float64)
    item_degree = np.asarray(events.sum(axis=0), dtype=np.float64)
    scale_users = np.power(user_degree, -user_exponent, out=np.zeros_like(user_degree), where=user_degree > 0)
    scale_items = np.power(item_degree, -item_exponent, out=np.zeros_like(item_degree), where=item_degree > 0)
    scaled = sparse.csr_array(
        (sparse.diags_array(scale_users) @ events @ sparse.diags_array(scale_items)).astype(np.float32)
    )  # (U, N)
    transposed = sparse.csr_array(scaled.T)
    rank = min(rank, int((user_degree > 0).sum()), int((item_degree > 0).sum()))
    width = min(rank + _OVERSAMPLING, *scaled.shape)
    known = np.zeros((scaled.shape[1], 0), np.float32) if start is None else start[:, :width]
    drawn = np.random.default_rng(seed).standard_normal(
        (scaled.shape[0], width - known.shape[1]), dtype=np.float32
    )
    basis = np.concatenate([known, product(transposed, drawn)], axis=1)  # (N, width)
    del drawn
    iterations = range(_POWER_ITERATIONS if start is None else _STARTED_ITERATIONS)
    for _ in watched(iterations, "decomposition", "iteration", leave=False):
        basis = product(transposed, product(scaled, _independent(basis)))
    basis = np.linalg.qr(basis)[0]
    power, rotation = np.linalg.eigh(_gram_of_projections(scaled, basis))
    singular = np.sqrt(np.maximum(power[::-1], 0.0))  # (width,), descending
    whole = int((singular > _LEAST * singular[0]).sum())
    best = slice(min(rank, whole))
    right = (basis @ rotation[:, ::-1][:, best]).astype(np.float32)
    right[item_degree == 0] = 0.0
    return Spectrum(singular[best], right, item_degree, item_exponent, whole)


def _gram_of_projections(scaled: Matrix, basis: FloatArray) -> npt.NDArray[np.float64]:
    """Return PᵀP of P = scaled · basis, (width, width) float64, a bounded number of rows of P at a time."""
    gram = np.zeros((basis.shape[1], basis.shape[1]))
    for start in range(0, scaled.shape[0], _ROWS):
        projected = product(scaled[start : start + _ROWS], basis).astype(np.float64)
        gram += projected.T @ projected
    return gram


def _independent(block: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Make nearly orthonormal columns of the same span by shifted Cholesky QR, in a tenth of the time of QR.

    Between power iterations the columns need only stay independent; the last step is a true QR. Where they
    have become dependent, as those of a matrix of low rank do at once, a true QR is done here, too.

    Source:
        Fukaya et al. 2020, "Shifted Cholesky QR for computing the QR factorization of
        ill-conditioned matrices".
    """
    gram = block.T @ block
    shift = 1e-6 * np.trace(gram) / len(gram)
    try:
        lower = np.linalg.cholesky(gram.astype(np.float64) + shift * np.eye(len(gram)))
    except np.linalg.LinAlgError:
        return np.linalg.qr(block)[0]
    return np.asarray(solve_triangular(lower.astype(np.float32), block.T, lower=True).T)
