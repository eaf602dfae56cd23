"""Records of files: JSON by line, values between separators, rows of Parquet, each with its number."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from scripts.exchange.lines import Lines
from store.imports import UTF_8, UnreadableFileError

Fields = dict[str, Any]
_PARQUET_ROWS = 4_096


class Record(NamedTuple):
    """One record of a file.

    Attributes:
        number: of its (first) line, from 1.
        fields: its values by name; None where it cannot be read.
        text: what stands there.
    """

    number: int
    fields: Fields | None
    text: str


class Position(NamedTuple):
    """The end of a record: bytes of unpacked text and lines up to it."""

    offset: int = 0
    line: int = 0


@dataclass(frozen=True)
class JsonLines:
    """A JSON object in each line; blank lines are skipped."""

    encoding: str = UTF_8

    def records(self, lines: Lines, start: Position = Position()) -> Iterator[Record]:
        """Yield the records behind a position, in order."""
        check_line_encoding(lines, self.encoding)
        lines.skip_to(*start)
        for line in lines:
            text = line.decode(self.encoding, errors="surrogateescape").strip()
            if not text:
                continue
            try:
                fields = json.loads(text)
            except (ValueError, RecursionError):
                fields = None
            yield Record(lines.number, fields if isinstance(fields, dict) else None, text)


@dataclass(frozen=True)
class Delimited:
    """Values between separators, named by the first line or by `names`.

    Attributes:
        separator: between two values; of several characters where values have no quotes.
        names: of the values; without them the first line has them.
        needs: names that the first line must have.
        quotes: values may stand in double quotes, as in CSV, and then hold line ends.
        optional: so many values at the end may be missing.
        rename: what a name in the first line stands for.
    """

    separator: str = ","
    names: Sequence[str] = ()
    quotes: bool = True
    encoding: str = UTF_8
    optional: int = 0
    rename: Callable[[str], str] = field(default=str)
    needs: Sequence[str] = ()

    def records(self, lines: Lines, start: Position = Position()) -> Iterator[Record]:
        """Yield the records behind a position, in order.

        Raises:
            UnreadableFileError: the first line lacks a name that is needed, or has one twice.
        """
        check_line_encoding(lines, self.encoding)
        names = list(self.names) or self.header(lines)
        if start.offset:
            lines.skip_to(*start)
        for number, values, text in self._quoted(lines) if self.quotes else self._plain(lines):
            missing = len(names) - len(values) if values else 1
            if not 0 <= missing <= self.optional or not values:
                yield Record(number, None, text)
            else:
                yield Record(number, dict(zip(names, values, strict=False)), text)

    def header(self, lines: Lines) -> list[str]:
        """Read the first line and return the names in it.

        Raises:
            UnreadableFileError: it lacks a name that is needed, or has one twice.
        """
        line = next(lines, b"").decode(self.encoding, errors="replace").rstrip("\r\n")
        values = next(csv.reader([line], delimiter=self.separator), []) if self.quotes else None
        names = [self.rename(name.strip()) for name in values or line.split(self.separator)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UnreadableFileError(lines.path, f"its header names a column twice: {', '.join(twice)}")
        for name in self.needs:
            if name not in names:
                reason = f"its first line names no {name}, but {', '.join(names) or 'nothing'}"
                raise UnreadableFileError(lines.path, reason)
        return names

    def _plain(self, lines: Lines) -> Iterator[tuple[int, list[str], str]]:
        for line in lines:
            text = line.decode(self.encoding, errors="surrogateescape").rstrip("\r\n")
            if text:
                yield lines.number, text.split(self.separator), text

    def _quoted(self, lines: Lines) -> Iterator[tuple[int, list[str], str]]:
        read: list[str] = []

        def decoded() -> Iterator[str]:
            for line in lines:
                read.append(line.decode(self.encoding, errors="surrogateescape"))
                yield read[-1]

        # A field of more than 128 Ki characters is an error: a stray quote does not swallow the file.
        reader = csv.reader(decoded(), delimiter=self.separator, strict=True)
        while True:
            first = lines.number + 1
            read.clear()
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error:
                values = None
            if values != []:
                yield first, values or [], "".join(read).rstrip("\r\n")


@dataclass(frozen=True)
class ParquetRows:
    """Rows of a Parquet file, which count as its lines."""

    encoding: str = UTF_8

    def records(self, lines: Lines, start: Position = Position()) -> Iterator[Record]:
        """Yield the rows behind a position, in order.

        Raises:
            UnreadableFileError: it is no Parquet file, or is damaged.
        """
        try:
            with pq.ParquetFile(lines.path) as file:
                rows, size, number = file.metadata.num_rows, lines.path.stat().st_size, 0
                for group in range(file.num_row_groups):
                    held = file.metadata.row_group(group).num_rows
                    if number + held <= start.line:
                        number += held
                        continue
                    for batch in file.iter_batches(_PARQUET_ROWS, row_groups=[group]):
                        for fields in batch.to_pylist():
                            number += 1
                            if number > start.line:
                                lines.go_to(size * number // rows, number)
                                yield Record(number, fields, "")
        except pa.ArrowException as error:
            raise UnreadableFileError(lines.path, "it is no Parquet file, or is damaged") from error


def check_line_encoding(lines: Lines, encoding: str) -> None:
    """Check that lines end in one byte.  Raises: UnreadableFileError."""
    if "\n".encode(encoding) != b"\n":
        raise UnreadableFileError(
            lines.path, f"{encoding} is read in folders of our tables only: convert it to UTF-8"
        )
