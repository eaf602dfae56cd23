"""Stage the files of each table as a relation of raw values, each row with its number in its file."""

import codecs
import csv
import glob
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa

from store.database import quoted
from store.imports.converted import ORIGIN_FILE, ORIGIN_REASON, ORIGIN_ROW, ORIGIN_TEXT
from store.imports.files import TableFile
from store.imports.text_files import (
    OTHER_DELIMITERS,
    UNDECODABLE,
    UTF_8,
    PlainFile,
    UnreadableFileError,
    plain_file,
)
from store.imports.time_columns import AUTO, TimeReading, reading_of_times
from store.imports.values import Value, from_json, from_parquet, from_text, is_float_text
from store.tables import Column, Table

_ORIGINS = {ORIGIN_FILE, ORIGIN_ROW, ORIGIN_REASON, ORIGIN_TEXT}
PART_ROWS = 1 << 40  # more rows than any file has: a row number implies the file
_NOT_ITS_FORMAT = {
    "parquet": "it is no Parquet file, or is damaged",
    "csv": "its rows cannot be told apart as comma-separated values",
    "tsv": "its rows cannot be told apart as tab-separated values",
    "jsonl": "it is no JSON, or its array is broken off",
}
# Errors that no content of a file can cause.
_NOT_CAUSED_BY_FILES = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConstraintException,
    duckdb.ConversionException,
    duckdb.OutOfMemoryException,
    duckdb.ParserException,
    duckdb.TransactionException,
)
_log = logging.getLogger(__name__)


class MissingColumnError(ValueError):
    """A file lacks a column that its table requires."""

    def __init__(self, table: str, file: Path, column: str, present: Sequence[str]) -> None:
        names = ", ".join(present) or "none"
        super().__init__(f"{file}: table {table} needs a column {column!r}; the columns there are: {names}")
        self.table, self.file, self.column, self.present = table, file, column, tuple(present)


@dataclass(frozen=True)
class Source:
    """The files of a table, whose rows are in the temporary relation `raw_<table>`.

    The relation has `_row` (number of the row, from 1; those of the n-th file from n * PART_ROWS on), `_line`
    (the text of a row that cannot be parsed, else NULL), `_fault` (the reason to refuse a value, else NULL),
    `_file` and `_number` (where the row was before it was converted, else NULL) and the raw values of
    `columns`.

    Attributes:
        file: the file, or the folder of parts.
        columns: known columns that a file has.
        ignored: names of unknown columns.
        types: SQL type of the raw values, by column: VARCHAR, or what Parquet has.
        files: all files, in order.
        times: the meaning of numbers, by time column.
        remarks: sentences on how the files were read.
        converted: rows have `_file` and `_number`.
    """

    table: Table
    file: Path
    columns: tuple[Column, ...]
    ignored: tuple[str, ...]
    types: dict[str, str]
    files: tuple[Path, ...] = ()
    times: Mapping[str, TimeReading] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    converted: bool = False


@dataclass(frozen=True)
class _Given:
    """One file, its plain form, and a name for the temporary relations that it needs."""

    file: TableFile
    plain: PlainFile
    name: str

    @property
    def scanned(self) -> str:
        """The path as an SQL literal, in which DuckDB sees no pattern."""
        return quoted(glob.escape(str(self.plain.path)))


@dataclass(frozen=True)
class _Part:
    """One staged file: all its columns, SQL of its rows, and the SQL types of the known columns.

    Rows that were converted have their origin in `_file` and `_number`.
    """

    present: tuple[str, ...]
    sql: str
    types: dict[str, str]
    converted: bool = False


