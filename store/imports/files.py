"""Find the files of a folder that hold the rows of each table."""

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
_MAX_NAMED = 8
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableFile:
    """A file with rows of a table: its format, a key of FORMATS, and its compression, "" for none."""

    path: Path
    form: str
    packing: str


class UnknownFormatError(ValueError):
    """The file format is none of FORMATS."""

    def __init__(self, file_format: str) -> None:
        super().__init__(f"format {file_format!r} is none of auto, {', '.join(FORMATS)}")
        self.file_format = file_format


class NothingToImportError(ValueError):
    """A folder holds no file of any table."""

    def __init__(self, folder: Path, suffixes: Sequence[str], present: Sequence[str]) -> None:
        tables = ", ".join(table.name for table in TABLES)
        found = "; ".join(present[:_MAX_NAMED]) or "nothing"
        more = f" and {len(present) - _MAX_NAMED} more" if len(present) > _MAX_NAMED else ""
        super().__init__(
            f"{folder} holds no file to import: looked for {tables} with {', '.join(suffixes)}, "
            f"each also with {' or '.join(PACKINGS)} behind, or folders of such files; found {found}{more}"
        )
        self.folder = folder


class AmbiguousFilesError(ValueError):
    """A folder holds the rows of a table more than once."""

    def __init__(self, table: str, files: Sequence[Path]) -> None:
        super().__init__(f"{table} is there more than once: {', '.join(map(str, files))}; name one format")
        self.files = tuple(files)


def find_files(folder: Path, file_format: str) -> list[tuple[Table, Path, list[TableFile]]]:
    """Find the tables of a folder, in the order of TABLES: each with its file or folder, and the files in it.

    Parts lie at any depth of a folder with the name of the table, and are ordered by path; the names of the
    folders between have no meaning.

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
        unused += others if path.name not in (MANIFEST, LEDGER) else []  # they are files of an export
        if files:
            places.setdefault(name, []).append((path, files))
    if not places:
        raise NothingToImportError(folder, [end for form in forms for end in FORMATS[form]], unused)
    for one in unused:
        _log.warning("%s: %s is not imported", folder, one)
    found: list[tuple[Table, Path, list[TableFile]]] = []
    for table in TABLES:
        candidates = places.get(table.name, [])
        if len(candidates) > 1:
            raise AmbiguousFilesError(table.name, [path for path, _ in candidates])
        found += [(table, *one) for one in candidates]
    return found


_NAMES = tuple(table.name for table in TABLES)
_NO_TABLE = "no table's name"


def _files_of(path: Path, forms: Sequence[str]) -> tuple[list[TableFile], list[str]]:
    """Return the files at a path that are read, and for each that is not, its name with the reason."""
    if path.is_dir():
        inside = sorted(one for one in path.rglob("*") if one.is_file() and one.name[0] not in "._")
        candidates = [(one, one.relative_to(path.parent), _file(one)) for one in inside]
        if not candidates:
            return [], [f"{path.name}/ (an empty folder)"]
    else:
        ending = path.name.partition(".")[2]
        file = _file(path)
        whole = file is not None and ending.lower() in {end[1:] for end in _endings(file)}
        candidates = [(path, Path(path.name), file if whole else None)]
    files = [file for _, _, file in candidates if file is not None and file.form in forms]
    others = [
        f"{name} ({'of another format than asked' if file else 'no format that is read'})"
        for _, name, file in candidates
        if file is None or file.form not in forms
    ]
    return files, others


def _file(path: Path) -> TableFile | None:
    """Recognise the format and compression of a file by its name; None where it is no format that is read."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packing = PACKINGS.get(suffixes[-1], "") if suffixes else ""
    inner = suffixes[:-1] if packing else suffixes
    for form, endings in FORMATS.items():
        if inner and inner[-1] in endings:
            return TableFile(path, form, packing)
    return None


def _endings(file: TableFile) -> list[str]:
    """Return the endings that a file of this format and compression may have."""
    packed = next((end for end, packing in PACKINGS.items() if packing == file.packing), "")
    return [end + packed for end in FORMATS[file.form]]
