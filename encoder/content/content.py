"""The content of items as arrays: text, attributes, vector."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.arrays import IntArray
from encoder.content.attributes import AttributeEncoder, Described
from encoder.views import FloatArray, Matrix, unit_rows

PARTS = ("text", "attributes", "vector")


@dataclass(frozen=True)
class ItemContent:
    """What is known of N items; the row of a part that an item lacks is zero.

    Shapes:
        text: (N, D_T) float32, unit rows: the vector of title and text.
        attributes: (N, D_A) sparse float32, as `AttributeEncoder` makes them.
        vector: (N, D_X) float32, unit rows: what the user brought.
    """

    text: FloatArray
    attributes: Matrix
    vector: FloatArray

    def __len__(self) -> int:
        return len(self.text)

    @classmethod
    def of(
        cls, encoder: AttributeEncoder, text: FloatArray, described: Described, vector: FloatArray
    ) -> "ItemContent":
        """Make the content of N items.

        Args:
            encoder: of kind and attributes.
            text: (N, D_T) float32 unit rows.
            described: their kinds and attributes.
            vector: (N, D_X) float32 of any length; (N, 0) where no item has one.
        """
        return cls(text, encoder.encode(described), unit_rows(vector))

    @classmethod
    def of_texts(cls, text: FloatArray) -> "ItemContent":
        """Make the content of items that are nothing but a text (N, D_T)."""
        none = sparse.csr_array((len(text), 0), dtype=np.float32)
        return cls(text, none, np.zeros((len(text), 0), np.float32))

    @property
    def widths(self) -> tuple[int, int, int]:
        """D_T, D_A and D_X."""
        return self.text.shape[1], self.attributes.shape[1], self.vector.shape[1]

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """(N, 3) bool: which parts each item has."""
        named = np.diff(self.attributes.indptr) > 0
        return np.stack([self.text.any(axis=1), named, self.vector.any(axis=1)], axis=1)

    def take(self, rows: IntArray) -> "ItemContent":
        """Return the content of the items `rows` (n,)."""
        return ItemContent(self.text[rows], self.attributes[rows], self.vector[rows])

    def dense(self) -> FloatArray:
        """Return the parts side by side, (N, D_T + D_A + D_X) float32."""
        return np.concatenate([self.text, self.attributes.toarray(), self.vector], axis=1).astype(
            np.float32, copy=False
        )

    def only(self, parts: Sequence[str], among: npt.NDArray[np.bool_] | None = None) -> "ItemContent":
        """Return the content without the other parts, of the items `among` (N,) or of all."""
        gone = np.ones(len(self), dtype=bool) if among is None else among
        keep = (~gone).astype(np.float32)
        shown = {
            "text": self.text * keep[:, None],
            "attributes": sparse.csr_array(sparse.diags_array(keep) @ self.attributes),
            "vector": self.vector * keep[:, None],
        }
        shown["attributes"].eliminate_zeros()
        return replace(self, **{name: value for name, value in shown.items() if name not in parts})


def patterns_of(present: npt.NDArray[np.bool_]) -> IntArray:
    """Return which combination of parts each item (n, 3) has, as a number: 1 text + 2 attributes + 4 vector."""
    return np.asarray(present @ np.array([1, 2, 4]), dtype=np.int64)


def combinations_of(parts: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the combinations that figures are given for: the first part, then one more each time."""
    return [tuple(parts[: n + 1]) for n in range(len(parts))]


def subsets_of(parts: Sequence[str]) -> list[tuple[str, ...]]:
    """Return every combination of some parts, none left out but the empty one."""
    return [chosen for n in range(1, len(parts) + 1) for chosen in combinations(parts, n)]
