"""Merge impressions: what is shown counts once, however often it is reported, and stays clicked."""

from collections.abc import Container

import duckdb

from store.database import single_value

# A row is known by its query; without one, by its time.
SAME_IMPRESSION = """
    old.user_id = new.user_id AND old.item_id = new.item_id AND old.query_id IS NOT DISTINCT FROM new.query_id
    AND CASE WHEN old.query_id IS NULL THEN old.ts END
        IS NOT DISTINCT FROM CASE WHEN new.query_id IS NULL THEN new.ts END"""
_UPDATE = f"""
    UPDATE data.impressions AS old SET
        ts = coalesce(new.ts, old.ts), position = coalesce(new.position, old.position),
        clicked = old.clicked OR new.clicked
    FROM accepted_impressions AS new WHERE {SAME_IMPRESSION}
    AND (coalesce(new.ts, old.ts) IS DISTINCT FROM old.ts
        OR coalesce(new.position, old.position) IS DISTINCT FROM old.position
        OR (new.clicked AND NOT old.clicked))"""
_INSERT = f"""
    INSERT INTO data.impressions BY NAME FROM accepted_impressions AS new
    WHERE NOT EXISTS (FROM data.impressions AS old WHERE {SAME_IMPRESSION})
    ORDER BY user_id, ts NULLS FIRST, item_id, query_id NULLS FIRST"""


def merge_impressions(cursor: duckdb.DuckDBPyConnection, given: Container[str]) -> tuple[int, int]:
    """Merge `checked_impressions` into the store; return the number of inserted and of updated rows.

    Rows of one impression become one: clicked where any of them is, with the last position and time that one
    of them has. In the same way a known impression takes new values, and keeps those that are not given; once
    clicked it stays so.

    Args:
        cursor: of the transaction of the import.
        given: names of the columns that the import has.
    """
    position = "arg_max(position, _row)" if "position" in given else "NULL::INTEGER"
    clicked = "bool_or(clicked)" if "clicked" in given else "false"
    cursor.execute(f"""
        CREATE TEMP TABLE accepted_impressions AS
        SELECT user_id, item_id, query_id, arg_max(ts, _row) AS ts, {position} AS position,
            {clicked} AS clicked
        FROM checked_impressions WHERE _reason IS NULL
        GROUP BY user_id, item_id, query_id, CASE WHEN query_id IS NULL THEN ts END""")
    updated = int(single_value(cursor, _UPDATE))
    return int(single_value(cursor, _INSERT)), updated
