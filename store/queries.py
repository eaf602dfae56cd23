"""The SQL that the live store and an export share: both hold the four tables in a catalog named `data`.

Rows with split valid or test are held out: they are not visible, and neither is a text on a (user, item) pair
that is held out.
"""

from collections.abc import Iterator

import duckdb
import numpy as np

from store.imports.validation import MAX_WEIGHT

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]

# A store from before weights had a bound may hold greater ones; two of them could add up to infinity.
BOUNDED_WEIGHT = f"least(weight, {MAX_WEIGHT!r})"

VISIBLE = "(split IS NULL OR split = 'train')"

VISIBLE_TEXT = """NOT EXISTS (
    FROM data.behaviors AS held
    WHERE held.user_id = texts.user_id AND held.item_id = texts.item_id
      AND held.split IN ('valid', 'test'))"""

# A user exists when any table names them.
USERS = """
    SELECT user_id FROM data.behaviors UNION SELECT user_id FROM data.texts
    UNION SELECT user_id FROM data.social UNION SELECT friend_id FROM data.social"""

# Of a user: the number of visible events, what the vector is made from, and whether nothing can be encoded.
# A sum of hashes needs no order, and no string as long as a history. DuckDB's own hash takes a fifth of the
# time of md5; where a later DuckDB hashes otherwise, every user is encoded once more. Friends count with
# their own history.
USER_HASHES = f"""
    WITH history AS (
        SELECT user_id, count(*) AS events, sum(hash(item_id, action, weight, ts)) AS digest
        FROM data.behaviors WHERE {VISIBLE} GROUP BY user_id
    ), written AS (
        SELECT user_id, sum(hash(text)) AS digest
        FROM data.texts WHERE {VISIBLE_TEXT} GROUP BY user_id
    ), circle AS (
        SELECT tie.user_id, count(history.events) AS active,
            sum(hash(tie.friend_id, tie.weight, history.digest)) AS digest
        FROM data.social AS tie LEFT JOIN history ON history.user_id = tie.friend_id
        WHERE tie.user_id <> tie.friend_id GROUP BY tie.user_id
    )
    SELECT user_id, coalesce(history.events, 0) AS events,
        unhex(md5(to_json(
            [history.digest::VARCHAR, written.digest::VARCHAR, circle.digest::VARCHAR])::VARCHAR)) AS content,
        history.events IS NULL AND written.digest IS NULL AND coalesce(circle.active, 0) = 0 AS blank
    FROM ({USERS}) LEFT JOIN history USING (user_id) LEFT JOIN written USING (user_id)
        LEFT JOIN circle USING (user_id)
    ORDER BY user_id"""

# By length, so that neighbours need the same padding when they are encoded together.
DISTINCT_TEXTS = f"SELECT DISTINCT text FROM data.texts WHERE {VISIBLE_TEXT} ORDER BY length(text), text"

TEXTS_OF = f"SELECT DISTINCT text FROM data.texts WHERE user_id = $1 AND {VISIBLE_TEXT}"

TEXTS_AMONG = "SELECT DISTINCT text FROM data.texts WHERE text IN (SELECT unnest($1::VARCHAR[]))"

IMPORTED_VECTORS = f"""
    SELECT DISTINCT ON (text) text, vector FROM data.texts
    WHERE text_model_id = $1 AND vector IS NOT NULL AND {VISIBLE_TEXT}
    ORDER BY text, user_id, ts NULLS FIRST, occurrence"""

# `marks` is an Arrow table that the caller registers.
MARK_SPLITS = """
    UPDATE data.behaviors AS event SET split = mark.split FROM marks AS mark
    WHERE event.user_id = mark.user_id AND event.item_id = mark.item_id AND event.action = mark.action
      AND event.ts IS NOT DISTINCT FROM mark.ts::TIMESTAMP"""


def texts_with_vectors(
    cursor: duckdb.DuckDBPyConnection, text_model_id: str, batch: int
) -> Iterator[tuple[list[str], Matrix]]:
    """Yield distinct visible texts and the vectors (n, D) float32 they came with, `batch` at a time.

    The vectors are scaled to length 1, as those of the text model are; one of length 0 stays as it is.
    """
    for rows in cursor.sql(IMPORTED_VECTORS, params=[text_model_id]).to_arrow_reader(batch):
        vectors = np.vstack(rows.column("vector").to_numpy(zero_copy_only=False)).astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = np.divide(vectors, norms, out=vectors, where=norms > 0)
        yield rows.column("text").to_pylist(), unit.astype(np.float32)
