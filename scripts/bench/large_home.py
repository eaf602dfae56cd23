"""A home of up to millions of items, whose people have events, texts and friends, with a quick training."""

import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from scripts.bench.small_home import run, train_small
from scripts.world import MIN_ITEMS, MIN_USERS
from scripts.world.sentences import english_post, topics
from store.home import Home

log = logging.getLogger(__name__)

SIZES_FILE = "large-home.json"  # beside the home; written when it is whole
_CLUSTERS = 100  # of items that the same people like; fewer than dimensions, so a model can tell them apart
_CLUSTER = 10  # items of one, at least
_INTERESTS = (0.6, 0.3, 0.1)  # share of each cluster in the events of a person
_STRAY = 0.1  # of the events fall on any cluster
_EVENTS = 30  # of a person, median
_MOST_EVENTS, _MOST_FRIENDS, _MOST_TEXTS = 300, 40, 4
_FRIENDS = 12  # of a person who has any, mean
_HAVE = {"events": 0.97, "friends": 0.8, "texts": 0.6}  # shares of the people
_POSTS = 20  # different texts about a facet
_NEAR = 200  # friends stand so far apart, at most, where people are sorted by their interest
_HOURS = 2 * 365 * 24
_CHUNK = 1_000_000  # items whose rows are made at once

Ints = NDArray[np.int64]


class HomeSizeError(ValueError):
    """A home is too small for a benchmark, or a folder holds one of other sizes."""


@dataclass(frozen=True)
class HomeSizes:
    """What a home for benchmarks is made of; the same sizes give the same rows.

    Items come in a hundred clusters, few of each popular; a person likes three clusters, has 30 events (3 to
    300), up to 40 friends with the same interest and up to four texts of a pool that is small enough to
    encode. Everything but the ids is drawn by the seed, and each item has at least one event.

    Attributes:
        items: how many; each has the attributes `tenth` (0 to 9, evenly and without order) and `near` (0 to
            9, the same for all items of a cluster), for filters that let a tenth pass.
        users: how many people.
        dim: embedding dim.
        seed: of everything.
    """

    items: int = 100_000
    users: int = 50_000
    dim: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.items < MIN_ITEMS or self.users < MIN_USERS:
            raise HomeSizeError(
                f"{self.items} items and {self.users} users are too few: take {MIN_ITEMS} and {MIN_USERS}"
            )


def large_home(folder: Path, sizes: HomeSizes) -> Home:
    """Return the home of these sizes in a folder, made where it is not there yet.

    Its model is a closed form with fixed settings, and the index is what `auto` picks.

    Raises:
        HomeSizeError: the folder holds a home of other sizes, or something else.
        CommandFailedError: a command failed.
    """
    home, told = Home(folder / "home"), folder / SIZES_FILE
    if told.exists():
        found = json.loads(told.read_text("utf-8"))
        if found != asdict(sizes):
            raise HomeSizeError(f"{folder} holds a home of {found}, not of {asdict(sizes)}")
        return home
    if folder.exists() and any(folder.iterdir()):
        raise HomeSizeError(f"{folder} holds no whole home for benchmarks, but is not empty: name another")
    began = time.monotonic()
    data = folder / "data"
    write_tables(data, sizes)
    log.info("large home: rows of %d items and %d users drawn", sizes.items, sizes.users)
    run("import", str(data), "--home", str(home.path))
    shutil.rmtree(data)
    log.info("large home: imported after %.0f s", time.monotonic() - began)
    train_small(home, folder, sizes.dim)
    log.info("large home: trained after %.0f s", time.monotonic() - began)
    run("reindex", "--home", str(home.path))
    told.write_text(json.dumps(asdict(sizes)), "utf-8")
    log.info("large home: %s is ready after %.0f s", home.path, time.monotonic() - began)
    return home


