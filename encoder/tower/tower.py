"""The user and item towers: fitted arrays and their float64 reference."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.arrays import IntArray
from encoder.config import TowerConfig
from encoder.content import ContentTower
from encoder.dataset import Dataset
from encoder.progress import watched
from encoder.tower.fusion import ChosenTrust, Fusion
from encoder.views import FloatArray, Matrix, ViewBatch, assemble_views

_BATCH = 8_192  # users whose views are in memory at once
_PARTS = 1_024  # users whose parts, in float64, are in memory at once


@dataclass(frozen=True)
class Block:
    """Some coordinates of the shared space, with the arrays that compute them.

    Shapes:
        table: (N, D_H) float32, pools histories.
        fusion: takes the views to D coordinates.
        id_vectors: (N, D) float32; a zero row for an item that no train event names.
    """

    table: FloatArray
    fusion: Fusion
    id_vectors: FloatArray

    def scaled(self, factor: float) -> "Block":
        """Return the block with its scores multiplied by a factor."""
        return replace(self, id_vectors=self.id_vectors * np.float32(factor))


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
    is given. Below, D is the final number of coordinates. An item without an id vector is encoded from its
    content by `content`, of the same coordinates; None where that is not fitted.
    """

    config: TowerConfig
    blocks: tuple[Block, ...]
    compression: Compression | None = None
    content: ContentTower | None = None

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
    def dim(self) -> int:
        """D."""
        if self.compression is not None:
            return int(self.compression.items.shape[1])
        return sum(int(block.id_vectors.shape[1]) for block in self.blocks)

    @property
    def text_dim(self) -> int:
        """D_T."""
        return int(self.blocks[0].fusion.matrices[1].shape[0])

    def gated(self, gates: tuple[float, float, float]) -> "Tower":
        """Return the tower with other gates in every block."""
        blocks = tuple(replace(b, fusion=replace(b.fusion, gates=gates)) for b in self.blocks)
        return replace(self, config=replace(self.config, gates=gates), blocks=blocks)

    def trusting(self, chosen: ChosenTrust) -> "Tower":
        """Return the tower with another trust in every block, and the gates of H scaled."""
        blocks = []
        for block in self.blocks:
            history, text, social = block.fusion.gates
            gates = (history * chosen.scale, text, social)
            blocks.append(replace(block, fusion=replace(block.fusion, gates=gates, trust=chosen.trust)))
        return replace(self, blocks=tuple(blocks))

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

    def item_vectors(self, data: Dataset) -> FloatArray:
        """Encode the items of a data set: (N, D) float32, id vectors, or from content where there is none."""
        vectors = self.id_vectors
        if self.content is None:
            return vectors
        unknown = ~vectors.any(axis=1)
        content = self.content.encoder.encode(data.item_content.take(np.flatnonzero(unknown)))
        vectors[unknown] = self.content.maps.vectors(content)
        return vectors

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
    data: Dataset,
    events: Matrix,
    table: FloatArray,
    widths: tuple[int, ...] = (),
    users: IntArray | None = None,
) -> Iterator[ViewBatch]:
    """Yield what `dataset_views` gives of some users, of every user by default, a bounded batch at a time."""
    chosen = np.arange(len(data.users)) if users is None else users
    for some in watched(range(0, len(chosen), _BATCH), "views of users", "block", leave=False):
        yield dataset_views(data, events, table, widths, chosen[some : some + _BATCH])
