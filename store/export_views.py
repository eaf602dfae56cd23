"""The files of an export as tables, without the people who were erased since."""

import glob
from datetime import datetime
from pathlib import Path

import duckdb

from store.connection import quoted
from store.ledger import erased_among, read_ledger
from store.queries import USERS
from store.tables import TABLES, Table


def show(db: duckdb.DuckDBPyConnection, path: Path, ledger: Path, since: datetime) -> None:
    """Make the tables of an export views in catalog `data`; whom a ledger names after `since` is left out.

    Raises:
        DamagedArtifactError: the ledger is damaged.
    """
    for table in TABLES:
        _view(db, path, table, "true")
    erasures = [one for one in read_ledger(ledger) if one.erased_at >= since]
    if not erasures:
        return
    users = (str(row[0]) for row in db.execute(USERS).fetchall())
    erased = sorted(erased_among(users, erasures, since))
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
