"""The user and item towers: fitted arrays and their float64 reference."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.arrays import IntArray
from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.tower.alignment import Alignment
from encoder.views import FloatArray, Matrix, ViewBatch, assemble_views

MAX_GATE_SLOPE = 10.0  # log gates move with the amounts by this at most


@dataclass(frozen=True)
class Fusion:
    """The function from the views of a user to the parts of one block of V_u.

    For view i: z = x_ui W_i + offset_i, to length 1 if `unit`, with a further coordinate 1 if `constant`
    (so that an item vector may carry a bias); p_ui = w_ui z, where w_ui are the gates
    exp(log gate_i + Σ_j slopes_ij · amount_uj), masked and normalised over the views that are present.

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

    @property
    def dim(self) -> int:
        """Number of coordinates of the block."""
        return int(self.matrices[0].shape[1]) + self.constant

    def weights(self, batch: ViewBatch) -> npt.NDArray[np.float64]:
        """Return the normalised gates w_ui (B, 3) float64; zeros for a user without any view."""
        moved = np.clip(batch.amounts @ self.slopes.T.astype(np.float64), -MAX_GATE_SLOPE, MAX_GATE_SLOPE)
        weights = batch.present * np.array(self.gates) * np.exp(moved)  # (B, 3)
        return np.asarray(weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12))

    def parts(self, batch: ViewBatch, history: FloatArray, social: FloatArray) -> npt.NDArray[np.float64]:
        """Compute the parts p_ui as (B, 3, dim) float64; their sum over the views is V_u.

        Args:
            batch: for the text view, the masks and the amounts.
            history: (B, D_H) the columns of H that the block takes.
            social: (B, D_H) the columns of S that the block takes.

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


def fixed_gates(alignment: Alignment, gates: tuple[float, float, float]) -> Fusion:
    """Return a fusion whose gates are the same for all users."""
    slopes = np.zeros((3, 3), np.float32)
    return Fusion(alignment.matrices, gates, alignment.offsets, slopes, unit=alignment.unit)


def fused_parts(
    batch: ViewBatch, alignment: Alignment, gates: tuple[float, float, float]
) -> npt.NDArray[np.float64]:
    """Compute the parts (B, 3, D) float64 of a batch whose table is one block, with fixed gates."""
    return fixed_gates(alignment, gates).parts(batch, batch.history, batch.social)


_BATCH = 8_192  # users whose views are in memory at once
_PARTS = 1_024  # users whose parts, in float64, are in memory at once


@dataclass(frozen=True)
class Block:
    """Some coordinates of the shared space, with the arrays that compute them.

    Shapes:
        table: (N, D_H) float32, pools histories.
        fusion: takes the views to D coordinates.
        id_vectors: (N, D) float32; a zero row for an item that no train event names.
        item_text_map: (D_T, D) float32, takes the text vector of such an item to its item vector.
    """

    table: FloatArray
    fusion: Fusion
    id_vectors: FloatArray
    item_text_map: FloatArray

    def scaled(self, factor: float) -> "Block":
        """Return the block with its scores multiplied by a factor."""
        by = np.float32(factor)
        return replace(self, id_vectors=self.id_vectors * by, item_text_map=self.item_text_map * by)


@dataclass(frozen=True)
class Compression:
    """Two linear maps to fewer coordinates with nearly the same inner products.

    Shapes:
        users: (Σ D, D') float32, for V_u and each of its parts; items: (Σ D, D') float32, for x_j.
    """

    users: FloatArray
    items: FloatArray


@dataclass(frozen=True)
class Tower:
    """A fitted user tower and item tower.

    V_u and x_j are the coordinates of the blocks, one after another, and compressed where `compression`
    is given. Below, D is the final number of coordinates.
    """

    config: TowerConfig
    blocks: tuple[Block, ...]
    compression: Compression | None = None

    @property
    def table(self) -> FloatArray:
        """(N, Σ D_H) float32, pools histories."""
        return np.concatenate([block.table for block in self.blocks], axis=1)

    @property
    def widths(self) -> tuple[int, ...]:
        """D_H of each block."""
        return tuple(block.table.shape[1] for block in self.blocks)

    @property
    def id_vectors(self) -> FloatArray:
        """(N, D) float32."""
        vectors = np.concatenate([block.id_vectors for block in self.blocks], axis=1)
        return vectors if self.compression is None else vectors @ self.compression.items

    @property
    def item_text_map(self) -> FloatArray:
        """(D_T, D) float32."""
        matrix = np.concatenate([block.item_text_map for block in self.blocks], axis=1)
        return matrix if self.compression is None else matrix @ self.compression.items

    def gated(self, gates: tuple[float, float, float]) -> "Tower":
        """Return the tower with other gates in every block."""
        blocks = tuple(replace(b, fusion=replace(b.fusion, gates=gates)) for b in self.blocks)
        return replace(self, config=replace(self.config, gates=gates), blocks=blocks)

    def parts(self, batch: ViewBatch) -> npt.NDArray[np.float64]:
        """Compute p_ui as (B, 3, D) float64."""
        edges = np.cumsum(self.widths)[:-1]
        histories, socials = np.split(batch.history, edges, axis=1), np.split(batch.social, edges, axis=1)
        views = zip(self.blocks, histories, socials, strict=True)
        parts = np.concatenate([block.fusion.parts(batch, h, s) for block, h, s in views], axis=2)
        return parts if self.compression is None else parts @ self.compression.users.astype(np.float64)

    def vectors(self, batch: ViewBatch) -> npt.NDArray[np.float64]:
        """Encode users: V_u as (B, D) float64; a user without any view gives a zero row."""
        some = [slice(start, start + _PARTS) for start in range(0, len(batch) or 1, _PARTS)]
        return np.concatenate([self.parts(batch.rows(each)).sum(axis=1) for each in some])

    def item_vectors(self, text: FloatArray) -> FloatArray:
        """Encode items: (N, D) float32, id vectors, or the projected text (N, D_T) of an item without one."""
        vectors = self.id_vectors
        known = vectors.any(axis=1, keepdims=True)
        return np.where(known, vectors, text @ self.item_text_map).astype(np.float32)

    def views(self, data: Dataset, users: IntArray | None = None) -> ViewBatch:
        """Make the raw views of the users with the given rows, of all users by default."""
        return dataset_views(data, data.events(self.config), self.table, self.widths, users)

    def batches(self, data: Dataset) -> Iterator[ViewBatch]:
        """Yield the raw views of every user, a bounded batch at a time."""
        return view_batches(data, data.events(self.config), self.table, self.widths)


def dataset_views(
    data: Dataset,
    events: Matrix,
    table: FloatArray,
    widths: tuple[int, ...] = (),
    users: IntArray | None = None,
) -> ViewBatch:
    """Make the raw views of users of a data set.

    Args:
        data: for the texts and the friends.
        events: (U, N) weighted histories, as `data.events` gives them.
        table: (N, D_H) that pools them.
        widths: of the table's blocks; one block where it is empty.
        users: their rows, in the order of the result; None is all. Memory grows with them and their friends.
    """
    chosen = np.arange(len(data.users)) if users is None else users
    ties = data.ties[chosen]
    known = np.union1d(chosen, ties.indices)  # the users and their friends, in the order of their rows
    return assemble_views(
        events[known],
        np.searchsorted(known, chosen),
        sparse.csr_array(ties[:, known]),
        data.text[chosen],
        data.text_counts[chosen],
        table,
        widths,
    )


def view_batches(
    data: Dataset, events: Matrix, table: FloatArray, widths: tuple[int, ...] = ()
) -> Iterator[ViewBatch]:
    """Yield what `dataset_views` gives of every user, a bounded batch at a time."""
    for start in range(0, len(data.users), _BATCH):
        users = np.arange(start, min(start + _BATCH, len(data.users)))
        yield dataset_views(data, events, table, widths, users)