def stage(
    cursor: duckdb.DuckDBPyConnection,
    table: Table,
    place: Path,
    files: Sequence[TableFile],
    scratch: Path,
    *,
    encoding: str = UTF_8,
    times: str = AUTO,
) -> Source:
    """Create the temporary relation `raw_<table>` of the files of a table; copies go to `scratch`.

    Raises:
        MissingColumnError: a file lacks a required column.
        UnreadableFileError: a file is not of the format of its suffix.
        AmbiguousTimesError: the numbers of a time column may mean two things.
    """
    stagers = {"parquet": _stage_parquet, "jsonl": _stage_json}
    parts: list[_Part] = []
    delimiters: dict[str, None] = {}
    for number, file in enumerate(files):
        with readable(file.path, file.form):
            name = f"{table.name}_{number}"
            given = _Given(file, plain_file(file, encoding, scratch / name), name)
            delimiters |= dict.fromkeys([given.plain.delimiter])
            parts.append(stagers.get(file.form, _stage_csv)(cursor, table, given))
        for column in table.columns:
            if column.required and column.name not in parts[-1].present:
                raise MissingColumnError(table.name, file.path, column.name, parts[-1].present)
    types = {
        column.name: _common([part.types[column.name] for part in parts if column.name in part.types])
        for column in table.columns
        if any(column.name in part.types for part in parts)
    }
    rows = " UNION ALL ".join(_rows(part, number * PART_ROWS, types) for number, part in enumerate(parts))
    cursor.execute(f"CREATE TEMP VIEW raw_{table.name} AS {rows}")
    known = tuple(column for column in table.columns if column.name in types)
    present = dict.fromkeys(name for part in parts for name in part.present)
    ignored = tuple(name or "(no name)" for name in present if name not in table.names)
    if ignored:
        _log.warning("%s: unknown columns are not imported: %s", place, ", ".join(ignored))
    remarks = tuple(_remarks(place, files, delimiters, encoding))
    with readable(place, files[0].form):  # Parquet is read here for the first time
        readings = {
            column.name: reading_of_times(cursor, f"raw_{table.name}", column.name, place, times)
            for column in known
            if column.kind == "time" and not types[column.name].startswith(("TIMESTAMP", "DATE"))
        }
    return Source(
        table=table,
        file=place,
        columns=known,
        ignored=ignored,
        types=types,
        files=tuple(file.path for file in files),
        times=readings,
        remarks=remarks,
        converted=any(part.converted for part in parts),
    )


def _remarks(
    place: Path, files: Sequence[TableFile], delimiters: Iterable[str], encoding: str
) -> Iterator[str]:
    for delimiter in delimiters:
        if delimiter in OTHER_DELIMITERS and any(file.form == "csv" for file in files):
            yield f"{place.name}: values are taken apart at {delimiter!r}, as its header has no comma"
    if codecs.lookup(encoding).name != UTF_8 and any(file.form == "parquet" for file in files):
        yield f"{place.name}: the encoding {encoding} is not used, as Parquet says how its text is encoded"


@contextmanager
def readable(file: Path, form: str) -> Iterator[None]:
    """Turn an error that the content of a file caused in the block into an UnreadableFileError."""
    try:
        yield
    except csv.Error as error:
        raise UnreadableFileError(file, _NOT_ITS_FORMAT[form]) from error
    except duckdb.Error as error:
        message = str(error)
        if isinstance(error, _NOT_CAUSED_BY_FILES) or "No space left" in message:
            raise
        not_text = "not valid UTF8" in message or "string encoding" in message
        reason = "it holds text that is not UTF-8" if not_text else _NOT_ITS_FORMAT[form]
        raise UnreadableFileError(file, reason) from error


def _common(types: Sequence[str]) -> str:
    return types[0] if len(set(types)) == 1 else "VARCHAR"


def _rows(part: _Part, first: int, types: Mapping[str, str]) -> str:
    columns = ", ".join(
        f"{name}::{held} AS {name}" if name in part.types else f"NULL::{held} AS {name}"
        for name, held in types.items()
    )
    origin = "_file, _number" if part.converted else "NULL::VARCHAR AS _file, NULL::BIGINT AS _number"
    return f"SELECT _row + {first} AS _row, _line, _fault, {origin}, {columns} FROM ({part.sql})"


