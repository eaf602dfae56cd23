"""Reads that the live store and an export share: both have the six tables in a catalog named `data`.

Rows with split valid or test are held out: they are not visible, and neither is a text on a (user, item) pair
that is held out. Neither is an impression of such a pair. What a person does not allow to be used is hidden
in an export; the user index has what may be used and shared.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from store.tables import MAX_WEIGHT

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]

# A store from before the bound may hold greater weights; two of them could add up to infinity.
BOUNDED_WEIGHT = f"least(weight, {MAX_WEIGHT!r})"

HELD_OUT_SPLITS = ("valid", "test")

VISIBLE = "(split IS NULL OR split = 'train')"

VISIBLE_TEXT = """NOT EXISTS (
    FROM data.behaviors AS held
    WHERE held.user_id = texts.user_id AND held.item_id = texts.item_id
      AND held.split IN ('valid', 'test'))"""

VISIBLE_IMPRESSION = VISIBLE_TEXT.replace("texts", "impressions")

# A user exists when any table has the id that a view is made from.
USERS = """
    SELECT user_id FROM data.behaviors UNION SELECT user_id FROM data.texts
    UNION SELECT user_id FROM data.social UNION SELECT friend_id FROM data.social"""

# Impressions make no view, but name people all the same; so do consents.
TRACED_USERS = f"{USERS} UNION SELECT user_id FROM data.impressions"
NAMED_USERS = f"{TRACED_USERS} UNION SELECT user_id FROM data.consents"


def used(view: str, column: str = "user_id") -> str:
    """Return the SQL condition that the user in a column allows the use of a view."""
    return f"{column} NOT IN (SELECT user_id FROM data.consents WHERE view = '{view}' AND NOT use)"


def shared(view: str, column: str = "user_id") -> str:
    """Return the SQL condition that the user in a column lets others see a view: it is used and shared."""
    return (
        f"{column} NOT IN (SELECT user_id FROM data.consents WHERE view = '{view}' AND NOT (use AND share))"
    )


# A sum of hashes needs no order of rows, and no string as long as a history. DuckDB's own hash takes a fifth
# of the time of md5; should a later DuckDB hash differently, every user is encoded once more.
_USER_HASHES = f"""
    WITH history AS (
        SELECT user_id, count(*) AS events, sum(hash(item_id, action, weight, ts)) AS digest
        FROM data.behaviors WHERE {VISIBLE} AND {shared("H")} GROUP BY user_id
    ), written AS (
        SELECT user_id, sum(hash(text)) AS digest
        FROM data.texts WHERE {VISIBLE_TEXT} AND {shared("T")} GROUP BY user_id
    ), circle AS (
        SELECT tie.user_id, count(history.events) AS active,
            sum(hash(tie.friend_id, tie.weight, history.digest)) AS digest
        FROM data.social AS tie LEFT JOIN history ON history.user_id = tie.friend_id
        WHERE tie.user_id <> tie.friend_id AND {shared("S", "tie.user_id")}
            AND {shared("H", "tie.friend_id")}
        GROUP BY tie.user_id
    )
    SELECT user_id, coalesce(history.events, 0) AS events,
        unhex(md5(to_json(
            [history.digest::VARCHAR, written.digest::VARCHAR, circle.digest::VARCHAR])::VARCHAR)) AS content,
        history.events IS NULL AND written.digest IS NULL AND coalesce(circle.active, 0) = 0 AS blank
    FROM ({USERS}) LEFT JOIN history USING (user_id) LEFT JOIN written USING (user_id)
        LEFT JOIN circle USING (user_id)
    ORDER BY user_id"""

_TEXTS_AMONG = "SELECT DISTINCT text FROM data.texts WHERE text IN (SELECT unnest($1::VARCHAR[]))"

_IMPORTED_VECTORS = f"""
    SELECT DISTINCT ON (text) text, vector FROM data.texts
    WHERE text_model_id = $1 AND vector IS NOT NULL AND {VISIBLE_TEXT}
    ORDER BY text, user_id, ts NULLS FIRST, occurrence"""


BLANK_ITEM = "trim(coalesce(title, '') || coalesce(text, '')) = ''"
_ITEM_HASHES = f"""
    SELECT item_id,
    unhex(md5(to_json(
        CASE WHEN vector IS NULL THEN [title, text] ELSE [title, text, hash(vector)::VARCHAR] END
    )::VARCHAR)) AS content,
    unhex(md5(to_json([kind, attributes::VARCHAR])::VARCHAR)) AS facts,
    {BLANK_ITEM} AS blank, vector IS NOT NULL AS vectored
    FROM data.items WHERE available ORDER BY item_id"""
_SOME_ITEMS = """
    SELECT item_id, title, text, kind, attributes::VARCHAR AS attributes, vector FROM data.items
    WHERE available AND item_id IN (SELECT unnest($1)) ORDER BY item_id"""


class Reader:
    """Reads what the live store and an export have in common; every call takes a cursor of its own."""

    _db: duckdb.DuckDBPyConnection

    def item_hashes(self) -> pa.Table:
        """Return item_id, content, facts, blank and vectored of the available items, by item id.

        `content` is the md5 of title, text and vector, `facts` of kind and attributes (16 bytes each);
        `blank` says that there is neither title nor text, `vectored` that there is a vector.
        """
        return self._table(_ITEM_HASHES)

    def some_items(self, item_ids: Sequence[str]) -> pa.Table:
        """Return the available ones of some items, by id.

        Returns:
            item_id, title, text, kind, attributes (JSON), vector (list of float32, NULL where it has none).
        """
        return self._table(_SOME_ITEMS, [list(item_ids)])

    def user_hashes(self) -> pa.Table:
        """Return user_id, events, content and blank of all users that any table names, by user id.

        `events` is the number of visible ones; `content` hashes (16 bytes) the visible history and texts, and
        the friends with their histories, of all that as far as its owners share it; `blank` says that there
        is nothing to encode.
        """
        return self._table(_USER_HASHES)

    def texts_among(self, texts: Sequence[str]) -> set[str]:
        """Return those of some texts that a user has written."""
        return set(self._table(_TEXTS_AMONG, [list(texts)]).column("text").to_pylist())

    def imported_vectors(self, text_model_id: str, batch: int = 4096) -> Iterator[tuple[list[str], Matrix]]:
        """Yield distinct visible texts with the vectors (n, D) float32 that were imported with them.

        The vectors are scaled to length 1, as those of the text model are; one of length 0 stays as it is.

        Args:
            text_model_id: the model that the vectors are of.
            batch: texts at a time, at most.
        """
        for rows in self._batches(_IMPORTED_VECTORS, batch, [text_model_id]):
            vectors = np.vstack(rows.column("vector").to_numpy(zero_copy_only=False)).astype(np.float64)
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            unit = np.divide(vectors, norms, out=vectors, where=norms > 0)
            yield rows.column("text").to_pylist(), unit.astype(np.float32)

    def _table(self, sql: str, parameters: list[Any] | None = None) -> pa.Table:
        with closing(self._db.cursor()) as cursor:
            table: pa.Table = cursor.sql(sql, params=parameters).to_arrow_table()
        return table

    def _batches(self, sql: str, rows: int, parameters: list[Any] | None = None) -> Iterator[pa.RecordBatch]:
        with closing(self._db.cursor()) as cursor:
            yield from cursor.sql(sql, params=parameters).to_arrow_reader(rows)
