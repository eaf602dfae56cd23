"""What the sample world showed to its people: lists of items, and clicks on them by interest and by place."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evaluation.split import mark
from scripts.world import tables as world_tables

LISTS, LENGTH = 8, 10  # lists of each user, and items of each
_BY_TASTE = 0.6  # share of the shown items that are drawn by taste × popularity; the others by popularity
_MOST, _LEAST = 0.6, 0.04  # chance of a click in the first place, of the keenest and of no interest
_KEEN = 0.3  # share of a facet in a taste from which on the interest grows no more

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def show(
    generator: np.random.Generator, taste: Floats, facet: Ints, item_ids: list[str], behaviors: pa.Table
) -> tuple[pa.Table, pa.Table]:
    """Return the impressions of every user with behaviour, and the behaviours with their clicks among them.

    A user is shown LISTS lists of LENGTH items that are in none of the user's behaviours, each item once. A
    click has the chance interest × the chance that its place is looked at, 1 / √(place from 1), and becomes a
    `view` of the same time. Held-out rows are marked anew, over all behaviours.

    Args:
        generator: of every draw.
        taste: (U, F) share of each facet in a user's taste.
        facet: (N,) of each item.
        item_ids: of the items.
        behaviors: as `tables.behaviors` makes them.
    """
    row_of = {item_id: row for row, item_id in enumerate(item_ids)}
    user = np.array([int(one[1:]) for one in behaviors.column("user_id").to_pylist()])
    item = np.array([row_of[one] for one in behaviors.column("item_id").to_pylist()])
    people = np.unique(user)
    known = np.zeros((len(taste), len(facet)), dtype=bool)
    known[user, item] = True
    popularity = (np.bincount(item, minlength=len(facet)) + 1.0) ** 0.5
    by_taste = (taste[people][:, facet] + 0.0005) * popularity
    chance = _BY_TASTE * by_taste / by_taste.sum(axis=1, keepdims=True)
    chance += (1 - _BY_TASTE) * popularity / popularity.sum()
    chance[known[people]] = 0
    with np.errstate(divide="ignore"):
        drawn = np.argsort(-np.log(chance) - generator.gumbel(size=chance.shape), axis=1)
    drawn = drawn[:, : LISTS * LENGTH]  # (P, 80) without replacement
    drawn = generator.permuted(drawn, axis=1)  # in no order, so that places say nothing of interest
    interest = np.minimum(taste[people[:, None], facet[drawn]] / _KEEN, 1.0)
    place = np.tile(np.arange(LENGTH), LISTS)
    p = (_LEAST + (_MOST - _LEAST) * interest) / np.sqrt(place + 1.0)
    clicked = generator.random(p.shape) < p
    ts = np.repeat(world_tables.times(generator, len(people) * LISTS), LENGTH).reshape(clicked.shape)
    owner = np.broadcast_to(people[:, None], clicked.shape)
    list_number = np.tile(np.repeat(np.arange(LISTS), LENGTH), len(people))
    ids = [world_tables.user_id(one) for one in owner.ravel().tolist()]
    impressions = pa.table(
        {
            "user_id": ids,
            "item_id": [item_ids[row] for row in drawn.ravel().tolist()],
            "ts": pa.array(ts.ravel()),
            "position": pa.array(np.tile(place, len(people)), pa.int32()),
            "query_id": [f"{one}-q{number}" for one, number in zip(ids, list_number.tolist(), strict=True)],
            "clicked": pa.array(clicked.ravel()),
        }
    )
    return impressions, _with_clicks(behaviors, impressions.filter(pa.array(clicked.ravel())), row_of)


def _with_clicks(behaviors: pa.Table, clicks: pa.Table, row_of: dict[str, int]) -> pa.Table:
    """Append clicks to behaviours, and mark held-out rows as `tables.behaviors` does."""
    n = len(clicks)
    columns = {name: clicks.column(name) for name in ("user_id", "item_id", "ts")}
    more = pa.table(columns | {"action": ["view"] * n, "weight": [1.0] * n, "split": [""] * n})
    every = pa.concat_tables([behaviors, more.select(behaviors.column_names)])
    user = np.array([int(one[1:]) for one in every.column("user_id").to_pylist()])
    item = np.array([row_of[one] for one in every.column("item_id").to_pylist()])
    ts = np.asarray(every.column("ts").to_numpy())
    split = np.array(["train", "valid", "test"])[mark("time", user, item, ts, seed=0)]
    return every.set_column(every.column_names.index("split"), "split", pa.array(split.tolist()))
