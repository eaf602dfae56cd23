"""Writing exports: one state of the store as Parquet files."""

import logging
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from store import artifact
from store.database import migrations, quoted
from store.disk import disk_errors
from store.ledger import LEDGER, write_ledger
from store.privacy.erase import read_erasures
from store.store import Store
from store.tables import TABLES

_log = logging.getLogger(__name__)


def create_export(store: Store, exports: Path) -> str:
    """Write one state of the store, held-out rows with their split and the ledger of erasures included.

    Returns the id of the export.

    Raises:
        DiskFullError, ReadOnlyDiskError: the disk takes nothing more; there is no export.
    """
    export_id = artifact.new_id()
    _log.info("export %s started", export_id)
    created_at = datetime.now(UTC).isoformat()
    with artifact.build(exports, export_id) as draft, store.snapshot() as cursor:
        counts: dict[str, int] = {}
        for table in tqdm(TABLES, desc="export", unit="table", disable=None):
            columns = ", ".join(
                f"{column.name}::VARCHAR AS {column.name}" if column.kind == "json" else column.name
                for column in table.columns
            )
            with disk_errors(draft.path):
                rows = cursor.execute(f"""
                    COPY (SELECT {columns} FROM data.{table.name} ORDER BY {table.order})
                    TO {quoted(draft.path / f"{table.name}.parquet")} (FORMAT parquet, COMPRESSION zstd)""")
            counts[table.name] = int(rows.fetchall()[0][0])
        write_ledger(draft.path / LEDGER, read_erasures(cursor))
        held_out = dict(
            cursor.execute("""
                SELECT s, (SELECT count(*) FROM data.behaviors WHERE split = s)
                FROM unnest(['valid', 'test']) AS t(s)""").fetchall()
        )
        draft.facts |= {
            "kind": "export",
            "schema_version": len(migrations()),
            "created_at": created_at,
            "counts": counts,
            "held_out": held_out,
        }
    _log.info("export %s done: %s", export_id, counts)
    return export_id
