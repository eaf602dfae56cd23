"""Reading items, of the live store and of an export alike."""

from collections.abc import Sequence

import duckdb
import pyarrow as pa

# What a vector is made from, what filters look at, and whether there is nothing to encode.
_HASHES = """
    unhex(md5(to_json([title, text])::VARCHAR)) AS content,
    unhex(md5(to_json([kind, attributes::VARCHAR])::VARCHAR)) AS facts,
    trim(coalesce(title, '') || coalesce(text, '')) = '' AS blank"""


def item_hashes(cursor: duckdb.DuckDBPyConnection) -> pa.Table:
    """Return item_id, content, facts and blank of the available items, by item id.

    `content` is the md5 of title and text, `facts` of kind and attributes (16 bytes each); `blank` says that
    there is neither title nor text.
    """
    sql = f"SELECT item_id, {_HASHES} FROM data.items WHERE available ORDER BY item_id"
    table: pa.Table = cursor.sql(sql).to_arrow_table()
    return table


def some_items(cursor: duckdb.DuckDBPyConnection, item_ids: Sequence[str]) -> pa.Table:
    """Return item_id, title, text, kind, attributes (JSON text) of named available items, by id."""
    sql = """
        SELECT item_id, title, text, kind, attributes::VARCHAR AS attributes FROM data.items
        WHERE available AND item_id IN (SELECT unnest($1)) ORDER BY item_id"""
    table: pa.Table = cursor.sql(sql, params=[list(item_ids)]).to_arrow_table()
    return table
