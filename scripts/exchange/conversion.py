"""Convert files of another layout into parts that an import reads; a conversion that was cut off goes on.

Files are read line by line and written part by part, so memory does not grow with them. After each part its
end is noted, and a conversion of the same files goes on from there (`unfinished`).
"""

import logging
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Never, TypeAlias

from tqdm import tqdm

from scripts.exchange.lines import Lines
from scripts.exchange.records import Position, Record
from scripts.exchange.sources import BadRecordError, Row, SourceFile
from scripts.exchange.unfinished import ConversionProgress, Unfinished
from scripts.exchange.values import NESTED
from store.imports import ConvertedParts

_Bar: TypeAlias = "tqdm[Never]"
PART_BYTES = 256 << 20  # of unpacked text
_SHOW_EVERY = 2_000  # records
MALFORMED = "malformed_row"
_log = logging.getLogger(__name__)


@dataclass
class Limit:
    """A bound on the rows of each table, for a first try.

    Other tables are read first; of the items then only those that they name, so that what is imported fits
    together.

    Attributes:
        rows: of each table.
    """

    rows: int
    _read: Counter[str] = field(default_factory=Counter)
    _named: set[str] = field(default_factory=set)

    def order(self, sources: Sequence[SourceFile]) -> list[SourceFile]:
        """Return the files in the order in which they are to be read."""
        return sorted(sources, key=lambda source: "items" in source.columns)

    def takes(self, row: Row) -> bool:
        """Return whether a row is one of those to import; note the item that it names."""
        table, values = row
        item = values.get("item_id")
        if table == "items" and self._only_named:
            if item not in self._named:
                return False
            self._named.discard(str(item))
            self._read[table] += 1
            return True
        if self._read[table] >= self.rows:
            return False
        self._read[table] += 1
        if isinstance(item, str):
            self._named.add(item)
        return True

    def is_reached(self, source: SourceFile) -> bool:
        """Return whether no further row of a file can be taken."""
        if "items" in source.columns and self._only_named:
            return not self._named
        return all(self._read[table] >= self.rows for table in source.columns)

    @property
    def _only_named(self) -> bool:
        return any(count for table, count in self._read.items() if table not in ("items", "social"))


def convert(
    sources: Sequence[SourceFile],
    unfinished: Unfinished,
    *,
    limit: Limit | None = None,
    part_bytes: int = PART_BYTES,
) -> ConversionProgress:
    """Convert the files from where an earlier conversion of them was cut off; return the numbers of rows.

    Raises:
        UnreadableFileError: a file is not what its layout says.
        OSError: a file cannot be read, or a part cannot be written.
    """
    ordered = limit.order(sources) if limit else list(sources)
    columns = _columns(ordered)
    progress = unfinished.begin([source.path for source in ordered])
    sizes = [source.path.stat().st_size for source in ordered]
    if progress.part:
        _log.info("going on where an import of the same files was cut off: %s", progress.told(ordered))
    with tqdm(total=sum(sizes), desc="read", unit="B", unit_scale=True, disable=None) as bar:
        bar.update(sum(sizes[: progress.file]))
        while progress.file < len(ordered):
            source = ordered[progress.file]
            position = Position(progress.offset, progress.line)
            with Lines(source.path) as lines:
                writer = _Writer(unfinished, progress, columns, limit, part_bytes)
                writer.read(source, lines, position, bar, sum(sizes[: progress.file]))
            progress = writer.progress
    return progress


def preview(source: SourceFile, rows: int) -> dict[str, list[Mapping[str, object]]]:
    """Return the first rows that a file makes, by table; what cannot be read stands there with its reason."""
    found: dict[str, list[Mapping[str, object]]] = {table: [] for table in source.columns}
    with Lines(source.path) as lines:
        for record in source.reader.records(lines):
            try:
                for table, values in _rows(source, record):
                    if len(found[table]) < rows:
                        found[table].append(values)
            except BadRecordError as error:
                first = next(iter(found.values()))
                first.append({"refused": error.reason, "line": record.text})
            if all(len(some) >= rows for some in found.values()) or lines.number > 100 * rows:
                break
    return found


class _Writer:
    """Converts one file, part by part."""

    def __init__(
        self,
        unfinished: Unfinished,
        progress: ConversionProgress,
        columns: Mapping[str, Sequence[str]],
        limit: Limit | None,
        part_bytes: int,
    ) -> None:
        self._unfinished, self.progress = unfinished, progress
        self._columns = columns
        self._limit, self._part_bytes = limit, part_bytes

    def read(self, source: SourceFile, lines: Lines, start: Position, bar: _Bar, before: int) -> None:
        """Convert a file from a position on, and note that it is done; `before` it lie bytes of others."""
        records = source.reader.records(lines, start)
        with closing(_numbered(records)) as numbered:
            done = False
            while not done:
                parts = ConvertedParts(
                    self._unfinished.tables,
                    f"part-{self.progress.part:05}",
                    self._columns,
                    source.reader.encoding,
                )
                try:
                    done = self._part(source, lines, numbered, parts, bar, before)
                except BaseException:
                    parts.abandon()
                    raise
                counts = parts.publish()
                self.progress = self.progress.after(counts, lines.offset, lines.number, file_is_done=done)
                self._unfinished.note(self.progress)
                _log.info("read %s up to line %d: %s", source.path.name, lines.number, self.progress.said)

    def _part(
        self,
        source: SourceFile,
        lines: Lines,
        records: Iterator[tuple[int, Record]],
        parts: ConvertedParts,
        bar: _Bar,
        before: int,
    ) -> bool:
        """Write the next part; return whether the file ends with it."""
        begin, name = lines.offset, str(source.path)
        for number, record in records:
            try:
                for table, values in _rows(source, record):
                    if self._limit is None or self._limit.takes((table, values)):
                        parts.add(table, values, file=name, row=record.number)
            except BadRecordError as error:
                table = next(iter(source.columns))
                if self._limit is None or self._limit.takes((table, {})):
                    parts.add(table, {}, file=name, row=record.number, reason=error.reason, text=record.text)
            if number % _SHOW_EVERY == 0:
                bar.update(before + lines.consumed - bar.n)
            if self._limit is not None and self._limit.is_reached(source):
                break
            if lines.offset - begin >= self._part_bytes:
                return False
        bar.update(before + source.path.stat().st_size - bar.n)
        return True


def _numbered(records: Iterator[Record]) -> Generator[tuple[int, Record]]:
    yield from enumerate(records, start=1)


def _rows(source: SourceFile, record: Record) -> list[Row]:
    """Return the rows of a record, all of them or none.  Raises: BadRecordError."""
    if record.fields is None:
        raise BadRecordError(MALFORMED)
    try:
        return list(source.rows(record.fields))
    except RecursionError as error:  # lists in lists in lists
        raise BadRecordError(NESTED) from error


def _columns(sources: Sequence[SourceFile]) -> dict[str, list[str]]:
    """Return the columns that any of some files gives, by table."""
    columns: dict[str, dict[str, None]] = {}
    for source in sources:
        for table, names in source.columns.items():
            columns.setdefault(table, {}).update(dict.fromkeys(names))
    return {table: list(names) for table, names in columns.items()}
