"""Behaviours and texts of an export as parallel arrays."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

_Scalar = TypeVar("_Scalar", bound=np.generic)

NO_TIME = int(np.iinfo(np.int64).min)


@dataclass(frozen=True)
class Actions:
    """The action of each row, as a code into the different names: 4 bytes a row.

    Shapes:
        codes: (n,) int32 positions in `names`.
    """

    codes: npt.NDArray[np.int32]
    names: tuple[str, ...]

    @classmethod
    def of(cls, actions: Iterable[str]) -> Self:
        """Code the action names of rows."""
        code_of: dict[str, int] = {}
        codes = [code_of.setdefault(str(action), len(code_of)) for action in actions]
        return cls(np.array(codes, dtype=np.int32), tuple(code_of))

    def where(self, keep: npt.NDArray[np.bool_]) -> "Actions":
        """Return the actions of the rows for which `keep` (n,) is true."""
        return Actions(self.codes[keep], self.names)

    @property
    def used(self) -> frozenset[str]:
        """The names that occur in some row."""
        return frozenset(self.names[code] for code in np.unique(self.codes))

    def among(self, names: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Return which rows have one of the given names (n,) bool."""
        wanted = frozenset(names)
        return self._by_name([name in wanted for name in self.names], np.bool_)

    def weights(self, of_name: Mapping[str, float]) -> npt.NDArray[np.float64]:
        """Return a weight for each row (n,) float64; 1 for a name that is not given."""
        return self._by_name([of_name.get(name, 1.0) for name in self.names], np.float64)

    def _by_name(self, values: list[Any], kind: type[_Scalar]) -> npt.NDArray[_Scalar]:
        """Spread one value per name to the rows (n,)."""
        by_row: npt.NDArray[_Scalar] = np.array(values, dtype=kind)[self.codes]
        return by_row


@dataclass(frozen=True)
class Events:
    """Behaviour rows as parallel arrays.

    Ids stay int64 although rows fit in less: users × items, the key of a pair, would overflow silently.

    Shapes:
        users, items: (n,) int64 rows of the data set's users and items.
        weights: (n,) float64; ts: (n,) int64 microseconds since 1970, NO_TIME where there is none.
    """

    users: IntArray
    items: IntArray
    actions: Actions
    weights: npt.NDArray[np.float64]
    ts: IntArray

    def where(self, keep: npt.NDArray[np.bool_]) -> "Events":
        """Return the rows for which `keep` (n,) is true."""
        return Events(
            self.users[keep], self.items[keep], self.actions.where(keep), self.weights[keep], self.ts[keep]
        )


@dataclass(frozen=True)
class TextColumns:
    """Encoded texts of users as parallel arrays.

    Shapes:
        users: (m,) int64 rows of the authors.
        items: (m,) int64 rows of the items that the texts name, −1 where none.
        ts: (m,) int64 microseconds, NO_TIME where there is none.
        vectors: (m, D_T) float32 unit rows; of a data set from an export, a memory-mapped file.
    """

    users: IntArray
    items: IntArray
    ts: IntArray
    vectors: npt.NDArray[np.float32]

    def where(self, keep: npt.NDArray[np.bool_]) -> "TextColumns":
        """Return the texts for which `keep` (m,) is true; the object itself where that is all."""
        if keep.all():
            return self
        return TextColumns(self.users[keep], self.items[keep], self.ts[keep], self.vectors[keep])
