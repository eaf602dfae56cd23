"""Samples of layouts that people have, and what an import made of them."""

import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from scripts.exchange.command import import_sources
from scripts.exchange.formats import LAYOUTS
from scripts.exchange.sources import SourceFile
from store.home import Home
from store.imports import ImportOptions, ImportReport

_ROWS = {
    "items": "item_id, title, text, kind, attributes::VARCHAR, available",
    "behaviors": "user_id, item_id, action, weight, ts::VARCHAR, split",
    "texts": "user_id, item_id, text, ts::VARCHAR",
    "social": "user_id, friend_id, relation, weight",
    "impressions": "user_id, item_id, ts::VARCHAR, position, query_id, clicked",
}


class Imported(NamedTuple):
    """What is in the store, by table, and what was refused: file, line and reason."""

    home: Home
    report: ImportReport
    rows: dict[str, list[tuple[Any, ...]]]
    refused: set[tuple[str, int, str]]


def write(folder: Path, **files: str | bytes) -> Path:
    """Write files with names in which _DOT_ is a point and __ a folder; those that end in gz are packed."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return folder


def lines(*rows: dict[str, Any] | str) -> str:
    """Return JSON Lines; text stands as it is."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def imported(
    folder: Path, layout: str, home: Home, *, limit: int | None = None, create_items: bool = False
) -> Imported:
    """Import a folder of a layout into a home."""
    sources = LAYOUTS[layout].find(folder, None)
    options = ImportOptions(create_items=create_items)
    return imported_sources(sources, home, options, limit=limit, what={"layout": layout, "path": str(folder)})


def imported_sources(
    sources: list[SourceFile],
    home: Home,
    options: ImportOptions = ImportOptions(),  # noqa: B008
    *,
    limit: int | None = None,
    what: dict[str, object] | None = None,
) -> Imported:
    """Import files into a home."""
    report = import_sources(home, sources, what or {}, options, limit=limit)
    return Imported(home, report, rows_of(home), refused_rows(report))


def rows_of(home: Home) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of a store that no process has open, sorted; tables without any are left out."""
    with duckdb.connect(str(home.database), read_only=True) as db:
        found = {
            name: sorted(db.execute(f"SELECT {columns} FROM {name}").fetchall(), key=repr)
            for name, columns in _ROWS.items()
        }
    return {name: rows for name, rows in found.items() if rows}


def refused_rows(report: ImportReport) -> set[tuple[str, int, str]]:
    """Return file, line and reason of what an import refused."""
    return {
        (Path(row["file"]).name, row["row"], row["reason"])
        for table in report.tables.values()
        if table.rejects_file is not None
        for row in map(json.loads, table.rejects_file.read_text("utf-8").splitlines())
    }
