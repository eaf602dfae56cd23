"""triptych import: a folder of Parquet, CSV or JSON Lines into the store."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from encoder.text import text_model_dims
from scripts.home_access import server_of, writable_store
from scripts.terminal import HomeOption, console
from store.home import Home
from store.imports import (
    UTF_8,
    ImportOptions,
    ImportReport,
    TableReport,
    UnknownEncodingError,
    check_encoding,
    check_not_all_refused,
    import_folder,
)
from store.masking import KINDS, UNMASKED, Masking, UnknownMaskingError
from triptych_client import Client


class FileFormat(StrEnum):
    """What `--format` takes."""

    AUTO = "auto"
    PARQUET = "parquet"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"


class TimesOption(StrEnum):
    """What `--times` takes."""

    AUTO = "auto"
    YEARS = "years"
    DATES = "dates"
    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"


def import_command(
    path: Annotated[
        Path,
        typer.Argument(help="Folder of items, behaviors, texts, social, impressions, consents."),
    ],
    home: HomeOption,
    file_format: Annotated[
        FileFormat, typer.Option("--format", help="auto goes by the file endings.")
    ] = FileFormat.AUTO,
    strict: Annotated[
        bool, typer.Option(help="Fail on the first bad row; nothing is imported then.")
    ] = False,
    encoding: Annotated[str, typer.Option(help="Of the text files, e.g. latin-1.")] = UTF_8,
    times: Annotated[
        TimesOption,
        typer.Option(help="What numbers in time columns are: auto decides by their range, column by column."),
    ] = TimesOption.AUTO,
    create_items: Annotated[
        bool,
        typer.Option("--create-items", help="Make the items that behaviors, texts and impressions name."),
    ] = False,
    mask: Annotated[
        str,
        typer.Option(
            metavar="KINDS", help=f"Mask in texts of people: all, or some of {', '.join(KINDS)}, with commas."
        ),
    ] = "",
) -> None:
    """Import a folder of tables.

    Each table is a file (.parquet, .csv, .tsv, .jsonl, .ndjson or .json, also with .gz or .zst behind) or a
    folder of such files. All of it or, on an error, nothing. Bad rows are counted by reason and written below
    rejects/; where every row of a table is one, the exit code is 1. Where a server runs, the server imports;
    queries see the rows at once, and new items after the next reindex.

    Example: triptych import data/ --home demo
    """
    try:
        check_encoding(encoding)
    except UnknownEncodingError as error:
        raise typer.BadParameter(str(error), param_hint="--encoding") from error
    try:
        masking = Masking.named(mask)
    except UnknownMaskingError as error:
        raise typer.BadParameter(str(error), param_hint="--mask") from error
    place = Home(home)
    options = ImportOptions(
        file_format=file_format.value,
        strict=strict,
        encoding=encoding,
        times=times.value,
        create_items=create_items,
        dims=text_model_dims(place.text_models),
        masking=masking,
    )
    address = server_of(place)
    if address is not None:
        report = import_through(address, path, options)
    else:
        options = replace(options, masking=masking.joined(masking_of(place)))
        with writable_store(place) as store:
            report = import_folder(store, path, rejects=place.rejects, options=options)
    print_report(report)
    check_not_all_refused(report)


def masking_of(home: Home) -> Masking:
    """Return what a server of a home would mask.  Raises: WrongSettingError, UnknownMaskingError."""
    from server.settings import SettingsSource

    return SettingsSource(home.path).load().masking if home.path.is_dir() else UNMASKED


def import_through(address: str, path: Path, options: ImportOptions) -> ImportReport:
    """Import a folder through a running server and return its report.  Raises: CallError."""
    with Client(address) as client:
        reply = client.import_folder(
            path,
            options.file_format,
            strict=options.strict,
            encoding=options.encoding,
            times=options.times,
            create_items=options.create_items,
            mask=options.masking.kinds,
        )
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
            items_made=one.items_made,
            remarks=tuple(one.remarks),
            masked=dict(one.masked),
        )
        for one in reply.tables
    }
    return ImportReport(reply.import_id, tables, reply.seconds)


def print_report(report: ImportReport) -> None:
    """Print what an import did, table by table."""
    table = Table("table", "read", "inserted", "updated", "unchanged", "rejected", title="imported")
    for name, one in report.tables.items():
        rejected = sum(one.rejected.values())
        table.add_row(
            name, *(f"{n:,}" for n in (one.read, one.inserted, one.updated, one.unchanged, rejected))
        )
    console().print(table)
    for name, one in report.tables.items():
        for reason, count in sorted(one.rejected.items()):
            print(f"{name}: {count:,} rejected, {reason}: see {one.rejects_file}")
        for remark in one.remarks:
            print(f"{name}: {remark}")
        if one.masked:
            print(f"{name}: masked {', '.join(f'{n:,} {kind}' for kind, n in sorted(one.masked.items()))}")
        if one.items_made:
            print(f"{name}: {one.items_made:,} items made that only these rows name")
        if one.without_text:
            print(
                f"{name}: {one.without_text:,} with neither title nor text: until a model is trained on"
                " events with them, filters and the popularity fallback find them, and no search does"
            )
        if one.ignored_columns:
            print(f"{name}: columns not used: {', '.join(one.ignored_columns)}")
