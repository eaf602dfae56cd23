"""Rows of an export as parallel arrays: what people did and what they wrote."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

NO_TIME = int(np.iinfo(np.int64).min)


@dataclass(frozen=True)
class Events:
    """Behaviour rows as parallel arrays.

    Shapes:
        users, items: (n,) int64 rows of the data set's users and items.
        actions: (n,) str; weights: (n,) float64; ts: (n,) int64 microseconds, NO_TIME where there is none.
    """

    users: IntArray
    items: IntArray
    actions: npt.NDArray[np.str_]
    weights: npt.NDArray[np.float64]
    ts: IntArray

    def where(self, keep: npt.NDArray[np.bool_]) -> "Events":
        """Return the rows for which `keep` is true."""
        return Events(
            self.users[keep], self.items[keep], self.actions[keep], self.weights[keep], self.ts[keep]
        )


@dataclass(frozen=True)
class Texts:
    """Encoded texts of users as parallel arrays.

    Shapes:
        users: (m,) int64 rows of the authors.
        items: (m,) int64 rows of the items that the texts name, −1 where none.
        ts: (m,) int64 microseconds, NO_TIME where there is none.
        vectors: (m, D_T) float32 unit rows.
    """

    users: IntArray
    items: IntArray
    ts: IntArray
    vectors: npt.NDArray[np.float32]

    def where(self, keep: npt.NDArray[np.bool_]) -> "Texts":
        """Return the texts for which `keep` is true."""
        return Texts(self.users[keep], self.items[keep], self.ts[keep], self.vectors[keep])
