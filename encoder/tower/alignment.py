"""Alignment of the views in closed form: sums over users in one streaming pass, then a solve."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from encoder.config import Fusion as FusionName
from encoder.config import SettingsError
from encoder.views import FloatArray, ViewBatch

Float64 = npt.NDArray[np.float64]

_SHRINKAGE = 10.0  # users at 0 that a mean counts with its own: the mean of a few is not common to all


@dataclass(frozen=True)
class Alignment:
    """Linear maps of the views into the shared space.

    Shapes:
        matrices: W_H (D_H, D), W_T (D_T, D), W_S (D_H, D) float32; a row of a view times W, plus its offset,
            is aligned.
        offsets: (3, D) float32.
        unit: whether an aligned view is scaled to length 1 before the gates.
    """

    matrices: tuple[FloatArray, FloatArray, FloatArray]
    offsets: FloatArray
    unit: bool


class Covariances:
    """Masked second moments of the views, summed batch by batch; users are never all in memory.

    `plain[i][j]` is Σ_u m_ui m_uj x_ui x_ujᵀ, `shared[i][j]` the same divided by k_u = Σ_i m_ui,
    `sums[i][j]` is Σ_u m_ui m_uj x_ui, and `counts[i, j]` is Σ_u m_ui m_uj. Only what the fusion needs is
    summed: for ridge the plain moments of T and S with themselves and with H.
    """

    def __init__(self, dims: tuple[int, int, int], fusion: FusionName = "maxvar") -> None:
        self.dims = dims
        self.plain = _blocks(dims)
        self.shared = _blocks(dims)
        self._fusion = fusion
        self.sums = [[np.zeros(rows) for _ in dims] for rows in dims]
        self.counts = np.zeros((3, 3))

    def add(self, batch: ViewBatch) -> None:
        """Add the moments of the users of a batch."""
        views = {
            i: np.asarray(view * batch.present[:, i : i + 1], dtype=np.float64)
            for i, view in enumerate((batch.history, batch.text, batch.social))
            if batch.present[:, i].any()
        }
        per_user = 1.0 / np.maximum(batch.present.sum(axis=1, keepdims=True), 1.0)  # (B, 1)
        for (i, left), (j, right) in product(views.items(), views.items()):
            if self._fusion == "maxvar":
                self.plain[i][j] += left.T @ right
                self.shared[i][j] += (left * per_user).T @ right
            elif i and j in {0, i}:
                self.plain[i][j] += left.T @ right
            self.sums[i][j] += batch.present[:, j].astype(np.float64) @ left
        self.counts += batch.present.T.astype(np.float64) @ batch.present


def ridge_alignment(covariances: Covariances, ridge: float, *, centred: bool = False) -> Alignment:
    """Regress T and S onto H; the shared space is that of H, and W_H is the identity.

    Users count in a regression where they have both views. Aligned views are scaled to length 1.

    Args:
        covariances: of the users.
        ridge: λ.
        centred: whether T and H are centred for T's regression. The mean of H is not added again: what a text
            has in common with all texts, and a history with all histories, says nothing of a person.

    Source:
        Hoerl and Kennard 1970; W_i = (C_ii + λI)^-1 C_iH. Mu and Viswanath 2018, "All-but-the-top", section 2
        (the common mean of word vectors hides their differences).
    """
    dim = covariances.dims[0]
    matrices: list[npt.NDArray[np.floating]] = [np.eye(dim)]
    for i in (1, 2):
        own = covariances.plain[i][i] + ridge * np.eye(covariances.dims[i])
        matrices.append(solve(own, covariances.plain[i][0]))
    offsets = np.zeros((3, dim))
    if centred:
        matrices[1], offsets[1] = _centred(covariances, ridge)
    history, text, social = map(_f32, matrices)
    return Alignment((history, text, social), _f32(offsets), unit=True)


def _centred(covariances: Covariances, ridge: float) -> tuple[Float64, Float64]:
    """Regress centred T onto centred H; return W_T (D_T, D) and the offset (D,) that centres T."""
    own, both = covariances.sums[1][1], covariances.sums[1][0]
    other = covariances.sums[0][1]
    mean = own / (covariances.counts[1, 1] + _SHRINKAGE)
    target = other / (covariances.counts[1, 0] + _SHRINKAGE)
    gram = covariances.plain[1][1] - np.outer(own, mean) - np.outer(mean, own)
    gram += covariances.counts[1, 1] * np.outer(mean, mean)
    cross = covariances.plain[1][0] - np.outer(both, target) - np.outer(mean, other)
    cross += covariances.counts[1, 0] * np.outer(mean, target)
    matrix = solve(gram + ridge * np.eye(len(mean)), cross)
    return matrix, -mean @ matrix


def solve(gram: Float64, right: Float64) -> Float64:
    """Solve gram · X = right.

    Raises:
        SettingsError: it has no solution or many, which only a ridge of 0 allows.
    """
    try:
        return np.asarray(np.linalg.solve(gram, right), dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise SettingsError("ridge 0 leaves a regression without one solution: take one above 0") from error


def maxvar_alignment(covariances: Covariances, ridge: float, dim: int) -> Alignment:
    """Align by regularised MAXVAR generalised CCA with masks; gates are 1/k_u, 1/μ is folded into W.

    Source:
        Kettenring 1971; masks as Benton, Arora, Dredze 2016. With B_ij = Σ_u m_ui m_uj / k_u x_ui x_ujᵀ
        and C_ii = Σ_u m_ui x_ui x_uiᵀ, the top eigenpairs (e, μ) of (C+λI)^-½ B (C+λI)^-½ give
        W_i = √μ (C_ii+λI)^-½ e_i under VᵀKV = I.
    """
    roots = [_inverse_root(covariances.plain[i][i], ridge) for i in range(3)]
    middle = np.block([[roots[i] @ covariances.shared[i][j] @ roots[j] for j in range(3)] for i in range(3)])
    values, vectors = np.linalg.eigh((middle + middle.T) / 2)
    order = np.argsort(values)[::-1][:dim]
    kept = order[values[order] > 1e-9]
    parts = np.split(vectors[:, kept], np.cumsum(covariances.dims)[:-1], axis=0)
    scale = 1.0 / np.sqrt(values[kept])  # √μ · 1/μ
    history, text, social = (_f32(root @ part * scale) for root, part in zip(roots, parts, strict=True))
    return Alignment((history, text, social), np.zeros((3, history.shape[1]), np.float32), unit=False)


def _blocks(dims: tuple[int, int, int]) -> list[list[Float64]]:
    return [[np.zeros((rows, columns)) for columns in dims] for rows in dims]


def _inverse_root(covariance: Float64, ridge: float) -> Float64:
    """Return (C + λI)^-½."""
    values, vectors = np.linalg.eigh(covariance + ridge * np.eye(len(covariance)))
    return np.asarray((vectors / np.sqrt(np.maximum(values, 1e-12))) @ vectors.T)


def _f32(matrix: npt.NDArray[np.floating]) -> FloatArray:
    return np.ascontiguousarray(matrix, dtype=np.float32)
