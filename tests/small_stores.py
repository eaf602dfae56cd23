"""Stores of a few rows, made by an import, and the rows of any store."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from store.home import Home
from store.imports.run import import_folder
from store.store import Store

ROWS: list[tuple[str, str, int | None]] = [
    ("a", "x", 1),
    ("a", "y", 2),
    ("a", "z", 3),
    ("b", "x", 1),
    ("b", "y", 5),
    ("b", "z", 6),
    ("c", "x", 9),
]


def make_store(path: Path, rows: list[tuple[str, str, int | None]]) -> Home:
    """Import events (user, item, microseconds) into a new home below a folder, and return the home."""
    folder = path / "tables"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"item_id": sorted({item for _, item, _ in rows})}), folder / "items.parquet")
    times = pa.array([row[2] for row in rows], pa.timestamp("us"))
    columns = {"user_id": [row[0] for row in rows], "item_id": [row[1] for row in rows], "ts": times}
    pq.write_table(pa.table(columns), folder / "behaviors.parquet")
    home = Home(path / "home")
    with Store.open(home.database) as store:
        import_folder(store, folder, rejects=home.rejects, strict=True)
    return home


def table_rows(home: Home) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of all tables of a store that no process has open, sorted."""
    with duckdb.connect(str(home.database), read_only=True) as db:
        names = ("items", "behaviors", "texts", "social", "impressions", "consents")
        return {name: sorted(db.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names}
