"""Import a folder of tables in one transaction, all of it or nothing."""

import logging
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
from tqdm import tqdm

from store.artifact import new_id
from store.imports.files import TableFile, find_files
from store.imports.masked_texts import masking_function
from store.imports.readers import Source, readable, stage
from store.imports.rejects import first_reject, write_rejects
from store.imports.text_files import UTF_8, check_encoding, undecodable_byte, undecodable_reason
from store.imports.time_columns import AUTO, check_times
from store.imports.upsert import upsert_rows
from store.imports.validation import (
    ITEM_VECTOR_LENGTH,
    UNKNOWN_ITEM,
    VECTOR_DIMENSION,
    check,
    item_vector_length,
)
from store.imports.values import NOT_WHOLE
from store.masking import UNMASKED, Masking
from store.queries import BLANK_ITEM
from store.store import Store
from store.tables import Table

_log = logging.getLogger(__name__)


class UnusableColumnError(ValueError):
    """A column of ids holds numbers that are no ids: fractions, or too large for a float to keep exactly."""

    def __init__(self, file: Path, column: str, row: int, value: object) -> None:
        said = "another number" if column in ("user_id", "friend_id") else f"the number {value}"
        super().__init__(
            f"{file}: column {column!r} holds {said} (row {row}), and an id is a whole number that "
            " a float column keeps exactly, or text: write it as int64 or text"
        )
        self.file, self.column, self.row, self.value = file, column, row, value


class EveryRowRefusedError(ValueError):
    """An import was made, but it refused every row of some tables."""

    def __init__(self, tables: Mapping[str, Mapping[str, int]]) -> None:
        whys = "; ".join(f"{name}: {', '.join(sorted(rejected))}" for name, rejected in tables.items())
        super().__init__(f"every row was refused of {whys}")
        self.tables = tuple(tables)


