"""Reading items, of the live store and of an export alike."""

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from store.attributes import sorted_out

# What a vector is made from, what filters look at, and whether there is nothing to encode.
_BLANK = "trim(coalesce(title, '') || coalesce(text, '')) = ''"
_HASHES = f"""
    unhex(md5(to_json([title, text])::VARCHAR)) AS content,
    unhex(md5(to_json([kind, attributes::VARCHAR])::VARCHAR)) AS facts,
    {_BLANK} AS blank"""
_BATCH = 65_536


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


def count_without_text(cursor: duckdb.DuckDBPyConnection) -> int:
    """Return how many of the items in `accepted_items` are available and have neither title nor text."""
    sql = f"""
        SELECT count(*) FROM data.items SEMI JOIN accepted_items USING (item_id)
        WHERE available AND {_BLANK}"""
    return int(cursor.execute(sql).fetchall()[0][0])


def bad_attributes(cursor: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Return why the attributes of available items cannot be used, by item id; all of them are looked at."""
    sql = "SELECT item_id, attributes::VARCHAR AS attributes FROM data.items WHERE available ORDER BY item_id"
    reasons: dict[str, str] = {}
    for batch in cursor.sql(sql).to_arrow_reader(_BATCH):
        ids, texts = (batch.column(name).to_pylist() for name in ("item_id", "attributes"))
        reasons |= sorted_out(zip(ids, texts, strict=True))[1]
    return reasons