def write_tables(folder: Path, sizes: HomeSizes) -> None:
    """Write items, behaviors, texts and social as Parquet files into a new folder."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(sizes.seed)
    clusters = min(_CLUSTERS, sizes.items // _CLUSTER)
    interests = _skewed(generator, clusters, (sizes.users, len(_INTERESTS)), offset=20, power=0.7)
    with pq.ParquetWriter(folder / "items.parquet", _ITEMS) as writer:
        for rows in _items(generator, sizes.items, clusters):
            writer.write_table(rows)
    pq.write_table(_behaviors(generator, interests, sizes, clusters), folder / "behaviors.parquet")
    pq.write_table(_texts(generator, interests[:, 0]), folder / "texts.parquet")
    pq.write_table(_social(generator, interests[:, 0]), folder / "social.parquet")


_ITEMS = pa.schema({"item_id": pa.string(), "kind": pa.string(), "attributes": pa.string()})


def _items(generator: np.random.Generator, count: int, clusters: int) -> Iterator[pa.Table]:
    for start in range(0, count, _CHUNK):
        number = np.arange(start, min(start + _CHUNK, count))
        tenth = generator.integers(10, size=len(number)).tolist()
        near = (number % clusters * 10 // clusters).tolist()
        attributes = [f'{{"tenth": {t}, "near": {n}}}' for t, n in zip(tenth, near, strict=True)]
        kind = np.array(["article", "product", "video"])[generator.choice(3, len(number), p=[0.5, 0.4, 0.1])]
        yield pa.table(
            {"item_id": _ids("item-", number), "kind": kind.tolist(), "attributes": attributes}, _ITEMS
        )


def _behaviors(generator: np.random.Generator, interests: Ints, sizes: HomeSizes, clusters: int) -> pa.Table:
    """Return events of people with these interests (U, 3); each item has one."""
    counts = generator.lognormal(np.log(_EVENTS), 0.7, size=sizes.users).clip(3, _MOST_EVENTS).astype(int)
    counts[generator.random(sizes.users) > _HAVE["events"]] = 0
    user = np.repeat(np.arange(sizes.users), counts)
    which = generator.choice(len(_INTERESTS), size=len(user), p=_INTERESTS)
    cluster = interests[user, which]
    stray = generator.random(len(user)) < _STRAY
    cluster[stray] = generator.integers(clusters, size=int(stray.sum()))
    place = _skewed(generator, -(-sizes.items // clusters), (len(user),), offset=3, power=0.8)
    item = cluster + clusters * place  # item n is of cluster n % clusters
    there = item < sizes.items
    user, item = user[there], item[there]
    untouched = np.setdiff1d(np.arange(sizes.items), item)
    owners = generator.choice(np.flatnonzero(counts), size=len(untouched))
    pairs = np.unique(
        np.concatenate([user, owners]) * sizes.items + np.concatenate([item, untouched])
    )  # an item once
    user, item = np.divmod(pairs, sizes.items)
    return pa.table(
        {
            "user_id": _ids("u", user),
            "item_id": _ids("item-", item),
            "action": np.array(["view", "like", "share"])[
                generator.choice(3, len(user), p=[0.75, 0.2, 0.05])
            ].tolist(),
            "ts": pa.array(_times(generator, len(user))),
        }
    )


def _texts(generator: np.random.Generator, interest: Ints) -> pa.Table:
    """Return one to four texts of the people who have any, about a facet that their interest decides."""
    pool = [
        english_post(topic, facet, draw)
        for topic in topics()
        for facet in range(len(topic.facets))
        for draw in generator.integers(1 << 30, size=(_POSTS, 6)).tolist()
    ]
    count = generator.integers(1, _MOST_TEXTS + 1, size=len(interest))
    count[generator.random(len(interest)) > _HAVE["texts"]] = 0
    user = np.repeat(np.arange(len(interest)), count)
    chosen = interest[user] % (len(pool) // _POSTS) * _POSTS + generator.integers(_POSTS, size=len(user))
    return pa.table(
        {
            "user_id": _ids("u", user),
            "text": pa.array(pool).take(pa.array(chosen)),
            "ts": pa.array(_times(generator, len(user))),
        }
    )


def _social(generator: np.random.Generator, interest: Ints) -> pa.Table:
    """Return friends of the people who have any, most of them of the same interest."""
    count = generator.geometric(1 / _FRIENDS, size=len(interest)).clip(1, _MOST_FRIENDS)
    count[generator.random(len(interest)) > _HAVE["friends"]] = 0
    sorted_users = np.argsort(interest, kind="stable")
    place = np.repeat(np.arange(len(interest)), count[sorted_users])
    near = min(_NEAR, len(interest) - 1)
    friend = sorted_users[(place + generator.integers(1, near + 1, size=len(place))) % len(interest)]
    user, friend = np.divmod(np.unique(sorted_users[place] * len(interest) + friend), len(interest))
    return pa.table(
        {
            "user_id": _ids("u", user),
            "friend_id": _ids("u", friend),
            "weight": pa.array(np.round(generator.uniform(1, 5, size=len(user)), 2)),
            "ts": pa.array(_times(generator, len(user))),
        }
    )


def _skewed(
    generator: np.random.Generator, count: int, shape: tuple[int, ...], *, offset: float, power: float
) -> Ints:
    """Return numbers below `count`; number n is drawn in proportion to (n + offset)^-power."""
    reached = np.cumsum((np.arange(count) + offset) ** -power)
    drawn = np.searchsorted(reached, generator.random(shape) * reached[-1], side="right")
    numbers: Ints = np.minimum(drawn, count - 1)
    return numbers


def _ids(prefix: str, numbers: Ints) -> pa.Array:
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width=8, padding="0")
    return pc.binary_join_element_wise(prefix, digits, "")


def _times(generator: np.random.Generator, count: int) -> NDArray[np.datetime64]:
    return np.datetime64("2024-07-01", "us") + generator.integers(_HOURS, size=count).astype("timedelta64[h]")
