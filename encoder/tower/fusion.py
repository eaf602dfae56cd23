"""Fusion in float64: the reference that the exported graph must agree with."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encoder.tower.alignment import Alignment
from encoder.views import FloatArray, ViewBatch

MAX_GATE_SLOPE = 10.0  # log gates move with the amounts by this at most


@dataclass(frozen=True)
class Fusion:
    """How the views of a user become the parts of one block of V_u.

    For view i: z = x_ui W_i + offset_i, to length 1 if `unit`, with a further coordinate 1 if `constant`
    (so that an item vector may carry a bias); p_ui = w_ui z, where w_ui are the gates
    exp(log gate_i + Σ_j slopes_ij · amount_uj), masked and normalised over the views that are there.

    Shapes:
        matrices: W_H (D_H, D), W_T (D_T, D), W_S (D_H, D) float32; a row of a view times W is aligned.
        gates: (3,), not negative, in the order H, T, S.
        offsets: (3, D) float32.
        slopes: (3, 3) float32; 0 where gates do not depend on how much there is of each view.
    """

    matrices: tuple[FloatArray, FloatArray, FloatArray]
    gates: tuple[float, float, float]
    offsets: FloatArray
    slopes: FloatArray
    unit: bool
    constant: bool = False

    @property
    def dim(self) -> int:
        """Coordinates of the block."""
        return int(self.matrices[0].shape[1]) + self.constant

    def weights(self, batch: ViewBatch) -> npt.NDArray[np.float64]:
        """Return the normalised gates w_ui (B, 3) float64; zeros for a user without any view."""
        moved = np.clip(batch.amounts @ self.slopes.T.astype(np.float64), -MAX_GATE_SLOPE, MAX_GATE_SLOPE)
        weights = batch.present * np.array(self.gates) * np.exp(moved)  # (B, 3)
        return np.asarray(weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12))

    def parts(self, batch: ViewBatch, history: FloatArray, social: FloatArray) -> npt.NDArray[np.float64]:
        """Return the parts p_ui as (B, 3, dim) float64; their sum over the views is V_u.

        Args:
            batch: for the text view, the masks and the amounts.
            history: (B, D_H) the block's own columns of this view.
            social: (B, D_H) the block's own columns of this view.

        Source:
            DESIGN section 1.
        """
        views = (history, batch.text, social)
        aligned = np.stack(
            [v.astype(np.float64) @ w.astype(np.float64) for v, w in zip(views, self.matrices, strict=True)],
            axis=1,
        )  # (B, 3, D)
        aligned += self.offsets
        if self.unit:
            aligned /= np.maximum(np.linalg.norm(aligned, axis=2, keepdims=True), 1e-12)
        if self.constant:
            aligned = np.concatenate([aligned, np.ones_like(aligned[:, :, :1])], axis=2)
        return np.asarray(self.weights(batch)[:, :, None] * aligned)


def plain(alignment: Alignment, gates: tuple[float, float, float]) -> Fusion:
    """Return a fusion without offsets whose gates are the same for everybody."""
    dim = alignment.matrices[0].shape[1]
    offsets, slopes = np.zeros((3, dim), np.float32), np.zeros((3, 3), np.float32)
    return Fusion(alignment.matrices, gates, offsets, slopes, unit=alignment.unit)


def fused_parts(
    batch: ViewBatch, alignment: Alignment, gates: tuple[float, float, float]
) -> npt.NDArray[np.float64]:
    """Return the parts (B, 3, D) float64 of a batch whose table is one block, with plain gates."""
    return plain(alignment, gates).parts(batch, batch.history, batch.social)
