"""How people were when a model was trained, as distributions.

Each quantity of a person is a number: how much there is of a view, where the vector lies, how well the best
item scores. Its distribution is kept as shares of at most ten bins.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from encoder.drift.stability import AXES, BINS, QUANTITIES
from encoder.views import FloatArray

DRIFT_FILE = "drift.json"  # of a model


@dataclass(frozen=True)
class Distribution:
    """Shares of a number in bins; the bin b has the values up to edges[b], the last one those beyond."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, values: npt.NDArray[np.floating]) -> Self:
        """Divide values (n,), at least one, at their deciles; equal deciles are one edge."""
        edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1], method="lower"))
        counts = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
        return cls(tuple(edges.tolist()), tuple((counts / counts.sum()).tolist()))

    def bin_of(self, value: float) -> int:
        """Return the bin of a value."""
        return int(np.searchsorted(self.edges, value))


@dataclass(frozen=True)
class DriftReference:
    """The distributions of all quantities over people with any view, when a model was trained.

    Attributes:
        axes: (AXES, D) unit directions in which their unit vectors differed most, about `centre` (D,).
        distributions: by quantity.
    """

    centre: FloatArray
    axes: FloatArray
    distributions: Mapping[str, Distribution]

    @classmethod
    def of(cls, amounts: FloatArray, vectors: FloatArray, best_scores: FloatArray) -> Self:
        """Take the distributions from n people, at least one.

        Shapes:
            amounts: (n, 3) as in `ViewBatch`; vectors: (n, D); best_scores: (n,).
        """
        directions = _unit(vectors)
        centre = directions.mean(axis=0)
        _, _, axes = np.linalg.svd(directions - centre, full_matrices=False)
        axes = _with_rows(axes[:AXES], AXES)
        blank = cls(centre.astype(np.float32), axes.astype(np.float32), {})
        values = blank.quantities(amounts, vectors, best_scores)
        return cls(
            blank.centre,
            blank.axes,
            {name: Distribution.of(values[:, place]) for place, name in enumerate(QUANTITIES)},
        )

    def quantities(self, amounts: FloatArray, vectors: FloatArray, best_scores: FloatArray) -> FloatArray:
        """Return the quantities (n, Q) of n people, in the order of QUANTITIES.  Shapes: as in `of`.

        They have three digits, so that rounding in graphs moves nobody from one bin to another where all
        are alike.
        """
        along = (_unit(vectors) - self.centre) @ self.axes.T  # (n, AXES)
        lengths = np.linalg.norm(vectors, axis=1)
        return _rounded(np.column_stack([amounts, lengths, along, best_scores]))

    def save(self, directory: Path) -> None:
        """Write the reference of a model into its directory."""
        content = {
            "centre": self.centre.tolist(),
            "axes": self.axes.tolist(),
            "distributions": {
                name: {"edges": one.edges, "shares": one.shares} for name, one in self.distributions.items()
            },
        }
        (directory / DRIFT_FILE).write_text(json.dumps(content), "utf-8")

    @classmethod
    def load(cls, directory: Path) -> "DriftReference | None":
        """Read the reference of a model; None for one that was trained before there were any."""
        try:
            content = json.loads((directory / DRIFT_FILE).read_text("utf-8"))
        except FileNotFoundError:
            return None
        return cls(
            np.array(content["centre"], dtype=np.float32),
            np.array(content["axes"], dtype=np.float32),
            {
                name: Distribution(tuple(one["edges"]), tuple(one["shares"]))
                for name, one in content["distributions"].items()
            },
        )


def _unit(vectors: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: FloatArray = (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    return unit


def _rounded(values: npt.NDArray[np.floating]) -> FloatArray:
    """Return values of any shape with three significant digits."""
    magnitude = np.floor(np.log10(np.maximum(np.abs(values), np.float64(1e-30))))
    unit = 10.0 ** (magnitude - 2)
    rounded: FloatArray = (np.round(values / unit) * unit).astype(np.float32)
    return rounded


def _with_rows(rows: FloatArray, count: int) -> FloatArray:
    """Return rows (r, D), r <= count, with zero rows behind them: (count, D)."""
    return np.concatenate([rows, np.zeros((count - len(rows), rows.shape[1]), dtype=rows.dtype)])
