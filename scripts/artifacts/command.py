"""triptych artifacts: copy exports, models and indexes between places, list them, clean up."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from scripts.artifacts.homes import PlaceOption
from scripts.home_access import writable_store
from scripts.index import creation_time
from scripts.terminal import console
from store.home import Home
from store.ledger import Erasure, merge_ledgers, read_ledger, write_ledger
from store.objects import (
    CURRENT,
    KINDS,
    LATEST,
    ArtifactPlace,
    HomeBucket,
    HomeDirectory,
    copy_artifact,
    needed,
    place_of,
)
from store.privacy import add_erasures as add_to_ledger
from store.privacy import list_erasures

artifacts_app = typer.Typer(
    help="Copy, list and clean up exports, models and indexes, in directories and in object storage.  "
    "Example: triptych artifacts copy --from demo --to s3://bucket/demo",
    no_args_is_help=True,
)


@artifacts_app.command("copy")
def copy_command(
    source: Annotated[
        str, typer.Option("--from", metavar="PLACE", help="A home: a directory, or s3://bucket/home.")
    ],
    target: Annotated[
        str, typer.Option("--to", metavar="PLACE", help="Another one; what it lacks is added to it.")
    ],
    serving: Annotated[
        bool, typer.Option("--serving", help="Only what CURRENT and models/LATEST need to serve.")
    ] = False,
    pointers: Annotated[
        bool, typer.Option("--pointers/--no-pointers", help="Whether to move CURRENT and models/LATEST, too.")
    ] = True,
) -> None:
    """Copy the artifacts of a home to another place, and then CURRENT and models/LATEST.

    Every byte is checked. What is there already is not copied again, so a copy that was cut off goes on where
    it was. The live store is not copied: it stays in the directory of its home (triptych backup copies that).
    Erasures that the source knows hide people in the target, too.

    Example: triptych artifacts copy --from demo --to s3://bucket/demo
    """
    there, here = place_of(target), place_of(source)
    before = {pointer: there.pointer(pointer) for pointer in (CURRENT, LATEST)}
    named = {pointer: here.pointer(pointer).artifact_id for pointer in (CURRENT, LATEST)}
    if serving:
        wanted = [one for ptr, name in named.items() if name for one in needed(here, ptr.kind, name)]
    else:
        wanted = [(kind, artifact_id) for kind in KINDS for artifact_id in here.ids(kind)]
    add_erasures(there, erasures_of(here))
    with tempfile.TemporaryDirectory(prefix="triptych-") as folder:
        copied = [copy_artifact(*one, here, there, Home(Path(folder))) for one in dict.fromkeys(wanted)]
    for pointer, artifact_id in named.items() if pointers else ():
        if artifact_id and artifact_id != before[pointer].artifact_id:
            there.move_pointer(pointer, artifact_id, before[pointer])
    print(
        f"{here.name} to {there.name}: {sum(copied)} artifacts copied, {len(copied) - sum(copied)} were there"
    )
    current, latest = (there.pointer(one).artifact_id or "none" for one in (CURRENT, LATEST))
    print(f"index {current} serves there; the latest model is {latest}")


@artifacts_app.command("list")
def list_command(home: PlaceOption) -> None:
    """List all artifacts of a home; a star marks what CURRENT and models/LATEST name.

    Example: triptych artifacts list --home s3://bucket/demo
    """
    place = place_of(home)
    named = {(one.kind, place.pointer(one).artifact_id) for one in (CURRENT, LATEST)}
    table = Table("", "kind", Column("id", no_wrap=True), "created", "size")
    for kind in KINDS:
        for artifact_id in place.ids(kind):
            star = "*" if (kind, artifact_id) in named else ""
            size = f"{place.size(kind, artifact_id) / 1e6:,.1f} MB"
            table.add_row(star, kind, artifact_id, creation_time(artifact_id), size)
    console().print(table)


@artifacts_app.command("clean")
def clean_command(home: PlaceOption) -> None:
    """Remove what uploads, builds and removals left behind that were cut off.

    In object storage, what is older than a day: files without a manifest, and parts of files. Nothing of it
    is ever seen as an artifact.

    Example: triptych artifacts clean --home s3://bucket/demo
    """
    place = place_of(home)
    print(f"{place.name}: {place.sweep()} left behind, and removed")


def erasures_of(place: ArtifactPlace) -> Sequence[Erasure]:
    """Return the ledger of erasures of a place."""
    if isinstance(place, HomeBucket):
        return place.ledger()
    return read_ledger(place.home.erasures) if isinstance(place, HomeDirectory) else ()


def add_erasures(place: ArtifactPlace, erasures: Sequence[Erasure]) -> None:
    """Add erasures to the ledger of a place, so that its exports hide these users.

    Raises:
        ServerOwnsStoreError: a server runs on the home in the place, and some are missing there.
    """
    if isinstance(place, HomeBucket):
        place.add_erasures(erasures)
        return
    known = erasures_of(place)
    merged = merge_ledgers(known, erasures)
    if not isinstance(place, HomeDirectory) or merged == list(known):
        return
    place.home.path.mkdir(parents=True, exist_ok=True)
    if place.home.database.exists():  # whose ledger the file is a copy of
        with writable_store(place.home) as store:
            held = {one.identity for one in list_erasures(store)}
            add_to_ledger(store, [one for one in merged if one.identity not in held])
    write_ledger(place.home.erasures, merged)
