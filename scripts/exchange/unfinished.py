"""Conversions of imports in a home: parts, and how far they go, until the import is done."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.disk import disk_errors, replace_file
from store.locks import LockedError, locked

if TYPE_CHECKING:
    from scripts.exchange.sources import SourceFile

_HEAD_BYTES = 1 << 16
_log = logging.getLogger(__name__)


class ImportRunsError(RuntimeError):
    """Another process converts the same files for the same home."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"another import of these files runs, with its parts in {path}: wait until it is done"
        )
        self.path = path


@dataclass(frozen=True)
class ConversionProgress:
    """How far a conversion goes.

    Attributes:
        file: number of files that are done; the position is in the next one.
        offset: bytes of unpacked text that are in parts.
        line: lines that are in parts.
        part: number of parts.
        rows: by table.
    """

    file: int = 0
    offset: int = 0
    line: int = 0
    part: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)

    def after(
        self, counts: Mapping[str, int], offset: int, line: int, *, file_is_done: bool
    ) -> "ConversionProgress":
        """Return the progress after a further part."""
        rows = {name: self.rows.get(name, 0) + counts.get(name, 0) for name in {**self.rows, **counts}}
        if file_is_done:
            return ConversionProgress(self.file + 1, 0, 0, self.part + 1, rows)
        return replace(self, offset=offset, line=line, part=self.part + 1, rows=rows)

    @property
    def said(self) -> str:
        """The numbers of rows, in words."""
        return ", ".join(f"{count:,} {name}" for name, count in self.rows.items()) or "no rows"

    def told(self, sources: Sequence["SourceFile"]) -> str:
        """Where the conversion goes on, in words."""
        if self.file == len(sources):
            return f"all is read ({self.said})"
        return f"line {self.line + 1:,} of {sources[self.file].path.name} ({self.said})"


class Unfinished:
    """The folder of one conversion, below `imports/` of a home; it is locked while the conversion runs.

    Attributes:
        path: the folder.
        tables: the folder of tables that an import reads.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tables = path / "tables"
        self._notes = path / "progress.json"
        self._files: list[dict[str, Any]] = []

    @classmethod
    @contextmanager
    def of(cls, imports: Path, what: Mapping[str, object], *, restart: bool) -> Iterator["Unfinished"]:
        """Open the conversion of `what` (path, layout, options); `restart` forgets an earlier one.

        Raises:
            ImportRunsError: another process works on it.
        """
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        path = imports / key
        with ExitStack() as stack:
            with disk_errors(imports):
                imports.mkdir(parents=True, exist_ok=True)
            with locked(imports, wait=True):  # nobody removes the folder as abandoned before it is locked
                path.mkdir(exist_ok=True)
                try:
                    stack.enter_context(locked(path))
                except LockedError as error:
                    raise ImportRunsError(path) from error
            unfinished = cls(path)
            if restart:
                unfinished.forget()
            yield unfinished

    def begin(self, files: Sequence[Path]) -> ConversionProgress:
        """Return how far an earlier conversion came; one of other files, or of changed ones, begins anew."""
        self._files = [_facts(file) for file in files]
        try:
            noted = json.loads(self._notes.read_text("utf-8"))
            progress = ConversionProgress(**noted["progress"])
            same = noted["files"] == self._files
        except FileNotFoundError:
            progress, same = ConversionProgress(), False
        except (ValueError, KeyError, TypeError):
            _log.warning("%s is damaged: all is read anew", self._notes)
            same = False
        if not same:
            if self._notes.exists():
                _log.warning("the files changed since the import that was cut off: all is read anew")
            self.forget()
            return ConversionProgress()
        for draft in self.tables.rglob("*"):
            if draft.is_file() and (draft.suffix != ".parquet" or int(draft.stem[5:]) >= progress.part):
                draft.unlink()  # what was written behind the last note
        return progress

    def note(self, progress: ConversionProgress) -> None:
        """Note that parts go so far."""
        text = json.dumps({"files": self._files, "progress": asdict(progress)}, indent=1)
        replace_file(self._notes, text)

    def forget(self) -> None:
        """Remove parts and notes."""
        shutil.rmtree(self.tables, ignore_errors=True)
        self._notes.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path)


def left_over(imports: Path, but: Path) -> list[Path]:
    """Return the folders of other conversions that were cut off."""
    return sorted(path for path in imports.glob("*") if path != but and (path / "progress.json").exists())


def _facts(path: Path) -> dict[str, Any]:
    """Return what tells whether a file is still the same one."""
    stat = path.stat()
    with path.open("rb") as file:
        head = hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()
    return {"path": str(path.absolute()), "bytes": stat.st_size, "changed": stat.st_mtime_ns, "head": head}
