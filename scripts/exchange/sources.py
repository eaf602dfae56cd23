"""What a layout is to an import: files, how records lie in them, and the rows that they make."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from scripts.exchange.lines import PACKINGS, Lines
from scripts.exchange.records import Fields, Position, Record

Values = dict[str, str | datetime | None]
Row = tuple[str, Values]  # a table, and values by column
_MAX_NAMED = 12


class RecordReader(Protocol):
    """How records lie in a file: JsonLines, Delimited, ParquetRows."""

    @property
    def encoding(self) -> str:
        """Of the text."""
        ...

    def records(self, lines: Lines, start: Position = ...) -> Iterator[Record]:
        """Yield the records behind a position, in order."""
        ...


class BadRecordError(ValueError):
    """A record cannot become rows; the import refuses it with this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NoSuchLayoutError(ValueError):
    """A path holds none of the files of a layout."""

    def __init__(self, path: Path, layout: str, wanted: str) -> None:
        present = sorted(one.name for one in path.iterdir()) if path.is_dir() else []
        found = ", ".join(present[:_MAX_NAMED]) or "nothing" if path.is_dir() else "a file of another kind"
        more = f" and {len(present) - _MAX_NAMED} more" if len(present) > _MAX_NAMED else ""
        super().__init__(f"{path} is no {layout}: looked for {wanted}; found {found}{more}")
        self.path = path


@dataclass(frozen=True)
class SourceFile:
    """One file to import.

    Attributes:
        columns: the columns that its rows have, by table; what cannot be read counts for the first table.
        reader: how its records lie in it.
        rows: makes rows of a record; raises BadRecordError.
    """

    path: Path
    columns: Mapping[str, Sequence[str]]
    reader: RecordReader
    rows: Callable[[Fields], Iterable[Row]]


@dataclass(frozen=True)
class Layout:
    """A layout that people have.

    Attributes:
        find: finds its files at a path, items first; takes the path, and an encoding where one was given.
        licence: of the public sets in it.
        checked: on what it was tried.
    """

    name: str
    find: Callable[[Path, str | None], list[SourceFile]]
    licence: str
    checked: str


def file_at(path: Path, *names: str) -> Path | None:
    """Return the first of some files in a folder, packed or not; or the path where it is one of them."""
    for name in names:
        for ending in ("", *PACKINGS):
            place = path / f"{name}{ending}" if path.is_dir() else path
            if place.is_file() and place.name == f"{name}{ending}":
                return place
    return None


def files_below(path: Path, *endings: str) -> list[Path]:
    """Return the files with one of some endings below a folder, packed or not; or the path itself."""
    if path.is_file():
        return [path]
    whole = tuple(f"{ending}{packing}" for ending in endings for packing in ("", *PACKINGS))
    return sorted(
        one
        for one in path.rglob("*")
        if one.is_file() and one.name[0] not in "._" and one.name.endswith(whole)
    )
