"""Importing a folder of tables: read, check, upsert; one transaction, so all of it or nothing."""

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
from tqdm import tqdm

from store.artifact import new_id
from store.duck import Store
from store.files import find_files
from store.items import count_without_text
from store.reading import readable, stage
from store.rejects import first_reject, write_rejects
from store.tables import Table
from store.upsert import upsert
from store.validation import check

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableReport:
    """What became of the rows of one file.

    Attributes:
        rejected: rows by reason.
        without_text: items of the file that are available and have neither title nor text.
    """

    file: Path
    read: int
    inserted: int
    updated: int
    unchanged: int
    rejected: dict[str, int]
    ignored_columns: tuple[str, ...]
    rejects_file: Path | None
    without_text: int = 0


@dataclass(frozen=True)
class ImportReport:
    """What an import did, by table name."""

    import_id: str
    tables: dict[str, TableReport]
    seconds: float


def import_folder(
    store: Store, path: Path, *, rejects: Path, file_format: str = "auto", strict: bool = False
) -> ImportReport:
    """Return what became of a folder's items, behaviors, texts and social.{parquet,csv,jsonl,ndjson}.

    Rows are identified as the tables say (store/tables.py): known rows are updated, new ones inserted, so a
    second import changes nothing.  A column that a file lacks leaves known rows as they are.  Refused rows
    are written to `rejects`/<import id>/<table>.jsonl.  Killed at any moment, all is imported or nothing.

    Raises:
        UnknownFormatError, NotADirectoryError, NothingToImportError, AmbiguousFilesError: see `find_files`.
        MissingColumnError: a file lacks a required column.
        UnreadableFileError: a file is not of its format.
        ImportRejectedError: `strict`, and a row was refused.
    """
    started = time.monotonic()
    import_id = new_id()
    folder = rejects / import_id
    files = find_files(path, file_format)
    _log.info("import %s of %s: %s", import_id, path, ", ".join(file.name for _, file in files))
    tables: dict[str, TableReport] = {}
    try:
        with store.writing() as cursor:
            for table, file in tqdm(files, desc="import", unit="table", disable=None):
                tables[table.name] = _import_file(cursor, table, file, folder, strict=strict)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # these rows were not refused: nothing was imported
        raise
    report = ImportReport(import_id, tables, time.monotonic() - started)
    _log.info("import %s done in %.1f s", import_id, report.seconds)
    return report


def _import_file(
    cursor: duckdb.DuckDBPyConnection, table: Table, file: Path, folder: Path, *, strict: bool
) -> TableReport:
    source = stage(cursor, table, file)
    with readable(file):
        check(cursor, source)
    counts = f"SELECT _reason, count(*) FROM checked_{table.name} GROUP BY _reason ORDER BY _reason"
    rejected = {reason: int(count) for reason, count in cursor.execute(counts).fetchall()}
    accepted = rejected.pop(None, 0)
    if rejected and strict:
        raise first_reject(cursor, source)
    rejects_file = write_rejects(cursor, source, folder) if rejected else None
    inserted, updated = upsert(cursor, table, source.columns)
    _log.info("%s: %d inserted, %d updated, rejected: %s", file.name, inserted, updated, rejected or "none")
    return TableReport(
        file=file,
        read=accepted + sum(rejected.values()),
        inserted=inserted,
        updated=updated,
        unchanged=accepted - inserted - updated,
        rejected=rejected,
        ignored_columns=source.ignored,
        rejects_file=rejects_file,
        without_text=count_without_text(cursor) if table.name == "items" else 0,
    )
