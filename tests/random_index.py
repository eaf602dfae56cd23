"""An index over random vectors with attributes, and filters and queries for it."""

from pathlib import Path

import numpy as np

from indexer.filters.filter import Filter
from indexer.index import Index
from scripts.bench.index.synthetic import write_index

DIM = 8
COLOURS = ("red", "green", "blue")


def attributes(row: int) -> dict[str, object]:
    return {
        "colour": COLOURS[row % 3],
        "price": row / 2,
        "sold": row % 5 == 0,
        "tags": [f"t{row % 7}", "all"],
    }


def queries_of(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def make_index(parent: Path, items: int, factory: str = "Flat", seed: int = 0) -> Index:
    vectors = np.random.default_rng(seed).standard_normal((items, DIM)).astype(np.float32)
    return write_index(parent, vectors, factory, queries_of(64), attributes=attributes)


FILTERS = [
    Filter(equals=(("colour", ("red",)),)),
    Filter(equals=(("colour", ("red", "blue")), ("sold", (True,)))),
    Filter(equals=(("tags", ("t3",)),)),
    Filter(equals=(("price", (7.5, 8.0, 1e9)),)),
    Filter(ranges=(("price", 3.0, 9.5),)),
    Filter(ranges=(("price", -np.inf, 11.0),), deny=("item-000000003", "unknown")),
    Filter(allow=("item-000000001", "item-000000004", "unknown")),
    Filter(deny=tuple(f"item-{n:09d}" for n in range(40))),
    Filter(equals=(("colour", ("pink",)),)),
    Filter(kinds=("film",)),
]
