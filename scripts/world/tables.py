"""The four tables of the sample world, drawn from tastes."""

import json

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evaluation.split import mark
from scripts.world import sentences as world_text
from scripts.world.details import Details

CHINESE = 0.06  # share of items, and of users, whose texts are Chinese
_HOURS = 2 * 365 * 24

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def items(generator: np.random.Generator, facet: Ints, more: Details | None = None) -> pa.Table:
    """Return the items, each about its facet, with the details of a rich world."""
    kind = generator.choice(["article", "product", "video"], size=len(facet), p=[0.5, 0.25, 0.25]).tolist()
    year = generator.integers(2012, 2027, size=len(facet)).tolist()
    chinese = (generator.random(len(facet)) < CHINESE).tolist()
    draws = generator.integers(1 << 30, size=(len(facet), 6)).tolist()
    topics = world_text.topics()
    about = [topics[f // 5] for f in facet.tolist()]
    titles_and_texts = [
        world_text.chinese_item(about[n], f % 5, kind[n], n, draws[n])
        if chinese[n]
        else world_text.english_item(about[n], f % 5, kind[n], draws[n])
        for n, f in enumerate(facet.tolist())
    ]
    attributes = [json.dumps({"topic": t.name, "year": y}) for t, y in zip(about, year, strict=True)]
    return pa.table(
        {
            "item_id": [_item_id(topic, n) for n, topic in enumerate(about)],
            "title": [title for title, _ in titles_and_texts],
            "text": [text for _, text in titles_and_texts],
            "kind": kind,
            "attributes": attributes if more is None else more.attributes(attributes),
        }
        | ({} if more is None else {"vector": more.vectors()})
    )


def behaviors(
    generator: np.random.Generator,
    taste: Floats,
    facet: Ints,
    has: NDArray[np.bool_],
    more: Details | None = None,
) -> pa.Table:
    """Return 6 to 60 events of each user who `has` them, drawn by taste × popularity, with held-out marks.

    Items are drawn without replacement: those with the largest log-probability plus Gumbel noise.
    """
    n_items = len(facet)
    popularity = (generator.permutation(n_items) + 5.0) ** -0.8
    chance = (taste[:, facet] + 0.0005) * popularity  # (U, N)
    if more is not None:
        chance = chance * more.suits
    order = np.argsort(-np.log(chance) - generator.gumbel(size=chance.shape), axis=1)
    count = generator.lognormal(np.log(18), 0.5, size=len(taste)).clip(6, min(60, n_items // 5)).astype(int)
    user, rank = np.nonzero((np.arange(n_items) < count[:, None]) & has[:, None])
    item = order[user, rank]
    ts = times(generator, len(user))
    split = np.array(["train", "valid", "test"])[mark("time", user, item, ts, seed=0)]
    action = generator.choice(["view", "like", "share"], size=len(user), p=[0.75, 0.2, 0.05])
    topics = world_text.topics()
    return pa.table(
        {
            "user_id": [user_id(u) for u in user.tolist()],
            "item_id": [_item_id(topics[facet[i] // 5], i) for i in item.tolist()],
            "action": action.tolist(),
            "weight": pa.array(np.ones(len(user))),
            "ts": pa.array(ts),
            "split": split.tolist(),
        }
    )


def texts(
    generator: np.random.Generator, taste: Floats, chinese: NDArray[np.bool_], has: NDArray[np.bool_]
) -> pa.Table:
    """Return one to four posts of each user who `has` them, about facets drawn by taste."""
    topics = world_text.topics()
    count = generator.choice([1, 2, 3, 4], size=len(taste), p=[0.3, 0.3, 0.25, 0.15]) * has
    user = np.repeat(np.arange(len(taste)), count)
    reached = taste.cumsum(axis=1)[user]  # (texts, 60): a facet is drawn with its share of the taste
    about = np.minimum((reached < generator.random((len(user), 1))).sum(axis=1), 59)
    draws = generator.integers(1 << 30, size=(len(user), 6)).tolist()
    texts = [
        (world_text.chinese_post if chinese[u] else world_text.english_post)(topics[f // 5], f % 5, draw)
        for u, f, draw in zip(user.tolist(), about.tolist(), draws, strict=True)
    ]
    return pa.table(
        {
            "user_id": [user_id(u) for u in user.tolist()],
            "item_id": pa.nulls(len(user), pa.string()),
            "text": texts,
            "ts": pa.array(times(generator, len(user))),
        }
    )


def social(generator: np.random.Generator, taste: Floats, has: NDArray[np.bool_]) -> pa.Table:
    """Return about eight friends of each user who `has` them, most of the same favourite facet or topic."""
    facet = taste.argmax(axis=1)
    member = np.flatnonzero(has)[np.argsort(facet[has], kind="stable")]  # users of one facet stand together
    place = np.arange(len(member))
    drawn = []
    for nearness in (1, 1, 5, 60):  # the same facet twice, the same topic once, anyone once
        block = facet[member] // nearness
        first, end = np.searchsorted(block, block, "left"), np.searchsorted(block, block, "right")
        ahead = 1 + np.floor(generator.random(len(member)) * (end - first - 1)).astype(
            np.int64
        )  # not oneself
        other = first + (place - first + ahead) % (end - first)
        drawn.append(np.sort(np.stack([member, member[other]], axis=1), axis=1))
    pairs = np.unique(np.concatenate(drawn), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]  # somebody alone in a block meets only themselves
    unit = taste / np.linalg.norm(taste, axis=1, keepdims=True)
    alike = (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(axis=1)
    rows = np.concatenate([pairs, pairs[:, ::-1]])
    return pa.table(
        {
            "user_id": [user_id(u) for u in rows[:, 0].tolist()],
            "friend_id": [user_id(u) for u in rows[:, 1].tolist()],
            "relation": ["friend"] * len(rows),
            "weight": pa.array(np.tile(np.round(1 + 4 * alike, 2), 2)),
            "ts": pa.array(np.tile(times(generator, len(pairs)), 2)),
        }
    )


def user_id(number: int) -> str:
    """Return the id of a user."""
    return f"u{number:05d}"


def _item_id(topic: world_text.Topic, number: int) -> str:
    return f"{topic.name}-{number:04d}"


def times(generator: np.random.Generator, count: int) -> NDArray[np.datetime64]:
    """Return full hours of two years, so that some users meet the same item at the same time."""
    return np.datetime64("2024-07-01", "us") + generator.integers(_HOURS, size=count).astype("timedelta64[h]")
