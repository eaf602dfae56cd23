"""The files of an export as tables, without the people who were erased since."""

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb

from store.database import quoted
from store.ledger import erased_among, read_ledger, unknown_to
from store.queries import USERS
from store.tables import TABLES, Table


def show(db: duckdb.DuckDBPyConnection, path: Path, ledger: Path, manifest: Mapping[str, Any]) -> None:
    """Make the tables of an export views in catalog `data`, without those whose erasure it does not know.

    Raises:
        DamagedArtifactError: a ledger is damaged.
    """
    for table in TABLES:
        _view(db, path, table, "true")
    erasures = unknown_to(path, manifest, read_ledger(ledger))
    if not erasures:
        return
    users = (str(row[0]) for row in db.execute(USERS).fetchall())
    erased = sorted(erased_among(users, erasures))
    db.execute("CREATE TABLE data.erased AS SELECT unnest($1::VARCHAR[]) AS user_id", [erased])
    for table in TABLES:
        people = [name for name in ("user_id", "friend_id") if name in table.names]
        if people:
            _view(db, path, table, " AND ".join(f"{name} NOT IN (FROM data.erased)" for name in people))


def _view(db: duckdb.DuckDBPyConnection, path: Path, table: Table, condition: str) -> None:
    # Equal texts lie in the order of their occurrence.
    number = ", file_row_number AS occurrence" if table.numbered else ""
    file = quoted(glob.escape(str(path / f"{table.name}.parquet")))
    db.execute(f"""
        CREATE OR REPLACE VIEW data.{table.name} AS SELECT {", ".join(table.names)}{number}
        FROM read_parquet({file}, file_row_number = true) WHERE {condition}""")
