"""The home that `bench serve` asks: its rows, and what a cached one is taken for."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from scripts.bench.large_home import SIZES_FILE, HomeSizeError, HomeSizes, large_home, write_tables


def test_rows_are_what_the_sizes_say(tmp_path: Path) -> None:
    write_tables(tmp_path / "a", HomeSizes(1_000, 500, 16, seed=3))
    write_tables(tmp_path / "b", HomeSizes(1_000, 500, 16, seed=3))
    names = ("items", "behaviors", "texts", "social")
    tables = {name: pq.read_table(tmp_path / "a" / f"{name}.parquet") for name in names}
    assert all(pq.read_table(tmp_path / "b" / f"{name}.parquet") == tables[name] for name in names)
    items = tables["items"].to_pylist()
    attributes = [json.loads(item["attributes"]) for item in items]
    tenths = np.bincount([one["tenth"] for one in attributes], minlength=10)
    assert len(tenths) == 10
    assert tenths.min() > 60
    assert np.bincount([one["near"] for one in attributes]).tolist() == [100] * 10
    assert all(one["near"] == attributes[row % 100]["near"] for row, one in enumerate(attributes))
    events = tables["behaviors"].to_pylist()
    pairs = {(event["user_id"], event["item_id"]) for event in events}
    assert len(pairs) == len(events)
    assert {item for _, item in pairs} == {item["item_id"] for item in items}
    of_users = np.unique([user for user, _ in pairs], return_counts=True)[1]
    assert 10 < np.median(of_users) < 40  # an item counts once, and a small world has few
    users = {f"u{number:08d}" for number in range(500)}
    ties = [(tie["user_id"], tie["friend_id"]) for tie in tables["social"].to_pylist()]
    assert len(set(ties)) == len(ties)
    assert all(user != friend and {user, friend} <= users for user, friend in ties)
    assert {text["user_id"] for text in tables["texts"].to_pylist()} < users
    assert len(set(tables["texts"].column("text").to_pylist())) <= 1_200


def test_a_home_of_other_sizes_or_another_folder_is_not_taken(tmp_path: Path) -> None:
    sizes = HomeSizes(1_000, 500, 16)
    (tmp_path / SIZES_FILE).write_text(json.dumps(asdict(sizes)), "utf-8")
    assert large_home(tmp_path, sizes).path == tmp_path / "home"
    with pytest.raises(HomeSizeError, match=r"'items': 1000.*'items': 2000"):
        large_home(tmp_path, HomeSizes(2_000, 500, 16))
    (tmp_path / SIZES_FILE).unlink()
    (tmp_path / "half").touch()
    with pytest.raises(HomeSizeError, match="not empty"):
        large_home(tmp_path, sizes)


def test_a_home_must_not_be_too_small() -> None:
    with pytest.raises(HomeSizeError, match="10 items and 500 users"):
        HomeSizes(10, 500)
