"""What was shown to people, as examples of clicks, and which lists of it are held out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from encoder.arrays import IntArray
from encoder.dataset import Dataset, rows_of
from encoder.heads.examples import TRAIN, UNKNOWN, Examples, masked, pair_codes
from store.export import Export

SPLITS = (TRAIN, "valid", "test")  # in this order the later one wins
_HASHES = 2.0**64


@dataclass(frozen=True)
class ShownLists:
    """ShownLists as parallel arrays, in the order of the export.

    Shapes:
        users, items: (n,) int64 rows of the data set's users and items.
        clicked: (n,) bool. positions: (n,) int64 in the list, from 0, UNKNOWN where there is none.
        lists: (n,) int64, the list that was shown, in 0..L−1.
        draws: (L,) float64 in 0..1, a number that depends on nothing but the identity of the list.
    """

    users: IntArray
    items: IntArray
    clicked: npt.NDArray[np.bool_]
    positions: IntArray
    lists: IntArray
    draws: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def of(cls, table: pa.Table, users: pa.StringArray, items: pa.StringArray) -> "ShownLists":
        """Make the arrays of a table with the columns of `impressions`; unknown users and items are left out.

        A list is what one query_id brought; where that is empty, what one user was shown at one time.
        """
        owners, shown = rows_of(table.column("user_id"), users), rows_of(table.column("item_id"), items)
        known = (owners >= 0) & (shown >= 0)
        table = table.filter(pa.array(known))
        row_of: dict[bytes, int] = {}
        lists = [row_of.setdefault(key, len(row_of)) for key in _list_keys(table)]
        draws = np.array([xxhash.xxh3_64_intdigest(key) / _HASHES for key in row_of], dtype=np.float64)
        return cls(
            owners[known],
            shown[known],
            np.asarray(table.column("clicked").fill_null(False), dtype=bool),
            np.asarray(table.column("position").fill_null(UNKNOWN), dtype=np.int64),
            np.array(lists, dtype=np.int64),
            draws,
        )

    def where(self, keep: npt.NDArray[np.bool_]) -> "ShownLists":
        """Return the impressions for which `keep` (n,) is true; lists keep their numbers."""
        pairs = self.users[keep], self.items[keep]
        return ShownLists(*pairs, self.clicked[keep], self.positions[keep], self.lists[keep], self.draws)


def read_impressions(export: Export, data: Dataset) -> ShownLists | None:
    """Read the impressions of an export; None where it has none."""
    table = export.all_impressions()
    found = ShownLists.of(table, data.users, data.items) if len(table) else None
    return found if found is not None and len(found) else None


def split_of_lists(shown: ShownLists, data: Dataset) -> IntArray:
    """Return the split of each list (L,), a position in SPLITS.

    A list with a click whose pair is held out is of that split, so that what is held out stays so. A list
    whose clicks are in the history is of train. Every other list, most without a click, is drawn by its
    identity, with the shares that give each split the same base rate.
    """
    n_items = data.shape[1]
    codes = pair_codes(shown.users, shown.items, n_items)
    split = np.full(len(shown.draws), -1, dtype=np.int64)
    for place, name in enumerate(SPLITS):
        rows = data.history if name == TRAIN else data.held_out.get(name)
        if rows is not None:
            own = shown.clicked & np.isin(codes, pair_codes(rows.users, rows.items, n_items))
            split[shown.lists[own]] = place
    if (split < 0).all():
        return np.zeros_like(split)
    ends = np.cumsum(_shares_of_other_lists(shown, split, _left_out(shown, split, data)))[:-1]
    return np.where(split >= 0, split, np.searchsorted(ends, shown.draws, side="right"))


def _left_out(shown: ShownLists, split: IntArray, data: Dataset) -> npt.NDArray[np.bool_]:
    """Return which impressions (n,) of lists of valid and test are no examples: the vector knows the pair."""
    codes, left_out = pair_codes(shown.users, shown.items, data.shape[1]), np.zeros(len(shown), dtype=bool)
    for place, name in enumerate(SPLITS[1:], start=1):
        left_out |= (split[shown.lists] == place) & np.isin(codes, masked(data, name))
    return left_out


def _shares_of_other_lists(
    shown: ShownLists, split: IntArray, left_out: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return the shares (3,) of the lists without a split yet that each split needs for the same base rate.

    With c clicks among n examples of the lists that it has, a split needs x more, of which r are clicked, so
    that (c + r x) / (n + x) is the rate R of all: x = (c − R n) / (R − r), none where that is negative.
    """
    place = split[shown.lists]
    of_split = [(place == number) & ~left_out for number in range(len(SPLITS))]
    n = np.array([rows.sum() for rows in of_split], dtype=np.float64)
    c = np.array([shown.clicked[rows].sum() for rows in of_split], dtype=np.float64)
    others = shown.clicked[place < 0]
    rate = (c.sum() + others.sum()) / (n.sum() + len(others))
    of_others = float(others.mean()) if len(others) else 0.0
    needed = np.maximum((c - rate * n) / (rate - of_others), 0.0) if rate > of_others else n
    return np.asarray(needed / needed.sum() if needed.sum() > 0 else n / n.sum())


def click_examples(shown: ShownLists, data: Dataset, split: str) -> Examples:
    """Make an example of each impression in the lists of a split; its unit is its list.

    Of valid and test, pairs that are masked in the rows are left out, clicked or not: the user's vector knows
    them.
    """
    splits = split_of_lists(shown, data)
    of_split = splits[shown.lists] == SPLITS.index(split)
    some = shown.where(of_split & ~_left_out(shown, splits, data))
    labels = some.clicked.astype(np.float64)
    return Examples(some.users, some.items, labels, np.ones(len(some)), some.lists, some.positions)


def _list_keys(table: pa.Table) -> Iterator[bytes]:
    """Yield what identifies the list of each row: the user with the query_id, or else with the time."""
    times = table.column("ts").cast(pa.timestamp("us")).cast(pa.int64()).to_pylist()
    columns = (table.column(name).to_pylist() for name in ("user_id", "query_id"))
    for user, query, ts in zip(*columns, times, strict=True):
        yield f"{user}\0{'q' + query if query else f't{ts}'}".encode()
