"""Mask the texts of people while they are read from files, before a value of theirs is written anywhere."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa
from duckdb.func import PythonUDFType

from store.masking import Masker, Masking
from store.tables import Table

_FUNCTION = "mask_text"


@contextmanager
def masking_function(cursor: duckdb.DuckDBPyConnection, masking: Masking) -> Iterator[Counter[str]]:
    """Give SQL the function that `masked` calls while the block runs; yield counts of what it replaced."""
    counts = Counter[str]()
    if not masking.kinds:
        yield counts
        return
    masker = Masker(masking)

    def mask(texts: pa.ChunkedArray) -> pa.Array:
        masked = [masker.mask(text) for text in texts.to_pylist()]
        for one in masked:
            counts.update(one.counts)
        return pa.array([one.text for one in masked], pa.string())

    # With side effects: so it is called once for each row, and the counts are right.
    cursor.create_function(
        _FUNCTION, mask, ["VARCHAR"], "VARCHAR", type=PythonUDFType.ARROW, side_effects=True
    )
    try:
        yield counts
    finally:
        cursor.remove_function(_FUNCTION)


def masked(table: Table, column: str, sql: str, masking: Masking) -> str:
    """Return SQL of a value of a column, masked where it is text of a person or an unparsed row of such."""
    if masking.kinds and table.name == "texts" and column in ("text", "_line"):
        return f"{_FUNCTION}({sql})"
    return sql