def _selected(
    row: str,
    line: str,
    values: Mapping[str, Value],
    source: str,
    faults: Sequence[str] = (),
    origin: str = "",
) -> str:
    """Return SQL of the rows of a file, with values taken by the rules of store/imports/values.py."""
    reasons = [*faults, *(fault for value in values.values() for fault in value.faults)]
    fault = f"CASE {' '.join(reasons)} END" if reasons else "NULL::VARCHAR"
    columns = ", ".join(f"{value.sql} AS {name}" for name, value in values.items())
    return f"SELECT {row} AS _row, {line} AS _line, {fault} AS _fault, {origin}{columns} FROM {source}"


def _stage_parquet(cursor: duckdb.DuckDBPyConnection, table: Table, given: _Given) -> _Part:
    options = "binary_as_string = true, hive_partitioning = false, filename = false"
    scan = f"read_parquet({given.scanned}, {options})"
    held = {str(row[0]): str(row[1]) for row in cursor.execute(f"DESCRIBE FROM {scan}").fetchall()}
    if "file_row_number" in {name.lower() for name in held}:
        row = "row_number() OVER ()"  # slower, but free of names of ours
    else:
        row, scan = "file_row_number + 1", f"{scan[:-1]}, file_row_number = true)"
    known = {column.name: column.kind for column in table.columns if column.name in held}
    values = {name: from_parquet(name, kind, held[name]) for name, kind in known.items()}
    types = {name: value.held for name, value in values.items()}
    # Not copied: Parquet is quick to read again, and a copy of the raw rows would double the space.
    if not held.keys() >= _ORIGINS:
        return _Part(tuple(held), _selected(row, "NULL::VARCHAR", values, scan), types)
    origin = f"{ORIGIN_FILE} AS _file, {ORIGIN_ROW} AS _number"
    faults = (f"WHEN {ORIGIN_REASON} IS NOT NULL THEN {ORIGIN_REASON}",)
    sql = _selected(row, ORIGIN_TEXT, values, scan, faults, f"{origin}, ")
    return _Part(tuple(name for name in held if name not in _ORIGINS), sql, types, converted=True)


def _stage_csv(cursor: duckdb.DuckDBPyConnection, table: Table, given: _Given) -> _Part:
    delimiter = given.plain.delimiter
    with given.plain.path.open(encoding=UTF_8, errors="replace", newline="") as lines:
        header = next(csv.reader(lines, delimiter=delimiter), [])
    known = {
        column.name: (column.kind, f"c{header.index(column.name)}")
        for column in table.columns
        if column.name in header
    }
    twice = [name for name in known if header.count(name) > 1]
    if twice:
        raise UnreadableFileError(given.file.path, f"its header names a column twice: {', '.join(twice)}")
    if not known:
        return _Part(tuple(header), "", {})
    text, bad = f"text_{given.name}", f"unparsed_{given.name}"
    columns = ", ".join(f"c{at}: 'VARCHAR'" for at in range(len(header)))  # other names could clash with ours
    chosen = ", ".join(f"{at} AS {name}" for name, (_, at) in known.items())
    cursor.execute(f"""
        CREATE TEMP TABLE {text} AS SELECT row_number() OVER () AS _row, NULL::VARCHAR AS _line, {chosen}
        FROM read_csv({given.scanned}, columns = {{{columns}}}, header = true, auto_detect = false,
            delim = {quoted(delimiter)}, quote = '"', escape = '"', compression = 'none',
            hive_partitioning = false, filename = false, ignore_errors = true, store_rejects = true,
            rejects_table = '{bad}', rejects_scan = '{bad}_scan')""")
    # Rows that cannot be parsed have no number yet: insert them, and renumber those behind them.
    cursor.execute(f"""
        CREATE TEMP TABLE {bad}_rows AS
        SELECT line - 1 AS _row, any_value(csv_line) AS _line, row_number() OVER (ORDER BY line) AS rank
        FROM {bad} GROUP BY line""")
    cursor.execute(f"""
        UPDATE {text} AS r SET _row = r._row + s.rank FROM (
            FROM (SELECT _row FROM {text}) AS good
            ASOF JOIN (SELECT _row - rank AS before, max(rank) AS rank FROM {bad}_rows GROUP BY 1) AS bad
            ON good._row > bad.before
        ) AS s WHERE r._row = s._row""")
    cursor.execute(f"INSERT INTO {text} BY NAME SELECT _row, _line FROM {bad}_rows")
    values = {
        name: from_text(
            name, kind, as_float=kind in ("id", "word", "text") and is_float_text(cursor, text, name)
        )
        for name, (kind, _) in known.items()
    }
    sql = _selected("_row", "_line", values, text, _undecodable(given.plain, known))
    return _Part(tuple(header), sql, dict.fromkeys(known, "VARCHAR"))


