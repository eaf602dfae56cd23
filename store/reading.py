"""The files of an import as relations of raw values, one per table, each row with its number in the file."""

import csv
import glob
import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from store.connection import quoted
from store.tables import Column, Kind, Table

_NUMBERS = (
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL"),
    *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"),
)
_NATIVE: dict[Kind, tuple[str, ...]] = {"number": _NUMBERS, "time": (*_NUMBERS, "TIMESTAMP", "DATE")}
_SCALARS = ("id", "text", "word", "number", "time", "flag")
_log = logging.getLogger(__name__)


class MissingColumnError(ValueError):
    """A file lacks a column that its table cannot do without."""

    def __init__(self, table: str, file: Path, column: str, present: Sequence[str]) -> None:
        there = ", ".join(present) or "none"
        super().__init__(f"{file}: table {table} needs a column {column!r}; the columns there are: {there}")
        self.table, self.file, self.column, self.present = table, file, column, tuple(present)


class UnreadableFileError(ValueError):
    """A file is not of the format that its name says."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file} cannot be read: {reason}")
        self.file = file


@dataclass(frozen=True)
class Source:
    """A file whose rows lie in the temporary relation `raw_<table>`.

    The relation has `_row` (1-based data row), `_line` (a row that does not parse, else NULL) and `columns`
    as they came: text, or for Parquet numbers, times and lists of SQL type `types[column]`.
    """

    table: Table
    file: Path
    columns: tuple[Column, ...]
    ignored: tuple[str, ...]
    types: dict[str, str]


def stage(cursor: duckdb.DuckDBPyConnection, table: Table, file: Path) -> Source:
    """Return a file as the temporary relation `raw_<table>`.

    Raises:
        MissingColumnError: a required column is not there.
        UnreadableFileError: the file is not what its suffix says.
    """
    stagers = {".parquet": _stage_parquet, ".csv": _stage_csv}
    with readable(file):
        return stagers.get(file.suffix, _stage_json)(cursor, table, file)


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn what the block meets in a broken file into an UnreadableFileError."""
    try:
        yield
    except (duckdb.Error, csv.Error) as error:
        reason, _, _ = str(error).partition("\n")  # what follows is a page of advice from DuckDB
        raise UnreadableFileError(file, reason) from error


def _source(
    table: Table, file: Path, present: Sequence[str], types: Mapping[str, str] | None = None
) -> Source:
    for column in table.columns:
        if column.required and column.name not in present:
            raise MissingColumnError(table.name, file, column.name, present)
    known = tuple(column for column in table.columns if column.name in present)
    ignored = tuple(name for name in present if name not in table.names)
    if ignored:
        _log.warning("%s: unknown columns are not imported: %s", file, ", ".join(ignored))
    return Source(table, file, known, ignored, {c.name: (types or {}).get(c.name, "VARCHAR") for c in known})


def _stage_parquet(cursor: duckdb.DuckDBPyConnection, table: Table, file: Path) -> Source:
    scan = f"read_parquet({_scanned(file)}, binary_as_string = true, file_row_number = true)"
    held = {str(row[0]): str(row[1]) for row in cursor.execute(f"DESCRIBE FROM {scan}").fetchall()}
    del held["file_row_number"]
    source = _source(table, file, list(held), held)
    columns = ["file_row_number + 1 AS _row", "NULL::VARCHAR AS _line"]
    for column in source.columns:
        name, is_list = column.name, held[column.name].endswith("]")
        if (column.kind == "vector" and is_list) or (
            held[name].startswith(_NATIVE.get(column.kind, ())) and not is_list
        ):
            columns.append(name)
            continue
        source.types[name] = "VARCHAR"
        nested = column.kind == "json" and held[name] not in ("VARCHAR", "JSON")  # a struct or a map
        columns.append(f"{'to_json' if nested else ''}({name})::VARCHAR AS {name}")
    # A view: Parquet is quick to read again, and a copy of the raw rows would double the space.
    cursor.execute(f"CREATE TEMP VIEW raw_{table.name} AS SELECT {', '.join(columns)} FROM {scan}")
    return source


