"""Fusion in float64: the reference that the exported graph must agree with."""

import numpy as np
import numpy.typing as npt

from encoder.alignment import Alignment
from encoder.views import ViewBatch


def fused_parts(
    batch: ViewBatch, alignment: Alignment, gates: tuple[float, float, float]
) -> npt.NDArray[np.float64]:
    """Return the parts p_ui = m_ui · g_ui · W_i V_ui as (B, 3, D) float64; their sum over views is V_u.

    Gates are shared out over the views that a user has; a user without any gives zeros.

    Source:
        DESIGN section 1.
    """
    weights = batch.present.astype(np.float64) * np.array(gates)  # (B, 3)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    views = (batch.history, batch.text, batch.social)
    aligned = np.stack(
        [v.astype(np.float64) @ w.astype(np.float64) for v, w in zip(views, alignment.matrices, strict=True)],
        axis=1,
    )  # (B, 3, D)
    if alignment.unit:
        aligned /= np.maximum(np.linalg.norm(aligned, axis=2, keepdims=True), 1e-12)
    return np.asarray(weights[:, :, None] * aligned)