@dataclass(frozen=True)
class TableReport:
    """The result of importing one table, in numbers of rows.

    Attributes:
        file: the file, or the folder of parts.
        rejected: refused rows, by reason.
        without_text: items that are available and have neither title nor text.
        items_made: items that were created because a row named them.
        remarks: sentences on how the files were read, and on what to do about refused rows.
        masked: how much was masked in the texts that were read, by kind.
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
    items_made: int = 0
    remarks: tuple[str, ...] = ()
    masked: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportReport:
    """The result of an import, by table name."""

    import_id: str
    tables: dict[str, TableReport]
    seconds: float


@dataclass(frozen=True)
class ImportOptions:
    """How an import reads files.

    Attributes:
        file_format: auto, or a key of FORMATS.
        strict: fail at the first row to refuse.
        encoding: of the text files.
        times: what numbers in time columns mean, auto or a key of TIMES.
        create_items: create the items that behaviors, texts and impressions name and the store lacks.
        dims: length of the vectors, by text model.
        masking: of the texts of people.
    """

    file_format: str = AUTO
    strict: bool = False
    encoding: str = UTF_8
    times: str = AUTO
    create_items: bool = False
    dims: Mapping[str, int] = field(default_factory=dict)
    masking: Masking = UNMASKED


def import_folder(
    store: Store,
    path: Path,
    *,
    rejects: Path,
    file_format: str = AUTO,
    strict: bool = False,
    options: ImportOptions | None = None,
) -> ImportReport:
    """Import the tables of a folder (store/tables.py): files, or folders of them (`files`).

    By the identity of rows (store/tables.py), known rows are updated and new ones inserted, so a second
    import changes nothing. Columns that no file of a table has keep their value in known rows. Refused rows
    are written to `rejects`/<import id>/<table>.jsonl. After a kill, all is imported or nothing. `options`
    replaces `file_format` and `strict`.

    Raises:
        UnknownFormatError, NotADirectoryError, NothingToImportError, AmbiguousFilesError: see `find_files`.
        UnknownEncodingError, UnknownTimesError: an option has an unknown value.
        MissingColumnError: a file lacks a required column.
        UnreadableFileError: a file is not of its format.
        AmbiguousTimesError: the numbers of a time column may mean two things.
        UnusableColumnError: an id column holds numbers that are no ids.
        ImportRejectedError: `strict`, and a row was refused.
    """
    options = options or ImportOptions(file_format, strict)
    started = time.monotonic()
    import_id = new_id()
    folder = rejects / import_id
    check_encoding(options.encoding)
    check_times(options.times)
    files = find_files(path, options.file_format)
    _log.info("import %s of %s: %s", import_id, path, ", ".join(place.name for _, place, _ in files))
    tables: dict[str, TableReport] = {}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="triptych-") as scratch,
            store.writing() as cursor,
            masking_function(cursor, options.masking) as replaced,
        ):
            for table, place, parts in tqdm(files, desc="import", unit="table", disable=None):
                source = stage(
                    cursor,
                    table,
                    place,
                    parts,
                    Path(scratch),
                    encoding=options.encoding,
                    times=options.times,
                )
                tables[table.name] = _import_table(cursor, source, parts, folder, options, replaced)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # nothing was imported, so nothing was refused
        raise
    report = ImportReport(import_id, tables, time.monotonic() - started)
    _log.info("import %s done in %.1f s", import_id, report.seconds)
    return report


def check_not_all_refused(report: ImportReport) -> None:
    """Check that every table with rows has an accepted one.  Raises: EveryRowRefusedError."""
    refused = {
        name: one.rejected
        for name, one in report.tables.items()
        if one.read and one.read == sum(one.rejected.values())
    }
    if refused:
        raise EveryRowRefusedError(refused)


def _import_table(
    cursor: duckdb.DuckDBPyConnection,
    source: Source,
    parts: Sequence[TableFile],
    folder: Path,
    options: ImportOptions,
    replaced: Counter[str],
) -> TableReport:
    """Import one table; `replaced` counts what is masked, here as before."""
    table, before = source.table, Counter(replaced)
    with readable(source.file, parts[0].form):
        check(
            cursor,
            source,
            dims=options.dims,
            any_item=options.create_items,
            masking=options.masking,
        )
    masked = dict(replaced - before)
    counts = f"SELECT _reason, count(*) FROM checked_{table.name} GROUP BY _reason ORDER BY _reason"
    rejected = {reason: int(count) for reason, count in cursor.execute(counts).fetchall()}
    accepted = rejected.pop(None, 0)
    for reason in rejected:
        if reason.endswith(NOT_WHOLE):
            first = first_reject(cursor, source, reason)
            (column, value), *_ = first.values.items()
            raise UnusableColumnError(first.file, column, first.row, value)
    if rejected and options.strict:
        raise first_reject(cursor, source)
    rejects_file = write_rejects(cursor, source, folder, options.masking) if rejected else None
    items_made = _make_items(cursor, table) if options.create_items else 0
    inserted, updated = upsert_rows(cursor, table, source.columns)
    _log.info(
        "%s: %d inserted, %d updated, rejected: %s", source.file.name, inserted, updated, rejected or "none"
    )
    report = TableReport(
        file=source.file,
        read=accepted + sum(rejected.values()),
        inserted=inserted,
        updated=updated,
        unchanged=accepted - inserted - updated,
        rejected=rejected,
        ignored_columns=source.ignored,
        rejects_file=rejects_file,
        without_text=_count_without_text(cursor) if table.name == "items" else 0,
        items_made=items_made,
        remarks=tuple(_remarks(cursor, source, rejected, accepted, options)),
        masked=masked,
    )
    cursor.execute(f"DROP TABLE checked_{table.name}")
    cursor.execute(f"DROP TABLE accepted_{table.name}")
    return report


def _count_without_text(cursor: duckdb.DuckDBPyConnection) -> int:
    """Count the accepted items that are available and have neither title nor text."""
    sql = f"""
        SELECT count(*) FROM data.items SEMI JOIN accepted_items USING (item_id)
        WHERE available AND {BLANK_ITEM}"""
    return int(cursor.execute(sql).fetchall()[0][0])


def _make_items(cursor: duckdb.DuckDBPyConnection, table: Table) -> int:
    """Insert the items that accepted rows name and the store lacks; return their number."""
    if table.name not in ("behaviors", "texts", "impressions"):
        return 0
    made = cursor.execute(f"""
        INSERT INTO data.items (item_id) SELECT DISTINCT item_id FROM checked_{table.name} AS named
        WHERE _reason IS NULL AND item_id IS NOT NULL
        AND NOT EXISTS (FROM data.items WHERE items.item_id = named.item_id) ORDER BY item_id""").fetchall()
    return int(made[0][0])


def _remarks(
    cursor: duckdb.DuckDBPyConnection,
    source: Source,
    rejected: Mapping[str, int],
    accepted: int,
    options: ImportOptions,
) -> Iterator[str]:
    """Yield sentences on how the files were read, and on what to do about refused rows."""
    if not accepted and not rejected:
        yield f"{source.file.name} holds no rows"
    yield from source.remarks
    yield from (reading.remark for reading in source.times.values() if reading.remark)
    if UNKNOWN_ITEM in rejected:
        yield (
            f"{rejected[UNKNOWN_ITEM]:,} rows name items that are not in the store: import these items, too, "
            "or say --create-items"
        )
    reason = undecodable_reason(options.encoding)
    if reason in rejected:
        first = first_reject(cursor, source, reason)
        byte = undecodable_byte("".join(str(value) for value in first.values.values()))
        yield (
            f"not {options.encoding.upper()}: byte 0x{byte:02X} in row {first.row} of {first.file.name}: say "
            "the encoding of the file, such as --encoding latin-1, or convert it to UTF-8"
        )
    if VECTOR_DIMENSION in rejected:
        first = first_reject(cursor, source, VECTOR_DIMENSION)
        yield f"row {first.row} of {first.file.name}: {_dimension_remark(cursor, source, options.dims)}"
    if ITEM_VECTOR_LENGTH in rejected:
        first = first_reject(cursor, source, ITEM_VECTOR_LENGTH)
        yield f"row {first.row} of {first.file.name}: {_length_remark(cursor)}"


def _dimension_remark(cursor: duckdb.DuckDBPyConnection, source: Source, dims: Mapping[str, int]) -> str:
    """Return the length of the first refused vector and that of its text model, as a sentence."""
    model, length = cursor.execute(f"""
        SELECT text_model_id, len(vector) FROM checked_{source.table.name}
        WHERE _reason = '{VECTOR_DIMENSION}' ORDER BY _row LIMIT 1""").fetchall()[0]
    expected = f"has {dims[model]}" if model in dims else "has another length in the rows before"
    return f"a vector of {length} numbers, and text model {model} {expected}"


def _length_remark(cursor: duckdb.DuckDBPyConnection) -> str:
    """Return the length of the first refused vector, and that of the others, as a sentence."""
    (length,) = cursor.execute(f"""
        SELECT len(vector) FROM checked_items WHERE _reason = '{ITEM_VECTOR_LENGTH}'
        ORDER BY _row LIMIT 1""").fetchall()[0]
    return (
        f"a vector of {length} numbers, and those of the other items have {item_vector_length(cursor)}; "
        "to change the length, give all vectors anew in one import"
    )