def _stage_csv(cursor: duckdb.DuckDBPyConnection, table: Table, file: Path) -> Source:
    # Replaced bytes in the header make an unknown column; in a row behind it they are DuckDB's to refuse.
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        header = next(csv.reader(lines), [])
    if len(set(header)) < len(header):
        raise UnreadableFileError(file, f"its header names a column twice: {', '.join(header)}")
    source = _source(table, file, header)
    raw, rejects = f"raw_{table.name}", f"unparsed_{table.name}"
    columns = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in header)
    cursor.execute(f"""
        CREATE TEMP TABLE {raw} AS
        SELECT row_number() OVER () AS _row, NULL::VARCHAR AS _line, {", ".join(source.types)}
        FROM read_csv({_scanned(file)}, columns = {{{columns}}}, header = true, auto_detect = false,
            delim = ',', quote = '"', escape = '"', ignore_errors = true, store_rejects = true,
            rejects_table = '{rejects}', rejects_scan = '{rejects}_scan')""")
    # Rows that do not parse are missing from the numbering: put them back, and shift those behind them.
    cursor.execute(f"""
        CREATE TEMP TABLE {rejects}_rows AS
        SELECT line - 1 AS _row, any_value(csv_line) AS _line, row_number() OVER (ORDER BY line) AS rank
        FROM {rejects} GROUP BY line""")
    cursor.execute(f"""
        UPDATE {raw} AS r SET _row = r._row + s.rank FROM (
            FROM (SELECT _row FROM {raw}) AS good
            ASOF JOIN (SELECT _row - rank AS before, max(rank) AS rank FROM {rejects}_rows GROUP BY 1) AS bad
            ON good._row > bad.before
        ) AS s WHERE r._row = s._row""")
    cursor.execute(f"INSERT INTO {raw} BY NAME SELECT _row, _line FROM {rejects}_rows")
    return source


def _stage_json(cursor: duckdb.DuckDBPyConnection, table: Table, file: Path) -> Source:
    raw, lines = f"raw_{table.name}", f"lines_{table.name}"
    cursor.execute(f"""
        CREATE TEMP TABLE {lines} AS SELECT row_number() OVER () AS _row, json
        FROM read_json_objects({_scanned(file)}, format = 'newline_delimited', ignore_errors = true)""")
    keys = f"SELECT DISTINCT unnest(json_keys(json)) FROM {lines} WHERE json_type(json) = 'OBJECT' ORDER BY 1"
    present = [str(row[0]) for row in cursor.execute(keys).fetchall()]
    # Without a single object there is no telling which columns the file would have.
    source = _source(table, file, present or table.names)
    bad = " OR ".join(
        ["json_type(json) IS DISTINCT FROM 'OBJECT'"]
        + [
            f"json_type(json, '$.{c.name}') IN ('ARRAY', 'OBJECT')"
            for c in source.columns
            if c.kind in _SCALARS
        ]
    )
    columns = ", ".join(f"json_extract_string(json, '$.{name}') AS {name}" for name in source.types)
    cursor.execute(f"""
        CREATE TEMP TABLE {raw} AS
        SELECT _row, CASE WHEN {bad} THEN '' END AS _line, {columns} FROM {lines}""")
    wanted = [int(row[0]) for row in cursor.execute(f"SELECT _row FROM {raw} WHERE _line = ''").fetchall()]
    if wanted:
        cursor.register("unparsed", _lines(file, set(wanted)))
        cursor.execute(f"UPDATE {raw} AS r SET _line = u._line FROM unparsed AS u WHERE r._row = u._row")
        cursor.unregister("unparsed")
    cursor.execute(f"DROP TABLE {lines}")
    return source


def _lines(file: Path, wanted: Set[int]) -> pa.Table:
    """Return the wanted lines; blank ones have no number, as DuckDB skips them."""
    with file.open("rb") as lines:
        numbered = enumerate((line for line in lines if line.strip()), start=1)
        rows = [
            (row, line.decode(errors="replace").rstrip("\r\n")) for row, line in numbered if row in wanted
        ]
    return pa.table({"_row": [row for row, _ in rows], "_line": [line for _, line in rows]})


def _scanned(file: Path) -> str:
    """Return a path as DuckDB's readers take it: a literal, and no pattern."""
    return quoted(glob.escape(str(file)))
