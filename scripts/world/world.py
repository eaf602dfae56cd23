"""A sample world to try everything on: users with tastes, what they did and wrote, and their friends."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from scripts.world import tables as world_tables
from scripts.world.details import details
from scripts.world.impressions import show

MIN_USERS = 200
MIN_ITEMS = 150

_FACET_SHARES = (0.65, 0.2, 0.05, 0.05, 0.05)  # of a taste for a topic, from the favourite facet down
_SINGLE_VIEW = 0.05  # share of users with text only; as many with friends only, and with behaviour only
_ALL_VIEWS, _TEXT_ONLY, _FRIENDS_ONLY, _BEHAVIOUR_ONLY = range(4)


class WorldSizeError(ValueError):
    """A world of that size would have topics that nobody likes or nothing is about."""

    def __init__(self, users: int, items: int) -> None:
        super().__init__(
            f"a world of {users} users and {items} items is too small: at least {MIN_USERS} and {MIN_ITEMS}"
        )


@dataclass(frozen=True)
class WorldSummary:
    """What a world holds, and the ids of four users to show it with."""

    users: int
    items: int
    behaviors: int
    texts: int
    friendships: int  # rows; each friendship has two
    all_views: str
    text_only: str
    friends_only: str
    unknown: str  # in no table


def make_world(
    folder: Path,
    *,
    users: int = 2000,
    items: int = 1500,
    seed: int = 7,
    rich: bool = False,
    impressions: bool = False,
) -> WorldSummary:
    """Write items, behaviors, texts and social.parquet to a folder and return what they hold.

    With `impressions` also impressions.parquet, and the clicks on them as behaviours of the same time.

    The same arguments give the same rows; existing files are replaced. Each user likes one to three of
    twelve topics, and some facets of them most; behaviour follows taste × popularity (Zipf), texts are about
    the taste, friends mostly share it. The last tenth of each user's behaviour is test, the tenth before it
    valid. Takes about 40 bytes of memory × users × items. A rich world has prices, makers, moods and
    pictures, too, which no text names and behaviour follows.

    Raises:
        WorldSizeError: fewer than MIN_USERS users or MIN_ITEMS items.
    """
    if users < MIN_USERS or items < MIN_ITEMS:
        raise WorldSizeError(users, items)
    generator = np.random.default_rng(seed)
    facet = _item_facets(items)
    taste = _tastes(generator, users)
    view = np.zeros(users, dtype=np.int64)
    single = generator.permutation(users)[: 3 * int(_SINGLE_VIEW * users)]
    view[single] = np.repeat([_TEXT_ONLY, _FRIENDS_ONLY, _BEHAVIOUR_ONLY], len(single) // 3)
    chinese = generator.random(users) < world_tables.CHINESE
    more = details(users, items, seed) if rich else None
    tables = {
        "items": world_tables.items(generator, facet, more),
        "behaviors": world_tables.behaviors(
            generator, taste, facet, np.isin(view, [_ALL_VIEWS, _BEHAVIOUR_ONLY]), more
        ),
        "texts": world_tables.texts(generator, taste, chinese, np.isin(view, [_ALL_VIEWS, _TEXT_ONLY])),
        "social": world_tables.social(generator, taste, np.isin(view, [_ALL_VIEWS, _FRIENDS_ONLY])),
    }
    if impressions:
        ids = tables["items"].column("item_id").to_pylist()
        tables["impressions"], tables["behaviors"] = show(
            np.random.default_rng([seed, 1]), taste, facet, ids, tables["behaviors"]
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    rows = {name: table.num_rows for name, table in tables.items()}
    focus = np.where(chinese, 0, taste.max(axis=1))  # a narrow taste shows best
    shown = [world_tables.user_id(int(np.where(view == kind, focus, -1).argmax())) for kind in range(3)]
    return WorldSummary(
        users,
        items,
        behaviors=rows["behaviors"],
        texts=rows["texts"],
        friendships=rows["social"],
        all_views=shown[_ALL_VIEWS],
        text_only=shown[_TEXT_ONLY],
        friends_only=shown[_FRIENDS_ONLY],
        unknown="u-nobody",
    )


def _item_facets(items: int) -> NDArray[np.int64]:
    """Return the facet of each item, (N,) in 0..59; facet f is number f % 5 of topic f // 5."""
    number = np.arange(items)
    return number % 12 * 5 + number // 12 % 5


def _tastes(generator: np.random.Generator, users: int) -> NDArray[np.float64]:
    """Return the share of each facet in the taste of each user, (U, 60), rows sum to 1."""
    liked = generator.permuted(np.tile(np.arange(12), (users, 1)), axis=1)[:, :3]  # (U, 3) topics
    how_many = generator.choice([1, 2, 3], size=(users, 1), p=[0.35, 0.45, 0.2])
    weight = generator.gamma(2.0, size=(users, 3)) * (np.arange(3) < how_many)
    weight /= weight.sum(axis=1, keepdims=True)
    facet = generator.permuted(np.tile(np.arange(5), (users, 3, 1)), axis=2)  # (U, 3, 5) favourites first
    taste = np.zeros((users, 60))
    who = np.arange(users)[:, None, None]
    taste[who, liked[:, :, None] * 5 + facet] = weight[:, :, None] * np.array(_FACET_SHARES)
    return taste
