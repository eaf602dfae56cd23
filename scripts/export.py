"""triptych export: an immutable Parquet copy of the store, or its rows in the files of another tool."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scripts.artifacts import CacheOption, PlaceOption, working_home
from scripts.exchange import write_recbole
from store.objects import HomeBucket, LiveStoreElsewhereError, in_object_storage


class ExportFormat(StrEnum):
    """What `export --format` takes."""

    PARQUET = "parquet"
    RECBOLE = "recbole"


def export_command(
    home: PlaceOption,
    file_format: Annotated[
        ExportFormat, typer.Option("--format", help="recbole writes RecBole's atomic files, with the split.")
    ] = ExportFormat.PARQUET,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the files of recbole; NAME below it is made.")
    ] = None,
    name: Annotated[
        str, typer.Option("--name", help="Of the data set in RecBole; default: that of the home.")
    ] = "",
    cache: CacheOption = None,
) -> None:
    """Write a Parquet copy of the store.

    It lands below exports/; where a server runs, the server writes it. With --format recbole the rows that
    the copy shows are written as RecBole's atomic files, too: train, valid and test as evaluate takes them.
    Where the settings of the home name a bucket for artifacts, the copy is uploaded there.

    Example: triptych export --home demo; triptych export --home demo --format recbole --out recbole
    """
    if file_format is ExportFormat.RECBOLE and out is None:
        raise typer.BadParameter("say where the files are to be written", param_hint="--out")
    if file_format is ExportFormat.PARQUET and (out or name):
        raise typer.BadParameter("it is for recbole: exports lie in the home", param_hint="--out")
    if "/" in name or name.startswith("."):
        raise typer.BadParameter("it is a name, not a path", param_hint="--name")
    if file_format is ExportFormat.PARQUET and in_object_storage(home):
        reason = LiveStoreElsewhereError(home)
        raise typer.BadParameter(f"{reason}; [storage] artifacts there say {home}", param_hint="--home")
    with working_home(home, cache) as work, work.export() as export:
        in_bucket = isinstance(work.place, HomeBucket)
        print(f"{work.place.name}/exports/{export.export_id}" if in_bucket else export.path)
        if out is not None:
            for file in write_recbole(export, out, name or Path(home).absolute().name):
                print(file)
