"""Fusion: from the raw views of a user to the parts of one block, weighed by how far each view is trusted."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.tower.alignment import Alignment
from encoder.views import FloatArray, ViewBatch

MAX_GATE_SLOPE = 10.0  # log gates move with the amounts by this at most
_TINY = 1e-12

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trust:
    """How the gate of a view falls where there is little of the view, and where it contradicts the others.

    View i of n_ui elements is shrunk by s_ui = n_ui / (n_ui + c_i). Its agreement r_ui is the cosine between
    it and the sum of the other views of the user, each times its gate and its s. What a view of that size is
    expected to reach is θ_i √(s_ui s̄_ui), where s̄_ui is the mean of the s of the others under the same
    weights. The gate of the view is multiplied by s_ui σ(κ_i (r_ui − θ_i √(s_ui s̄_ui))). A view with
    κ_i = 0, and every view of a user who has no other, is only shrunk.

    Attributes:
        pseudo_counts: c_i of H, T, S, in elements (items, texts, friends), not negative; 0 shrinks nothing.
        sharpness: κ_i, not negative; 0 where agreement does not count.
        expected: θ_i, the agreement of two views of many elements at which σ is ½.

    Source:
        Shrinkage as the posterior mean of a normal mean (Efron and Morris 1973, "Stein's estimation rule and
        its competitors"); a cosine of two noisy means falls with the root of their reliabilities (Spearman
        1904, attenuation).
    """

    pseudo_counts: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sharpness: tuple[float, float, float] = (0.0, 0.0, 0.0)
    expected: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class ChosenTrust:
    """The trust of all blocks of a tower.

    Attributes:
        trust: the same in every block.
        scale: what the gates of H are multiplied by, so that a long history counts in spite of the shrinkage.
        users: how many judged; 0 where none could, and it is what other data was found to want.
    """

    trust: Trust
    scale: float
    users: int

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ChosenTrust":
        """Make it from the JSON values that `as_json` returned."""
        trust = Trust(**{name: tuple(three) for name, three in values["trust"].items()})
        return cls(trust, values["scale"], values["users"])


@dataclass(frozen=True)
class Fusion:
    """The function from the views of a user to the parts of one block of V_u.

    For view i: z_ui = x_ui W_i + offset_i, to length 1 if `unit`, with a further coordinate 1 if `constant`
    (so that an item vector may carry a bias); p_ui = w_ui z_ui, where w_ui are the gates
    exp(log gate_i + Σ_j slopes_ij · amount_uj) times what `trust` makes of the view, masked and normalised
    over the views that are present.

    Shapes:
        matrices: W_H (D_H, D), W_T (D_T, D), W_S (D_H, D) float32; a row of a view times W is aligned.
        gates: (3,), not negative, in the order H, T, S.
        offsets: (3, D) float32.
        slopes: (3, 3) float32; 0 where gates do not depend on the amounts of the views.
    """

    matrices: tuple[FloatArray, FloatArray, FloatArray]
    gates: tuple[float, float, float]
    offsets: FloatArray
    slopes: FloatArray
    unit: bool
    constant: bool = False
    trust: Trust = field(default_factory=Trust)

    @property
    def dim(self) -> int:
        """Number of coordinates of the block."""
        return int(self.matrices[0].shape[1]) + self.constant

    def aligned(self, history: FloatArray, text: FloatArray, social: FloatArray) -> Float64:
        """Map raw views (B, D_H), (B, D_T), (B, D_H) to z_ui (B, 3, D), without the constant coordinate."""
        views = (history, text, social)
        aligned = np.stack(
            [v.astype(np.float64) @ w.astype(np.float64) for v, w in zip(views, self.matrices, strict=True)],
            axis=1,
        )  # (B, 3, D)
        aligned += self.offsets
        if self.unit:
            aligned /= np.maximum(np.linalg.norm(aligned, axis=2, keepdims=True), _TINY)
        return np.asarray(aligned)

    def weights(self, amounts: FloatArray, aligned: Float64) -> Float64:
        """Compute the normalised gates w_ui (B, 3) float64 from the amounts (B, 3) and z_ui (B, 3, D).

        They are zero for a user without any view.
        """
        present = (amounts > 0).astype(np.float64)
        moved = np.clip(amounts @ self.slopes.T.astype(np.float64), -MAX_GATE_SLOPE, MAX_GATE_SLOPE)
        shrunk = self.shrinkage(amounts)
        gates = present * np.array(self.gates) * np.exp(moved) * shrunk  # (B, 3)
        if any(self.trust.sharpness):
            gates = gates * self._credit(gates, shrunk, aligned)
        return np.asarray(gates / np.maximum(gates.sum(axis=1, keepdims=True), _TINY))

    def shrinkage(self, amounts: FloatArray) -> Float64:
        """Return s_ui (B, 3) of the amounts log(1 + n_ui) (B, 3): n / (n + c), 0 where a view is absent."""
        counts = np.expm1(amounts.astype(np.float64))
        return np.asarray(counts / np.maximum(counts + np.array(self.trust.pseudo_counts), _TINY))

    def _credit(self, gates: Float64, shrunk: Float64, aligned: Float64) -> Float64:
        """Return σ(κ_i (r_ui − expected)) (B, 3), 1 where κ_i is 0 or a user has no other view."""
        gram = aligned @ aligned.transpose(0, 2, 1)  # (B, 3, 3)
        others = gates[:, None, :] * (1.0 - np.eye(3))  # (B, 3, 3), row i: the weights of the views but i
        total = others.sum(axis=2)
        toward = (others * gram).sum(axis=2)
        squares = ((others @ gram) * others).sum(axis=2) * np.einsum("bii->bi", gram)
        agreement = toward / np.maximum(np.sqrt(np.maximum(squares, 0.0)), _TINY)
        reliability = (others * shrunk[:, None, :]).sum(axis=2) / np.maximum(total, _TINY)
        expected = np.array(self.trust.expected) * np.sqrt(shrunk * reliability)
        sharpness = np.array(self.trust.sharpness)
        credit = 1.0 / (1.0 + np.exp(-sharpness * (agreement - expected)))
        return np.where((total > 0) & (sharpness > 0), credit, 1.0)

    def parts(self, batch: ViewBatch, history: FloatArray, social: FloatArray) -> Float64:
        """Compute the parts p_ui as (B, 3, dim) float64; their sum over the views is V_u.

        Args:
            batch: for the text view and the amounts.
            history: (B, D_H) the columns of H that the block takes.
            social: (B, D_H) the columns of S that the block takes.

        Source:
            DESIGN section 1.
        """
        aligned = self.aligned(history, batch.text, social)
        weights = self.weights(batch.amounts, aligned)
        if self.constant:
            aligned = np.concatenate([aligned, np.ones_like(aligned[:, :, :1])], axis=2)
        return np.asarray(weights[:, :, None] * aligned)


def fixed_gates(alignment: Alignment, gates: tuple[float, float, float]) -> Fusion:
    """Return a fusion whose gates are the same for all users."""
    slopes = np.zeros((3, 3), np.float32)
    return Fusion(alignment.matrices, gates, alignment.offsets, slopes, unit=alignment.unit)


def fused_parts(batch: ViewBatch, alignment: Alignment, gates: tuple[float, float, float]) -> Float64:
    """Compute the parts (B, 3, D) float64 of a batch whose table is one block, with fixed gates."""
    return fixed_gates(alignment, gates).parts(batch, batch.history, batch.social)
