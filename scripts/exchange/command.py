"""triptych import: a folder of our tables, or what other tools and public sets have, into the store."""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from encoder.text import text_model_dims
from scripts.exchange.conversion import Limit, convert, preview
from scripts.exchange.formats import LAYOUTS
from scripts.exchange.mapping import read_mapping
from scripts.exchange.sniff import sniff
from scripts.exchange.sources import Layout, SourceFile
from scripts.exchange.unfinished import Unfinished, left_over
from scripts.home_access import server_of, writable_store
from scripts.terminal import console, on_disk
from store.home import Home
from store.imports import (
    AUTO,
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

_PARTS_FORMAT = "parquet"
_FIRST_ROWS = 5
_CELL_CHARS = 60
_STORE_BYTES = 640 << 20  # of memory for DuckDB, when a layout is imported


class FileFormat(StrEnum):
    """What `--format` takes: formats of our tables, and layouts of others."""

    AUTO = "auto"
    PARQUET = "parquet"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    RECBOLE = "recbole"
    MOVIELENS = "movielens"
    LASTFM_HETREC = "lastfm-hetrec"
    AMAZON_REVIEWS = "amazon-reviews"
    YELP = "yelp"
    MIND = "mind"


class TimesOption(StrEnum):
    """What `--times` takes."""

    AUTO = "auto"
    YEARS = "years"
    DATES = "dates"
    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"


class MappingExistsError(FileExistsError):
    """A first mapping would replace a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is there already and is not replaced: name another file by --map")
        self.path = path


def import_command(
    path: Annotated[
        Path,
        typer.Argument(
            help="Folder of items, behaviors, texts, social, impressions, consents; or what --format says."
        ),
    ],
    home: Annotated[
        Path | None,
        typer.Option("--home", envvar="TRIPTYCH_HOME", help="The home directory.", show_default=False),
    ] = None,
    file_format: Annotated[
        FileFormat,
        typer.Option(
            "--format", help="auto goes by the endings of a folder of our tables; or another layout."
        ),
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
    mapping: Annotated[
        Path | None,
        typer.Option("--map", help="A mapping file (TOML) for tables with other columns: docs/importing.md."),
    ] = None,
    first_mapping: Annotated[
        bool,
        typer.Option(
            "--sniff", help="Write a first mapping of PATH (mapping.toml, or as --map says) and show rows."
        ),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Rows of each table at most, for a first try of a layout.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Read all anew where an import of a layout was cut off.")
    ] = False,
) -> None:
    """Import a folder of tables, or a layout of another tool or public set.

    Each table is a file (.parquet, .csv, .tsv, .jsonl, .ndjson or .json, also with .gz or .zst behind) or a
    folder of such files. All of it or, on an error, nothing. Bad rows are counted by reason and written below
    rejects/; where every row of a table is one, the exit code is 1. Where a server runs, the server imports;
    queries see the rows at once, and new items after the next reindex.

    Other layouts are read line by line into parts below imports/ of the home, and these are imported. One
    that was cut off goes on when the same command is given again. docs/importing.md says what becomes what.

    Example: triptych import data/ --home demo; triptych import ml-1m/ --format movielens --home demo
    """
    layout = LAYOUTS.get(file_format.value)
    if first_mapping:
        write_first_mapping(path, mapping or Path("mapping.toml"))
        return
    if home is None:
        raise typer.BadParameter("say which home to import into", param_hint="--home")
    on_disk(home)
    if layout is not None and mapping is not None:
        raise typer.BadParameter(f"{layout.name} needs no mapping: give one of both", param_hint="--map")
    if layout is None and mapping is None and (limit or restart):
        raise typer.BadParameter(
            "it is for --map and for layouts of others", param_hint="--limit" if limit else "--restart"
        )
    place, options = Home(home), _options(home, file_format, strict, encoding, times, create_items, mask)
    if layout is None and mapping is None:
        report = import_tables(place, path, options)
    else:
        sources, described = _sources(path, layout, mapping, None if encoding == UTF_8 else encoding)
        what = {"path": str(path.absolute()), "layout": described, "encoding": encoding, "limit": limit}
        report = import_sources(place, sources, what, options, limit=limit, restart=restart)
    print_report(report)
    if layout is not None:
        print(f"licence: {layout.licence}")
    check_not_all_refused(report)


def _sources(
    path: Path, layout: Layout | None, mapping: Path | None, encoding: str | None
) -> tuple[list[SourceFile], str]:
    """Return the files of a layout or of a mapping, and what tells it from others."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    if mapping is not None:
        return read_mapping(mapping, path), mapping.read_text("utf-8")
    return (layout.find(path, encoding), layout.name) if layout else ([], "")


def _options(
    home: Path,
    file_format: FileFormat,
    strict: bool,
    encoding: str,
    times: TimesOption,
    create_items: bool,
    mask: str,
) -> ImportOptions:
    """Return the options of an import; a wrong one is an error of usage."""
    try:
        check_encoding(encoding)
    except UnknownEncodingError as error:
        raise typer.BadParameter(str(error), param_hint="--encoding") from error
    try:
        masking = Masking.named(mask)
    except UnknownMaskingError as error:
        raise typer.BadParameter(str(error), param_hint="--mask") from error
    return ImportOptions(
        file_format=file_format.value,
        strict=strict,
        encoding=encoding,
        times=times.value,
        create_items=create_items,
        dims=text_model_dims(Home(home).text_models),
        masking=masking,
    )


def import_tables(
    home: Home, path: Path, options: ImportOptions, *, memory: int | None = None
) -> ImportReport:
    """Import a folder of our tables, through the server where one runs.

    Args:
        home: into which.
        path: the folder.
        options: how it is read.
        memory: bytes that DuckDB may take where no server runs.
    """
    address = server_of(home)
    if address is not None:
        return import_through(address, path, options)
    options = replace(options, masking=options.masking.joined(masking_of(home)))
    with writable_store(home) as store:
        if memory is not None:
            store.limit_memory(memory)
        return import_folder(store, path, rejects=home.rejects, options=options)


def import_sources(
    home: Home,
    sources: list[SourceFile],
    what: Mapping[str, object],
    options: ImportOptions,
    *,
    limit: int | None = None,
    restart: bool = False,
) -> ImportReport:
    """Convert files of another layout, and import the parts.

    Args:
        home: into which.
        sources: the files.
        what: by which an import that was cut off is known again.
        options: of the import.
        limit: rows of each table at most; such an import begins anew each time.
        restart: forget an import that was cut off.
    """
    with Unfinished.of(home.imports, what, restart=restart or limit is not None) as unfinished:
        for other in left_over(home.imports, unfinished.path):
            print(
                f"{other} is left of an import that was cut off: give its command again, or remove the folder"
            )
        progress = convert(sources, unfinished, limit=Limit(limit) if limit else None)
        if not progress.rows:
            unfinished.remove()
            raise NoRowsError([source.path for source in sources])
        options = replace(options, file_format=_PARTS_FORMAT, encoding=UTF_8, times=AUTO)
        report = import_tables(home, unfinished.tables, options, memory=_STORE_BYTES)
        unfinished.remove()
    return report


class NoRowsError(ValueError):
    """Files of a layout hold no rows."""

    def __init__(self, files: list[Path]) -> None:
        super().__init__(f"there are no rows in {', '.join(file.name for file in files)}")
        self.files = tuple(files)


def write_first_mapping(path: Path, file: Path) -> None:
    """Write a first mapping of a file or folder, and print the first rows as an import would read them.

    Raises:
        MappingExistsError: the file is there already.
        NoSuchLayoutError, CannotSniffError: see `sniff`.
    """
    if file.exists():
        raise MappingExistsError(file)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    text = sniff(path).replace("THIS_FILE", str(file))
    with file.open("x", encoding="utf-8") as target:
        target.write(text)
    for source in read_mapping(file, path):
        for name, rows in preview(source, _FIRST_ROWS).items():
            columns = list(dict.fromkeys(column for row in rows for column in row))
            table = Table(*columns, title=f"{name} from {source.path.name}")
            for row in rows:
                table.add_row(
                    *("" if row.get(one) is None else str(row[one])[:_CELL_CHARS] for one in columns)
                )
            console().print(table)
    print(
        f"{file} is written: look at the rows, correct it, then triptych import {path} --map {file} --home …"
    )


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
