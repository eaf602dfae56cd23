"""Which files of a folder hold which table."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from store.artifact import MANIFEST
from store.ledger import LEDGER
from store.tables import TABLES, Table

FORMATS = {
    "parquet": (".parquet",),
    "csv": (".csv",),
    "tsv": (".tsv",),
    "jsonl": (".jsonl", ".ndjson", ".json"),
}
PACKINGS = {".gz": "gzip", ".zst": "zstd"}
_MOST_NAMED = 8
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableFile:
    """A file with rows of a table: its format, and the compression around it or ""."""

    path: Path
    form: str
    packing: str


class UnknownFormatError(ValueError):
    """The asked file format is none that can be read."""

    def __init__(self, file_format: str) -> None:
        super().__init__(f"format {file_format!r} is none of auto, {', '.join(FORMATS)}")
        self.file_format = file_format


class NothingToImportError(ValueError):
    """A folder holds no file that belongs to a table."""

    def __init__(self, folder: Path, suffixes: Sequence[str], present: Sequence[str]) -> None:
        tables = ", ".join(table.name for table in TABLES)
        there = "; ".join(present[:_MOST_NAMED]) or "nothing"
        more = f" and {len(present) - _MOST_NAMED} more" if len(present) > _MOST_NAMED else ""
        super().__init__(
            f"{folder} holds no file to import: looked for {tables} with {', '.join(suffixes)}, "
            f"each also with {' or '.join(PACKINGS)} behind, or folders of such files; found {there}{more}"
        )
        self.folder = folder


class AmbiguousFilesError(ValueError):
    """A folder holds one table twice."""

    def __init__(self, table: str, files: Sequence[Path]) -> None:
        super().__init__(f"{table} is there more than once: {', '.join(map(str, files))}; name one format")
        self.files = tuple(files)


def find_files(folder: Path, file_format: str) -> list[tuple[Table, Path, list[TableFile]]]:
    """Return each table that a folder has, its file or folder of parts, and the files, in the tables' order.

    Parts lie at any depth of a folder named like the table, and count in the order of their paths; what the
    folders between are called says nothing.

    Raises:
        UnknownFormatError, NotADirectoryError, NothingToImportError, AmbiguousFilesError.
    """
    if file_format != "auto" and file_format not in FORMATS:
        raise UnknownFormatError(file_format)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder; an import reads a folder of tables")
    forms = tuple(FORMATS) if file_format == "auto" else (file_format,)
    places: dict[str, list[tuple[Path, list[TableFile]]]] = {}
    unused: list[str] = []
    for path in sorted(folder.iterdir()):
        name = path.name.split(".")[0]
        files, others = _files_of(path, forms) if name in _NAMES else ([], [f"{path.name} ({_NO_TABLE})"])
        unused += others if path.name not in (MANIFEST, LEDGER) else []  # these: of an export
        if files:
            places.setdefault(name, []).append((path, files))
    if not places:
        raise NothingToImportError(folder, [end for form in forms for end in FORMATS[form]], unused)
    for one in unused:
        _log.warning("%s: %s is not imported", folder, one)
    found: list[tuple[Table, Path, list[TableFile]]] = []
    for table in TABLES:
        here = places.get(table.name, [])
        if len(here) > 1:
            raise AmbiguousFilesError(table.name, [path for path, _ in here])
        found += [(table, *one) for one in here]
    return found


_NAMES = tuple(table.name for table in TABLES)
_NO_TABLE = "no table's name"


def _files_of(path: Path, forms: Sequence[str]) -> tuple[list[TableFile], list[str]]:
    """Return the files to read at a path, and those that are not, each with the reason."""
    if path.is_dir():
        inside = sorted(one for one in path.rglob("*") if one.is_file() and one.name[0] not in "._")
        tried = [(one, one.relative_to(path.parent), _file(one)) for one in inside]
        if not tried:
            return [], [f"{path.name}/ (an empty folder)"]
    else:
        ending = path.name.partition(".")[2]
        file = _file(path)
        whole = file is not None and ending.lower() in {end[1:] for end in _endings(file)}
        tried = [(path, Path(path.name), file if whole else None)]
    files = [file for _, _, file in tried if file is not None and file.form in forms]
    others = [
        f"{name} ({'of another format than asked' if file else 'no format that is read'})"
        for _, name, file in tried
        if file is None or file.form not in forms
    ]
    return files, others


def _file(path: Path) -> TableFile | None:
    """Return a file with its format, told by its ending, or None where it is none that can be read."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packing = PACKINGS.get(suffixes[-1], "") if suffixes else ""
    inner = suffixes[:-1] if packing else suffixes
    for form, endings in FORMATS.items():
        if inner and inner[-1] in endings:
            return TableFile(path, form, packing)
    return None


def _endings(file: TableFile) -> list[str]:
    packed = next((end for end, packing in PACKINGS.items() if packing == file.packing), "")
    return [end + packed for end in FORMATS[file.form]]
