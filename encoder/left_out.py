"""Users and items that training never sees, so that `evaluate` can report on unseen ones."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from encoder.config import TowerConfig
from encoder.dataset import Dataset, rows_of

USERS_FILE = "left_out_users.parquet"
ITEMS_FILE = "left_out_items.parquet"
_FILES = (USERS_FILE, "user_id"), (ITEMS_FILE, "item_id")


class LeftOutShareError(ValueError):
    """A share of users or items to leave out leaves out none, or all that there is to learn from."""

    def __init__(self, what: str, share: float, left_out: int, total: int, trouble: str) -> None:
        super().__init__(
            f"a share of {share:g} of the {what} to hold out is {left_out} of {total} here, and {trouble}: "
            "take another share, or another seed"
        )
        self.share = share


@dataclass(frozen=True)
class LeftOutShares:
    """Shares, 0 to 1, of the users and of the items to leave out, drawn by a seed."""

    users: float = 0.0
    items: float = 0.0
    seed: int = 0

    def __bool__(self) -> bool:
        return bool(self.users or self.items)

    def user_rows(self, users: int) -> npt.NDArray[np.bool_]:
        """Draw which of the users, sorted by id, are left out: (users,) bool."""
        return _draw(users, self.users, [self.seed])

    def draw(self, data: Dataset) -> "LeftOut":
        """Draw who and what of a data set is left out."""
        users, items = data.shape
        return LeftOut(self.user_rows(users), _draw(items, self.items, [self.seed, 1]))

    def check(self, data: Dataset, left_out: "LeftOut", config: TowerConfig) -> None:
        """Check that each share leaves out something, and that something is left to learn from.

        Args:
            data: with all rows.
            left_out: what was drawn.
            config: how events are weighted.

        Raises:
            LeftOutShareError: a share is too small or too large for this data.
        """
        facts = (
            ("users", self.users, left_out.users, "nobody would be unseen"),
            ("items", self.items, left_out.items, "none would be new"),
        )
        for what, share, rows, trouble in facts:
            if share and not rows.any():
                raise LeftOutShareError(what, share, 0, len(rows), trouble)
        if self and not left_out.apart_from(data).events(config).nnz:
            what, share, rows, _ = facts[0] if self.users else facts[1]
            trouble = "nobody who did anything is left to learn from"
            raise LeftOutShareError(what, share, int(rows.sum()), len(rows), trouble)


@dataclass(frozen=True)
class LeftOut:
    """The users (U,) and items (N,) of a data set that training never sees, as bool."""

    users: npt.NDArray[np.bool_]
    items: npt.NDArray[np.bool_]

    def apart_from(self, data: Dataset) -> Dataset:
        """Return the data without any row of them; row numbers stay."""
        return data.without_users(self.users).without_items(self.items)

    def save(self, data: Dataset, directory: Path) -> None:
        """Write their ids into the directory of a model that is being built."""
        for (file, column), ids, rows in zip(
            _FILES, (data.users, data.items), (self.users, self.items), strict=True
        ):
            pq.write_table(pa.table({column: ids.filter(pa.array(rows))}), directory / file)


@dataclass(frozen=True)
class LeftOutIds:
    """Ids of the users and items that the training of a model never saw."""

    users: pa.StringArray
    items: pa.StringArray

    @classmethod
    def load(cls, directory: Path) -> "LeftOutIds":
        """Read them from a model's directory; models of earlier versions leave out no items."""
        return cls(*(_read(directory / file, column) for file, column in _FILES))

    def rows(self, data: Dataset) -> LeftOut:
        """Find them in a data set."""
        found = [
            np.isin(np.arange(len(known)), rows_of(ids, known))
            for ids, known in ((self.users, data.users), (self.items, data.items))
        ]
        return LeftOut(*found)


def _draw(count: int, share: float, seed: list[int]) -> npt.NDArray[np.bool_]:
    if not share:
        return np.zeros(count, dtype=bool)
    return np.random.default_rng(seed[0] if len(seed) == 1 else seed).random(count) < share


def _read(path: Path, column: str) -> pa.StringArray:
    if not path.exists():
        return pa.array([], pa.string())
    return pq.read_table(path).column(column).combine_chunks()
