"""Rows that were made of files of another layout: Parquet in ours, each row with its place in its own file.

An import reads such parts as it reads any, and names the original file and line where it refuses a row.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from store.imports.text_files import marked_undecodable, undecodable_reason
from store.tables import MAX_TEXT_CHARS, TABLES, Column

ORIGIN_FILE = "_origin_file"
ORIGIN_ROW = "_origin_row"  # number of the line, from 1
ORIGIN_REASON = "_origin_reason"  # why the row is to be refused, else NULL
ORIGIN_TEXT = "_origin_text"  # of a record that could not be read, else NULL
LONE_SURROGATE = "half_a_surrogate_pair"
_ORIGINS = pa.schema(
    [
        (ORIGIN_FILE, pa.dictionary(pa.int32(), pa.string())),
        (ORIGIN_ROW, pa.int64()),
        (ORIGIN_REASON, pa.string()),
        (ORIGIN_TEXT, pa.string()),
    ]
)
_MAX_LINE_CHARS = 2_000  # of a record that is refused
_BUFFERED_ROWS = 50_000
_BUFFERED_BYTES = 16 << 20
_TABLES = {table.name: table for table in TABLES}


class ConvertedParts:
    """Write rows below a folder, as `<folder>/<table>/<part>.parquet`; a part is there whole, or not at all.

    Values are text, as an import would find them in CSV, but for times, which are of UTC without a zone. A
    file has the `columns` that are named for its table: a column that is not there keeps its values in the
    store.
    """

    def __init__(
        self, folder: Path, part: str, columns: Mapping[str, Collection[str]], encoding: str
    ) -> None:
        self._folder, self._part, self._given = folder, part, columns
        self._undecodable = undecodable_reason(encoding)
        self._tables: dict[str, _TablePart] = {}

    def add(
        self,
        table: str,
        values: Mapping[str, str | datetime | None],
        *,
        file: str,
        row: int,
        reason: str | None = None,
        text: str | None = None,
    ) -> None:
        """Add a row; with a `reason` one that the import will refuse, with the `text` of its record.

        Args:
            table: one of those with columns.
            values: by column; those that are missing are NULL.
            file: the original file.
            row: the number of the line there, from 1.
            reason: why the row cannot be taken.
            text: what could not be read.
        """
        for value in values.values():
            if isinstance(value, str) and not value.isascii() and (wrong := self._wrong(value)):
                reason = reason or wrong
                values = {name: _storable(one) for name, one in values.items()}
                break
        if text is not None:
            text = marked_undecodable(text[:_MAX_LINE_CHARS])
        part = self._tables.get(table)
        if part is None:
            columns = [column for column in _TABLES[table].columns if column.name in self._given[table]]
            part = self._tables[table] = _TablePart(self._folder / table, self._part, columns)
        part.add(values, (file, row, reason, text))

    def publish(self) -> dict[str, int]:
        """Write what is left and give the files their names; return the number of rows by table."""
        for part in self._tables.values():
            part.close()
        return {name: part.rows for name, part in self._tables.items()}

    def abandon(self) -> None:
        """Remove what was written."""
        for part in self._tables.values():
            part.abandon()

    def _wrong(self, text: str) -> str | None:
        """Return why text cannot be stored, None where it can."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start]
            return self._undecodable if "\udc80" <= half <= "\udcff" else LONE_SURROGATE
        return None


class _TablePart:
    """The draft of one file, and the rows that are not in it yet."""

    def __init__(self, place: Path, part: str, columns: Sequence[Column]) -> None:
        self._columns = tuple(
            (column.name, pa.timestamp("us") if column.kind == "time" else pa.string()) for column in columns
        )
        self._schema = pa.schema([*self._columns, *_ORIGINS])
        place.mkdir(parents=True, exist_ok=True)
        self._path = place / f"{part}.parquet"
        self._draft = place / f".{part}.tmp"
        self._writer = pq.ParquetWriter(self._draft, self._schema, compression="zstd", compression_level=1)
        self._values: list[list[str | datetime | None]] = [[] for _ in self._columns]
        self._origins: list[tuple[str, int, str | None, str | None]] = []
        self._bytes = 0
        self.rows = 0

    def add(
        self,
        values: Mapping[str, str | datetime | None],
        origin: tuple[str, int, str | None, str | None],
    ) -> None:
        for (name, _), column in zip(self._columns, self._values, strict=True):
            value = values.get(name)
            if isinstance(value, str):
                if len(value) > MAX_TEXT_CHARS:
                    value = value[: MAX_TEXT_CHARS + 1]  # it is refused as too long all the same
                self._bytes += len(value)
            column.append(value)
        self._origins.append(origin)
        self.rows += 1
        if len(self._origins) >= _BUFFERED_ROWS or self._bytes >= _BUFFERED_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._draft.replace(self._path)

    def abandon(self) -> None:
        self._writer.close()
        self._draft.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._origins:
            return
        files, numbers, reasons, texts = zip(*self._origins, strict=True)
        origins = [
            pa.array(files, pa.string()).dictionary_encode(),
            pa.array(numbers, pa.int64()),
            pa.array(reasons, pa.string()),
            pa.array(texts, pa.string()),
        ]
        arrays = [
            pa.array(column, kind) for column, (_, kind) in zip(self._values, self._columns, strict=True)
        ]
        self._writer.write_batch(pa.record_batch([*arrays, *origins], schema=self._schema))
        for column in self._values:
            column.clear()
        self._origins.clear()
        self._bytes = 0


def _storable(value: str | datetime | None) -> str | datetime | None:
    return marked_undecodable(value) if isinstance(value, str) else value
