"""The user and item towers in closed form: fitted arrays and their float64 reference."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.alignment import Alignment, Covariances, maxvar_alignment, ridge_alignment
from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.fusion import fused_parts
from encoder.spectral import Spectrum, spectrum
from encoder.views import FloatArray, Matrix, ViewBatch, history_view, social_view, view_batch

_BATCH = 8192


@dataclass(frozen=True)
class Tower:
    """A fitted user tower and item tower.

    Shapes:
        table: (N, D_H) float32, what a history is pooled with.
        id_vectors: (N, D) float32; a zero row for an item that no train event names.
        item_text: (D_T, D) float32, takes the text vector of such an item to its item vector.
    """

    config: TowerConfig
    table: FloatArray
    alignment: Alignment
    id_vectors: FloatArray
    item_text: FloatArray

    def parts(self, batch: ViewBatch) -> npt.NDArray[np.float64]:
        """Return p_ui as (B, 3, D) float64."""
        return fused_parts(batch, self.alignment, self.config.gates)

    def vectors(self, batch: ViewBatch) -> npt.NDArray[np.float64]:
        """Return V_u as (B, D) float64; a user without any view gives a zero row."""
        return np.asarray(self.parts(batch).sum(axis=1))

    def item_vectors(self, text: FloatArray) -> FloatArray:
        """Return item vectors (N, D) float32: id vectors, and projected text (N, D_T) where there is none."""
        known = self.id_vectors.any(axis=1, keepdims=True)
        return np.where(known, self.id_vectors, text @ self.item_text).astype(np.float32)


def fit_tower(
    data: Dataset, config: TowerConfig, events: Matrix | None = None, svd: Spectrum | None = None
) -> Tower:
    """Return the closed-form tower of the visible data.

    Args:
        data: held-out rows of it are not looked at.
        config: the hyper-parameters; `dim` is cut to the rank of the data.
        events: `data.events(config)` where the caller has it already.
        svd: the spectrum of `events` where the caller has it already, of rank `dim` or more.
    """
    events = data.events(config) if events is None else events
    svd = spectrum(events, config.dim, config.user_exponent) if svd is None else svd
    dim = min(config.dim, len(svd.singular))
    table = svd.table(dim, config.damping)
    covariances = Covariances((dim, data.text.shape[1], dim))
    batch = dataset_views(data, events, table)
    for start in range(0, len(batch), _BATCH):
        covariances.add(batch.rows(slice(start, start + _BATCH)))
    if config.fusion == "maxvar":
        alignment = maxvar_alignment(covariances, config.ridge, dim)
        id_vectors = _items_by_ridge(batch, alignment, config, events)
    else:
        alignment = ridge_alignment(covariances, config.ridge)
        id_vectors = svd.items(dim)
    return Tower(config, table, alignment, id_vectors, _item_text_matrix(data, id_vectors))


def dataset_views(data: Dataset, events: Matrix, table: FloatArray) -> ViewBatch:
    """Return the raw views of every user of a data set; no friend's history is the user's own."""
    histories = history_view(events, table)
    return view_batch(histories, data.text, social_view(data.ties, histories))


def _items_by_ridge(
    batch: ViewBatch, alignment: Alignment, config: TowerConfig, events: Matrix
) -> FloatArray:
    """Return item vectors (N, D): ridge regression of the degree-normalised behaviour matrix on V, times D^½.

    Source: DESIGN section 1, "items enter the space by ridge regression of the behaviour matrix on V".
    """
    degree = np.asarray(events.sum(axis=1), dtype=np.float64)
    scale = np.power(degree, -config.user_exponent, out=np.zeros_like(degree), where=degree > 0)
    scaled = sparse.csr_array(sparse.diags_array(scale) @ events)
    dim = alignment.matrices[0].shape[1]
    gram, cross = config.ridge * np.eye(dim), np.zeros((dim, events.shape[1]))
    for start in range(0, len(batch), _BATCH):
        chunk = slice(start, start + _BATCH)
        vectors = fused_parts(batch.rows(chunk), alignment, config.gates).sum(axis=1)  # (B, D)
        gram += vectors.T @ vectors
        cross += (scaled[chunk].T @ vectors).T
    return np.ascontiguousarray(np.linalg.solve(gram, cross).T, dtype=np.float32)


def _item_text_matrix(data: Dataset, id_vectors: FloatArray) -> FloatArray:
    """Return (D_T, D): ridge regression of the id vectors on the text vectors, over items that have both."""
    both = id_vectors.any(axis=1) & data.item_text.any(axis=1)
    text = data.item_text[both].astype(np.float64)
    gram = text.T @ text + np.eye(text.shape[1])
    return np.linalg.solve(gram, text.T @ id_vectors[both].astype(np.float64)).astype(np.float32)
