"""Which files of a folder hold which table."""

import logging
from collections.abc import Sequence
from pathlib import Path

from store.artifact import MANIFEST
from store.ledger import LEDGER
from store.tables import TABLES, Table

FORMATS = {"parquet": (".parquet",), "csv": (".csv",), "jsonl": (".jsonl", ".ndjson")}
_log = logging.getLogger(__name__)


class UnknownFormatError(ValueError):
    """The asked file format is none that can be read."""

    def __init__(self, file_format: str) -> None:
        super().__init__(f"format {file_format!r} is none of auto, {', '.join(FORMATS)}")
        self.file_format = file_format


class NothingToImportError(ValueError):
    """A folder holds no file that belongs to a table."""

    def __init__(self, folder: Path, suffixes: Sequence[str]) -> None:
        tables = ", ".join(table.name for table in TABLES)
        super().__init__(f"{folder} holds no file to import: looked for {tables} with {', '.join(suffixes)}")
        self.folder = folder


class AmbiguousFilesError(ValueError):
    """A folder holds one table twice."""

    def __init__(self, table: str, files: Sequence[Path]) -> None:
        super().__init__(f"{table} is there more than once: {', '.join(map(str, files))}; name one format")
        self.files = tuple(files)


def find_files(folder: Path, file_format: str) -> list[tuple[Table, Path]]:
    """Return the file of each table that a folder has, in the order of the tables.

    Raises:
        UnknownFormatError, NotADirectoryError, NothingToImportError, AmbiguousFilesError.
    """
    if file_format != "auto" and file_format not in FORMATS:
        raise UnknownFormatError(file_format)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder; an import reads a folder of tables")
    suffixes = FORMATS.get(file_format, tuple(suffix for group in FORMATS.values() for suffix in group))
    found: list[tuple[Table, Path]] = []
    for table in TABLES:
        paths = [folder / (table.name + suffix) for suffix in suffixes]
        files = [path for path in paths if path.is_file()]
        if len(files) > 1:
            raise AmbiguousFilesError(table.name, files)
        found += [(table, file) for file in files]
    if not found:
        raise NothingToImportError(folder, suffixes)
    known = {file for _, file in found} | {folder / MANIFEST, folder / LEDGER}  # the last: of an export
    for path in sorted(set(folder.iterdir()) - known):
        _log.warning("%s belongs to no table and is not imported", path)
    return found
