"""Merge accepted rows into the store, by sets: known rows are updated, new ones inserted."""

from collections.abc import Sequence

import duckdb

from store.database import single_value
from store.imports.impressions import merge_impressions
from store.tables import Column, Table

# Every lookup scans the rows behind the sorted ones; below this share that costs less than sorting again.
_MAX_UNSORTED_SHARE = 0.01


def upsert_rows(cursor: duckdb.DuckDBPyConnection, table: Table, given: Sequence[Column]) -> tuple[int, int]:
    """Merge `checked_<table>` into data.<table>; return the number of inserted and of updated rows.

    Columns that are not `given` keep their value in known rows and get their default in new ones.
    """
    if table.merged:
        before = single_value(cursor, f"SELECT count(*) FROM data.{table.name}")
        inserted, updated = merge_impressions(cursor, {column.name for column in given})
        _keep_sorted(cursor, table, before, inserted + updated)
        return inserted, updated
    target, new = f"data.{table.name}", f"accepted_{table.name}"
    numbers = ""
    if table.numbered:
        same = ", ".join(table.identity)
        numbers = f", (row_number() OVER (PARTITION BY {same} ORDER BY _row))::INTEGER AS occurrence"
    cursor.execute(f"""
        CREATE TEMP TABLE {new} AS
        SELECT * EXCLUDE (_row, _reason){numbers} FROM checked_{table.name} WHERE _reason IS NULL""")
    before = single_value(cursor, f"SELECT count(*) FROM {target}")
    same_row = " AND ".join(f"old.{column} IS NOT DISTINCT FROM new.{column}" for column in table.key)
    changing = [column.name for column in given if column.name not in table.key]
    updated = 0
    if before and changing:
        updated = single_value(
            cursor,
            f"""UPDATE {target} AS old SET {", ".join(f"{name} = new.{name}" for name in changing)}
            FROM {new} AS new WHERE {same_row}
            AND ({" OR ".join(f"old.{name} IS DISTINCT FROM new.{name}" for name in changing)})""",
        )
    # A sort holds whole rows in memory, and vectors may not fit; nothing needs this order of items.
    heavy = table.name == "items" and any(column.kind == "vector" for column in given)
    order = "" if heavy else f"ORDER BY {table.order}"
    inserted = single_value(
        cursor,
        f"""INSERT INTO {target} BY NAME SELECT * FROM {new} AS new
        WHERE NOT EXISTS (FROM {target} AS old WHERE {same_row}) {order}""",
    )
    if table.name != "items":
        _keep_sorted(cursor, table, before, inserted + updated)
    return inserted, updated


def _keep_sorted(cursor: duckdb.DuckDBPyConnection, table: Table, before: int, written: int) -> None:
    """Sort a table anew where too many of its rows lie behind the sorted ones."""
    if not before or written <= _MAX_UNSORTED_SHARE * before:
        return
    cursor.execute(f"CREATE TEMP TABLE sorted_{table.name} AS FROM data.{table.name} ORDER BY {table.order}")
    cursor.execute(f"DELETE FROM data.{table.name}")
    cursor.execute(f"INSERT INTO data.{table.name} FROM sorted_{table.name}")
