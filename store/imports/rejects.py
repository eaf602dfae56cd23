"""Rows that an import refused: raised as an error, written to files, found and removed there."""

import json
import re
from pathlib import Path
from typing import Any

import duckdb

from store.database import quoted
from store.disk import replace_file
from store.imports.masked_texts import masked
from store.imports.readers import PART_ROWS, Source
from store.imports.validation import (
    DUPLICATE,
    ITEM_VECTOR_LENGTH,
    NO_MOMENT,
    VECTOR_DIMENSION,
    checks_of,
)
from store.masking import UNMASKED, Masking

_MESSAGE_CHARS = 200
_PERSONAL = ("user_id", "friend_id", "text", "_line")  # columns whose values no message shows


class ImportRejectedError(ValueError):
    """A strict import refused a row; nothing was imported."""

    def __init__(
        self, file: Path, row: int, reason: str, values: dict[str, object], *, personal: bool = True
    ) -> None:
        said = _brief(values, personal=personal)
        super().__init__(f"{file}, row {row}: {reason}: {said}; nothing was imported")
        self.file, self.row, self.reason, self.values = file, row, reason, values


def first_reject(
    cursor: duckdb.DuckDBPyConnection, source: Source, reason: str | None = None
) -> ImportRejectedError:
    """Make the error about the first refused row of a checked table, or the first with one reason."""
    name = source.table.name
    condition = "_reason IS NOT NULL" if reason is None else f"_reason = {quoted(reason)}"
    row, found = cursor.execute(f"""
        SELECT _row, _reason FROM checked_{name} WHERE {condition} ORDER BY _row LIMIT 1""").fetchall()[0]
    columns = {
        DUPLICATE: source.table.identity,
        VECTOR_DIMENSION: ("vector",),
        ITEM_VECTOR_LENGTH: ("vector",),
        NO_MOMENT: source.table.identity,
    }.get(found)
    if columns is None:
        columns = tuple(column for cause, column, _ in checks_of(source) if cause == found)
    if not columns:  # a fault: its name begins with the column, or it is of the whole row
        columns = tuple(column for column in source.types if found.startswith(f"{column}_")) or tuple(
            source.types
        )
    present = [column for column in columns if column in ("_line", *source.types)]
    texts = ", ".join(f"{column}::VARCHAR" for column in present)
    file, number, *values = cursor.execute(f"""
        SELECT _file, _number, {texts} FROM raw_{name} WHERE _row = {row}""").fetchall()[0]
    return ImportRejectedError(
        source.files[row // PART_ROWS] if file is None else Path(file),
        row % PART_ROWS if number is None else number,
        found,
        dict(zip(present, values, strict=True)),
        personal=source.table.name != "items",
    )


def write_rejects(
    cursor: duckdb.DuckDBPyConnection, source: Source, folder: Path, masking: Masking = UNMASKED
) -> Path:
    """Write folder/<table>.jsonl with the number, reason and raw values of each refused row; return its path.

    Where the table lies in several files, each row also names its file. A row that was converted has the file
    and the line from which it was made. Texts of people are masked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = source.table.name
    file = folder / f"{name}.jsonl"
    values = ", ".join(
        f"{column} := {masked(source.table, column, f'raw.{column}::VARCHAR', masking)}"
        for column in source.types
    )
    line = masked(source.table, "_line", "raw._line", masking)
    names = ", ".join(quoted(part) for part in source.files)
    which = f"coalesce(raw._file, ([{names}])[c._row // {PART_ROWS} + 1]) AS file, "
    if len(source.files) == 1 and not source.converted:
        which = ""
    cursor.execute(f"""
        COPY (
            SELECT {which}coalesce(raw._number, c._row % {PART_ROWS}) AS row, c._reason AS reason, {line} AS
            line,
                struct_pack({values}) AS values
            FROM checked_{name} AS c JOIN raw_{name} AS raw USING (_row)
            WHERE c._reason IS NOT NULL ORDER BY c._row
        ) TO {quoted(file)} (FORMAT json)""")
    return file


def rejects_about(folder: Path, user_id: str) -> list[str]:
    """Find the refused rows that name a user in the files below a folder; return them as JSON objects."""
    return [line for file in _reject_files(folder) for line in _lines(file) if _mentions(line, user_id)]


def remove_rejects(folder: Path, user_id: str) -> int:
    """Remove the refused rows that name a user from the files below a folder; return their number."""
    removed = 0
    for file in _reject_files(folder):
        lines = _lines(file)
        kept = [line for line in lines if not _mentions(line, user_id)]
        if len(kept) == len(lines):
            continue
        removed += len(lines) - len(kept)
        replace_file(file, "".join(f"{line}\n" for line in kept))
    return removed


def _brief(values: dict[str, object], *, personal: bool) -> str:
    return ", ".join(
        f"{name} (not shown: it may be personal)"
        if personal and name in _PERSONAL
        else f"{name} = {str(value)[:_MESSAGE_CHARS]!r}"
        for name, value in values.items()
    )


def _reject_files(folder: Path) -> list[Path]:
    """Return the files of all imports, with the drafts that a killed `replace_file` left."""
    return sorted(folder.glob("*/*.jsonl"))


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text("utf-8").split("\n") if line]


def _mentions(line: str, user_id: str) -> bool:
    """Return whether a refused row names a user; in an unparsed row, the id must be a whole word."""
    row: dict[str, Any] = json.loads(line)
    values = row.get("values") or {}
    if user_id in (values.get("user_id"), values.get("friend_id")):
        return True
    return re.search(rf"(?<!\w){re.escape(user_id)}(?!\w)", row.get("line") or "") is not None
