"""The sample world: its layout, its laws, and that each view helps to find what people do next."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy import sparse

from evaluation.baselines.ease import Popularity, choose_ease
from evaluation.bootstrap import paired_ci95
from evaluation.metrics import mean_over_users, recall
from evaluation.ranking import top_k
from scripts.world.world import WorldSizeError, WorldSummary, make_world

TABLES = ("items", "behaviors", "texts", "social")
Rows = dict[str, list[dict[str, Any]]]
Scores = NDArray[np.float32]
Matrix = sparse.csr_array[np.float64]


def read(folder: Path) -> Rows:
    return {name: pq.read_table(folder / f"{name}.parquet").to_pylist() for name in TABLES}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[WorldSummary, Rows]:
    folder = tmp_path_factory.mktemp("world")
    return make_world(folder), read(folder)


def users_of(world: Rows, table: str) -> set[str]:
    return {row["user_id"] for row in world[table]}


def test_the_tables_have_the_import_layout(tmp_path: Path) -> None:
    make_world(tmp_path, users=200, items=150)
    columns = {name: pq.read_schema(tmp_path / f"{name}.parquet").names for name in TABLES}
    assert columns == {
        "items": ["item_id", "title", "text", "kind", "attributes"],
        "behaviors": ["user_id", "item_id", "action", "weight", "ts", "split"],
        "texts": ["user_id", "item_id", "text", "ts"],
        "social": ["user_id", "friend_id", "relation", "weight", "ts"],
    }


def test_what_was_shown_is_clicked_by_interest_and_place_and_becomes_behaviour(tmp_path: Path) -> None:
    make_world(tmp_path / "bare", users=300, items=200)
    make_world(tmp_path / "shown", users=300, items=200, impressions=True)
    bare, world = read(tmp_path / "bare"), read(tmp_path / "shown")
    shown = pq.read_table(tmp_path / "shown" / "impressions.parquet").to_pylist()
    assert list(shown[0]) == ["user_id", "item_id", "ts", "position", "query_id", "clicked"]
    for name in ("items", "texts", "social"):
        assert world[name] == bare[name]
    clicks = {(row["user_id"], row["item_id"], row["ts"]) for row in shown if row["clicked"]}
    done = {(row["user_id"], row["item_id"], row["ts"]) for row in world["behaviors"]}
    before = {(row["user_id"], row["item_id"], row["ts"]) for row in bare["behaviors"]}
    assert done == before | clicks
    assert not {row[:2] for row in before} & {(row["user_id"], row["item_id"]) for row in shown}
    lists = Counter(row["query_id"] for row in shown)
    assert set(lists.values()) == {10}
    rates = [np.mean([row["clicked"] for row in shown if row["position"] == place]) for place in (0, 3, 9)]
    assert rates[0] > 1.5 * rates[1] > 2 * rates[2]
    assert {row["split"] for row in world["behaviors"]} == {"train", "valid", "test"}


def test_the_summary_tells_what_is_there(made: tuple[WorldSummary, Rows]) -> None:
    summary, world = made
    known = users_of(world, "behaviors") | users_of(world, "texts") | users_of(world, "social")
    counts = [summary.items, summary.behaviors, summary.texts, summary.friendships]
    assert counts == [len(world[name]) for name in TABLES]
    assert summary.users == len(known) == 2000
    for user, has in (
        (summary.all_views, {"behaviors", "texts", "social"}),
        (summary.text_only, {"texts"}),
        (summary.friends_only, {"social"}),
        (summary.unknown, set()),
    ):
        assert {name for name in ("behaviors", "texts", "social") if user in users_of(world, name)} == has


def test_one_in_twenty_has_each_single_view(made: tuple[WorldSummary, Rows]) -> None:
    h, t, s = (users_of(made[1], name) for name in ("behaviors", "texts", "social"))
    assert [len(h - t - s), len(t - h - s), len(s - h - t), len(h & t & s)] == [100, 100, 100, 1700]


def test_items_and_texts_read_well(made: tuple[WorldSummary, Rows]) -> None:
    _, world = made
    said = [row["text"] for row in world["texts"]]
    told = [f"{row['title']}. {row['text']}" for row in world["items"]]
    assert len(set(said)) > 0.95 * len(said)
    assert len(set(told)) > 0.99 * len(told)
    assert len(set(said) | set(told)) < 6500
    english = [text for text in said if text.isascii()]
    assert all(8 <= len(text.split()) <= 16 for text in english)
    assert 0.02 < 1 - len(english) / len(said) < 0.12
    assert 0.02 < np.mean([not text.isascii() for text in told]) < 0.12
    assert not any("{" in text or "}" in text for text in said + told)
    assert {row["kind"] for row in world["items"]} == {"article", "product", "video"}
    assert all(
        row["item_id"].startswith(json.loads(row["attributes"])["topic"] + "-") for row in world["items"]
    )
    assert len({row["item_id"] for row in world["items"]}) == 1500


def test_friendships_go_both_ways_with_one_weight(made: tuple[WorldSummary, Rows]) -> None:
    ties = {(row["user_id"], row["friend_id"]): row["weight"] for row in made[1]["social"]}
    assert len(ties) == len(made[1]["social"])
    assert all(ties[friend, user] == weight and user != friend for (user, friend), weight in ties.items())
    assert 6 < len(ties) / len({user for user, _ in ties}) < 10


def test_marks_are_eighty_ten_ten_and_never_split_an_event(made: tuple[WorldSummary, Rows]) -> None:
    rows = made[1]["behaviors"]
    share = Counter(row["split"] for row in rows)
    assert {name: share[name] / len(rows) for name in share} == pytest.approx(
        {"train": 0.8, "valid": 0.1, "test": 0.1}, abs=0.01
    )
    marks: dict[Any, set[str]] = {}
    for row in rows:
        marks.setdefault((row["item_id"], row["ts"]), set()).add(row["split"])
    assert len(marks) < len(rows)  # some people do meet an item at the same time
    assert all(len(mark) == 1 for mark in marks.values())
    assert {row["user_id"] for row in rows if row["split"] == "train"} == {row["user_id"] for row in rows}
    assert len({(row["user_id"], row["item_id"]) for row in rows}) == len(rows)


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    worlds = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        summary = make_world(tmp_path / name, users=200, items=150, seed=seed)
        worlds.append((summary, read(tmp_path / name)))
    assert worlds[0] == worlds[1]
    assert all(worlds[0][1][name] != worlds[2][1][name] for name in TABLES)


def test_a_world_too_small_is_refused(tmp_path: Path) -> None:
    for users, items in ((199, 1500), (2000, 149)):
        with pytest.raises(WorldSizeError, match=f"{users} users and {items} items"):
            make_world(tmp_path / "w", users=users, items=items)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(("users", "items"), [(200, 150), (2000, 1500)])
def test_each_view_beats_popularity(tmp_path: Path, users: int, items: int) -> None:
    make_world(tmp_path, users=users, items=items)
    world = read(tmp_path)
    user_row = {user: n for n, user in enumerate(sorted(users_of(world, "behaviors")))}
    item_row = {row["item_id"]: n for n, row in enumerate(world["items"])}
    shape = (len(user_row), len(item_row))
    train, valid, test = (
        matrix(
            [
                (user_row[r["user_id"]], item_row[r["item_id"]])
                for r in world["behaviors"]
                if r["split"] == split
            ],
            shape,
        )
        for split in ("train", "valid", "test")
    )
    ease = choose_ease(train, valid, train)[1]
    posts = [(user_row[r["user_id"]], r["text"]) for r in world["texts"] if r["user_id"] in user_row]
    told = [(n, f"{row['title']} {row['text']}") for n, row in enumerate(world["items"])]
    ties = [(user_row.get(r["user_id"]), user_row.get(r["friend_id"])) for r in world["social"]]
    friends = matrix([(u, f) for u, f in ties if u is not None and f is not None], (shape[0], shape[0]))
    scores = {
        "popularity": Popularity.fit(train).scores(train),
        "H": ease.scores(train),
        "T": meant(posts, told, shape),
        "S": np.asarray((friends @ train).toarray(), dtype=np.float32),
    }
    seen = sparse.csr_array(train + valid)
    found = {name: recall(top_k(score, seen, 20), test, 20) for name, score in scores.items()}
    means = {name: round(mean_over_users(values), 3) for name, values in found.items()}
    for view in "HTS":
        assert means[view] > 1.2 * means["popularity"], means
        if users == 2000:
            assert paired_ci95(found[view], found["popularity"], seed=0)[0] > 0, means
    assert means["H"] > 1.5 * means["popularity"], means


def matrix(pairs: list[tuple[int, int]], shape: tuple[int, int]) -> Matrix:
    rows, columns = np.array(pairs).T
    return sparse.csr_array((np.ones(len(pairs)), (rows, columns)), shape=shape)


def meant(posts: list[tuple[int, str]], told: list[tuple[int, str]], shape: tuple[int, int]) -> Scores:
    """Return how much each user's posts and each item have in common: cosine of words weighted by rarity."""
    vocabulary: dict[str, int] = {}
    cells = [
        [
            (row, vocabulary.setdefault(word, len(vocabulary)))
            for row, text in texts
            for word in split_words(text)
        ]
        for texts in (posts, told)
    ]
    said, about = (matrix(found, (n, len(vocabulary))) for found, n in zip(cells, shape, strict=True))
    rarity = np.log(shape[1] / np.maximum((about > 0).sum(axis=0), 1))
    item = about.multiply(rarity)
    length = np.sqrt(item.multiply(item).sum(axis=1))
    return np.asarray((said.multiply(rarity) @ item.T).toarray() / length, dtype=np.float32)


def split_words(text: str) -> list[str]:
    return text.lower().replace(",", "").replace(".", "").split()
