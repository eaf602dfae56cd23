"""triptych import: a folder of Parquet, CSV or JSON Lines into the store."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from scripts.session import HomeOption, own_store, server_of
from server.client import Client
from store.home import Home
from store.importing import ImportReport, TableReport, import_folder


class FileFormat(StrEnum):
    """What `--format` takes."""

    AUTO = "auto"
    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"


def import_command(
    path: Annotated[Path, typer.Argument(help="Folder with any of items, behaviors, texts, social.")],
    home: HomeOption,
    file_format: Annotated[
        FileFormat, typer.Option("--format", help="auto goes by the file endings.")
    ] = FileFormat.AUTO,
    strict: Annotated[
        bool, typer.Option(help="Fail on the first bad row; nothing is imported then.")
    ] = False,
) -> None:
    """Import a folder of tables.

    All of it or, on an error, nothing. Bad rows are counted by reason and written below rejects/. Where a
    server runs, the server imports; queries see the rows at once, and new items after the next reindex.

    Example: triptych import data/ --home demo
    """
    place = Home(home)
    address = server_of(place)
    if address is not None:
        show(import_through(address, path, file_format.value, strict=strict))
        return
    with own_store(place) as store:
        report = import_folder(
            store, path, rejects=place.rejects, file_format=file_format.value, strict=strict
        )
    show(report)


def import_through(address: str, path: Path, file_format: str, *, strict: bool) -> ImportReport:
    """Return what became of a folder that a running server imported.  Raises: CallError."""
    with Client(address) as client:
        reply = client.import_folder(path, file_format, strict=strict)
    tables = {
        one.table: TableReport(
            file=Path(one.file),
            read=one.read,
            inserted=one.inserted,
            updated=one.updated,
            unchanged=one.unchanged,
            rejected=dict(one.rejected),
            ignored_columns=tuple(one.ignored_columns),
            rejects_file=Path(one.rejects_file) if one.rejects_file else None,
            without_text=one.without_text,
        )
        for one in reply.tables
    }
    return ImportReport(reply.import_id, tables, reply.seconds)


def show(report: ImportReport) -> None:
    """Print what an import did, table by table."""
    console = Console()
    table = Table("table", "read", "inserted", "updated", "unchanged", "rejected", title="imported")
    for name, one in report.tables.items():
        rejected = sum(one.rejected.values())
        table.add_row(
            name, *(f"{n:,}" for n in (one.read, one.inserted, one.updated, one.unchanged, rejected))
        )
    console.print(table)
    for name, one in report.tables.items():
        for reason, count in sorted(one.rejected.items()):
            console.print(f"{name}: {count:,} rejected, {reason}: see {one.rejects_file}")
        if one.without_text:
            console.print(
                f"{name}: {one.without_text:,} with neither title nor text: until a model is trained on"
                " events with them, filters and the popularity fallback find them, and no search does"
            )
        if one.ignored_columns:
            console.print(f"{name}: columns not used: {', '.join(one.ignored_columns)}")