def _stage_json(cursor: duckdb.DuckDBPyConnection, table: Table, given: _Given) -> _Part:
    lines = f"lines_{given.name}"
    array = _is_array(given.plain.path)
    how = "format = 'array'" if array else "format = 'newline_delimited', ignore_errors = true"
    cursor.execute(f"""
        CREATE TEMP TABLE {lines} AS SELECT row_number() OVER () AS _row, json
        FROM read_json_objects({given.scanned}, {how}, compression = 'none',
            hive_partitioning = false, filename = false)""")
    keys = f"SELECT DISTINCT unnest(json_keys(json)) FROM {lines} WHERE json_type(json) = 'OBJECT' ORDER BY 1"
    # Without a single object, the columns are unknown.
    present = tuple(str(row[0]) for row in cursor.execute(keys).fetchall()) or table.names
    known = {column.name: column.kind for column in table.columns if column.name in present}
    columns = ", ".join(
        f"json_extract_string(json, '$.{name}') AS {name}, json_type(json, '$.{name}') AS {name}_type"
        for name in known
    )
    texts = [name for name, kind in known.items() if kind == "text"]
    columns += "".join(
        f", CASE WHEN {name}_type = 'ARRAY' THEN json_type(json, '$.{name}[*]') END AS {name}_types"
        for name in texts
    )
    cursor.execute(f"""
        CREATE TEMP TABLE raw_{lines} AS SELECT _row,
            CASE WHEN json_type(json) IS DISTINCT FROM 'OBJECT' THEN coalesce(json::VARCHAR, '') END AS _line,
            {columns} FROM {lines}""")
    cursor.execute(f"DROP TABLE {lines}")
    if not array:
        _restore_lines(cursor, f"raw_{lines}", given.plain.path)
    values = {name: from_json(name, kind) for name, kind in known.items()}
    sql = _selected("_row", "_line", values, f"raw_{lines}", _undecodable(given.plain, known))
    return _Part(present, sql, dict.fromkeys(known, "VARCHAR"))


def _restore_lines(cursor: duckdb.DuckDBPyConnection, relation: str, file: Path) -> None:
    """Set `_line` of the rows that are no JSON object to the text of their line."""
    rows = cursor.execute(f"SELECT _row FROM {relation} WHERE _line IS NOT NULL").fetchall()
    if rows:
        cursor.register("unparsed", _lines(file, {int(row[0]) for row in rows}))
        cursor.execute(f"UPDATE {relation} AS r SET _line = u._line FROM unparsed AS u WHERE r._row = u._row")
        cursor.unregister("unparsed")


def _lines(file: Path, wanted: Set[int]) -> pa.Table:
    """Read some lines by number; blank lines are not counted, because DuckDB skips them."""
    with file.open("rb") as lines:
        numbered = enumerate((line for line in lines if line.strip()), start=1)
        rows = [
            (row, line.decode(errors="replace").rstrip("\r\n")) for row, line in numbered if row in wanted
        ]
    return pa.table({"_row": [row for row, _ in rows], "_line": [line for _, line in rows]})


def _is_array(file: Path) -> bool:
    with file.open("rb") as source:
        while piece := source.read(1 << 16):
            if piece.strip():
                return piece.lstrip().startswith(b"[")
    return False


def _undecodable(plain: PlainFile, known: Mapping[str, object]) -> list[str]:
    """Return SQL of the reason to refuse rows with bytes that could not be decoded, if there may be any."""
    if plain.undecodable is None:
        return []
    return [
        f"WHEN regexp_matches(concat_ws(' ', {', '.join(known)}), '{UNDECODABLE}') THEN '{plain.undecodable}'"
    ]
