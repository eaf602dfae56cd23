"""Texts of users and items drawn from an export in one pass and fixed memory."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from encoder.text.encoder import item_text
from store.export import Export

TEXT_ROWS = 8_192  # texts in memory at once
MOST_CHARACTERS = 4_000  # of a text; what lies beyond no model reads while training

_Drawn = TypeVar("_Drawn")


class Reservoir(Generic[_Drawn]):
    """A uniform sample of a stream in fixed memory.

    Source:
        Vitter 1985, "Random sampling with a reservoir", algorithm R.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._size, self._rng = size, rng
        self._seen = 0
        self._kept: list[_Drawn] = []

    def add(self, value: _Drawn) -> None:
        """Offer the next value of the stream; it replaces a random earlier one, or is dropped."""
        self._seen += 1
        if len(self._kept) < self._size:
            self._kept.append(value)
            return
        place = int(self._rng.integers(self._seen))
        if place < self._size:
            self._kept[place] = value

    def shuffled(self) -> list[_Drawn]:
        """Return the sample in random order."""
        return [self._kept[row] for row in self._rng.permutation(len(self._kept))]


def sample_texts(export: Export, count: int, seed: int = 0) -> list[str]:
    """Return up to `count` distinct texts of the users and items of an export, drawn in one pass."""
    sample = Reservoir[str](count, np.random.default_rng(seed))
    for text in read_texts(export, frozenset()):
        sample.add(text)
    return list(dict.fromkeys(sample.shuffled()))


def read_texts(export: Export, left_out_users: frozenset[str]) -> Iterator[str]:
    """Yield every text of the users, but for those left out, and of the items; blank texts are skipped."""
    for user_id, rows in rows_by_user(export.texts_batches(TEXT_ROWS), "text"):
        if user_id not in left_out_users:
            yield from (text[:MOST_CHARACTERS] for (text,) in rows if text.strip())
    for batch in export.items(columns=["title", "text"]).to_batches(TEXT_ROWS):
        texts = (item_text(row["title"], row["text"]) for row in batch.to_pylist())
        yield from (text[:MOST_CHARACTERS] for text in texts if text)


def rows_by_user(batches: Iterable[pa.RecordBatch], *columns: str) -> Iterator[tuple[str, list[Any]]]:
    """Yield each user id with the named columns of the user's rows; batches must be sorted by user."""
    names = ("user_id", *columns)
    rows = (
        row
        for batch in batches
        for row in zip(*(batch.column(name).to_pylist() for name in names), strict=True)
    )
    for user_id, group in groupby(rows, key=itemgetter(0)):
        yield user_id, [row[1:] for row in group]
