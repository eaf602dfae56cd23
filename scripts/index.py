"""triptych index: list, check, publish and remove the indexes of a home."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table
from tqdm import tqdm

from scripts.artifacts import CacheOption, PlaceOption, WorkingHome, directory_home, working_home
from scripts.home_access import existing_home, server_of
from scripts.terminal import console
from store.artifact import DamagedArtifactError, NotPublishedError, made_at
from store.home import Home
from store.objects import CURRENT, ArtifactPlace, HomeDirectory, ObjectStorageError, in_object_storage
from triptych_client import Client

IdArgument = Annotated[str, typer.Argument(help="An index id, as `triptych index list` prints it.")]

_SHOWN = ("model_id", "factory", "ann_recall@100", "items", "changes", "dim")
log = logging.getLogger(__name__)

index_app = typer.Typer(
    help="List, check, publish and remove indexes.  Example: triptych index list --home demo",
    no_args_is_help=True,
)


@dataclass(frozen=True)
class IndexOnDisk:
    """One index on disk: its manifest, its bytes, and what is damaged, None where it is sound."""

    index_id: str
    facts: dict[str, Any]
    size: int
    damage: str | None


@index_app.command("list")
def list_command(home: PlaceOption, cache: CacheOption = None) -> None:
    """List all indexes, newest last, every byte checked; a star marks the one that serves.

    In s3://bucket/home, the checksums that were noted with the files are compared, nothing is read. Where
    artifacts of a directory belong in a bucket, the indexes of both are listed; while it cannot be reached,
    those of the directory.

    Example: triptych index list --home demo
    """
    try:
        with working_home(home, cache) as work:
            _print_list(work, home)
    except ObjectStorageError as error:
        if in_object_storage(home):
            raise
        log.warning("%s; these are in %s", error, home)
        _print_list(directory_home(existing_home(Path(home))), home)


def _print_list(work: WorkingHome, home: str) -> None:
    """Print the indexes of a home: where they belong, and those that are in the directory of their owner."""
    shared = work.owned and work.in_bucket
    here = HomeDirectory(work.home)
    places: dict[str, list[ArtifactPlace]] = {one: [work.place] for one in work.place.ids("indexes")}
    for one in here.ids("indexes") if shared else ():
        places.setdefault(one, []).append(here)
    if not places:
        print(f"there is no index yet: run `triptych reindex --home {home}`")
        return
    current, broken = _current(work)
    wanted = ["model", "factory", "ANN recall", "items", "changes", "dim", "created", "size", "state"]
    table = Table("", Column("index", no_wrap=True), *wanted, *(["where"] if shared else []))
    for index_id in tqdm(sorted(places), desc="check", unit="index", leave=False, disable=None):
        states = [check_index(place, index_id) for place in places[index_id]]
        state = next((one for one in states if one.damage), states[0])
        facts = [str(state.facts.get(name, "–")) for name in _SHOWN]
        row = [
            index_id,
            *facts,
            creation_time(index_id),
            f"{state.size / 1e6:,.1f} MB",
            escape(state.damage or "ok"),
        ]
        if shared:
            row.append(" and ".join("directory" if one is here else "bucket" for one in places[index_id]))
        table.add_row("*" if index_id == current else "", *row)
    console().print(table)
    if broken:
        print(f"{broken}; publish one: triptych index publish ID --home {home}")


@index_app.command("show")
def show_command(index_id: IdArgument, home: PlaceOption, cache: CacheOption = None) -> None:
    """Print the manifest of an index, then check every byte of it and of its model.

    Example: triptych index show 20260101T120000000000-abcd --home demo
    """
    from indexer.publish import load_index

    with working_home(home, cache) as work:
        _check_known(work, index_id)
        print(json.dumps(work.place.manifest("indexes", index_id), indent=2))
        work.fetch("indexes", index_id)
        pair = load_index(work.home, index_id)
        serves = "; it is CURRENT" if _current(work)[0] == index_id else ""
    print(f"ok: every file of the index and of model {pair.model.model_id} is as it was written{serves}")


@index_app.command("publish")
def publish_command(index_id: IdArgument, home: PlaceOption, cache: CacheOption = None) -> None:
    """Make an index the one that serves, after checking it; a running server changes over at once.

    In s3://bucket/home, the servers that read from there change over within seconds.

    Example: triptych index publish 20260101T120000000000-abcd --home demo
    """
    with working_home(home, cache) as work:
        _publish(work, index_id)
    print(f"index {index_id} serves")


@index_app.command("rollback")
def rollback_command(home: PlaceOption, cache: CacheOption = None) -> None:
    """Publish the newest index that is older than the one that serves.

    Example: triptych index rollback --home demo
    """
    from indexer.publish import index_before

    with working_home(home, cache) as work:
        if work.in_bucket:
            current = work.before[CURRENT].artifact_id
            if not current:
                raise NotPublishedError(f"{work.place.name}/{CURRENT.name}")
            index_id = index_before(current, work.place.ids("indexes"))
            _publish(work, index_id)
        else:
            roll_back(work.home)
            index_id = str(_current(work)[0])
    print(f"index {index_id} serves")


@index_app.command("move")
def move_command(
    home: PlaceOption,
    to: Annotated[str, typer.Option(help="milvus, or faiss for back.", show_default=False)],
    milvus: Annotated[str, typer.Option(help="URI of Milvus, such as http://127.0.0.1:19530.")] = "",
    index_id: Annotated[
        str | None, typer.Argument(help="An index id; the one that serves without it.")
    ] = None,
    milvus_token_file: Annotated[
        Path | None, typer.Option(help="File with the token, or user:password, for Milvus.")
    ] = None,
    cache: CacheOption = None,
) -> None:
    """Move an index into Milvus, tuned to the ANN recall that its reindex was asked for, or back.

    What serves does not change: `triptych serve --index-engine milvus --milvus URI` says where candidates
    come from, and moves an index by itself where this was not done before. The files of the index stay, so
    the way back only removes the collection.

    Example: triptych index move --to milvus --milvus http://127.0.0.1:19530 --home demo
    """
    from indexer.building import move_to_milvus, recall_asked_of, users_to_tune_with
    from indexer.index import Index
    from indexer.milvus import MilvusAddress, MilvusConnection, drop_collection

    if to not in ("milvus", "faiss"):
        raise typer.BadParameter(f"{to!r} is neither milvus nor faiss", param_hint="--to")
    if not milvus:
        raise typer.BadParameter("say where Milvus is", param_hint="--milvus")
    token = "" if milvus_token_file is None else milvus_token_file.read_text("utf-8").strip()
    with working_home(home, cache) as work:
        index_id = index_id or work.named(CURRENT).name
        connection = MilvusConnection(MilvusAddress(milvus, token))
        if to == "faiss":
            there = drop_collection(connection, index_id)
            print(f"index {index_id} {'is no more' if there else 'was not'} in Milvus")
            return
        _check_known(work, index_id)
        work.fetch("indexes", index_id)
        index = Index.load(work.home.indexes / index_id)
        queries = users_to_tune_with(work.home.indexes, index)
        facts = move_to_milvus(index, connection, queries, recall_asked_of(index))
    print(
        f"index {index_id} is in Milvus: {facts.items} items, {facts.tuned_to}, "
        f"ANN recall@100 {facts.recall:.4f}"
    )


@index_app.command("prune")
def prune_command(
    home: PlaceOption,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest stay.")] = 3,
    cache: CacheOption = None,
) -> None:
    """Remove all but the newest indexes and the one that serves.

    Example: triptych index prune --keep 3 --home demo
    """
    from indexer.publish import current_index, prunable, prune

    with working_home(home, cache) as work:
        ids = work.place.ids("indexes")
        if work.in_bucket:
            serving = work.before[CURRENT].artifact_id or (current_index(work.home).name)
            removed = prunable(serving, ids, keep)
        else:
            removed = prunable(current_index(work.home).name, ids, keep)
        sizes = {index_id: work.place.size("indexes", index_id) for index_id in removed}
        for index_id in removed:
            work.place.remove("indexes", index_id)
            print(f"removed {index_id}, {sizes[index_id] / 1e6:,.1f} MB")
        if work.in_bucket and work.owned:
            prune(work.home, keep)
    print(f"{len(ids) - len(removed)} of {len(ids)} indexes stay")


def roll_back(home: Home) -> None:
    """Make the index before CURRENT serve, through the running server where there is one.

    Raises:
        NoOlderIndexError: there is none.
        DamagedArtifactError: it or its model is damaged; nothing changes.
    """
    from indexer.publish import changing_current, previous_index, publish

    with changing_current(home):
        address = server_of(home)
        if address is None:
            publish(home, previous_index(home))
            return
    with Client(address, connections=1) as client:
        client.rollback_index()


def check_index(place: ArtifactPlace, index_id: str) -> IndexOnDisk:
    """Return the state of an index after checking its files; damage does not raise."""
    directory = Path(place.name) / "indexes" / index_id
    facts: dict[str, Any] = {}
    damage = None
    try:
        facts = place.manifest("indexes", index_id)
        place.check("indexes", index_id)
        if facts.get("kind") != "index":
            damage = f"damaged: it is a {facts.get('kind')!r}, not an index"
        elif facts["model_id"] not in place.ids("models"):
            damage = f"of no use: model {facts['model_id']} is missing"
    except DamagedArtifactError as error:
        inside = error.path.is_relative_to(directory) and error.path != directory
        name = error.path.relative_to(directory) if inside else error.path.name
        damage = f"damaged: {name} {error.reason}"
    return IndexOnDisk(index_id, facts, place.size("indexes", index_id), damage)


def creation_time(artifact_id: str) -> str:
    """Return the time in an artifact id, such as "2026-11-23 19:41:02 UTC"; "–" where it holds none."""
    try:
        at = made_at(artifact_id)
    except ValueError:
        return "–"
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _publish(work: WorkingHome, index_id: str) -> None:
    """Publish an index; one in a bucket is fetched and checked first, unless a server does that."""
    from indexer.publish import load_index

    if work.in_bucket:
        _check_known(work, index_id)
        work.fetch("indexes", index_id)
        load_index(work.home, index_id)
    work.publish(index_id)


def _check_known(work: WorkingHome, index_id: str) -> None:
    """Raise IndexNotFoundError for an index that there is not."""
    from indexer.publish import IndexNotFoundError

    known = work.place.ids("indexes")
    if index_id not in known:
        raise IndexNotFoundError(index_id, known)


def _current(work: WorkingHome) -> tuple[str | None, str | None]:
    """Return the id of the index that serves, or why none does."""
    from indexer.publish import current_index

    try:
        if work.in_bucket and not (named := work.before[CURRENT].artifact_id):
            raise NotPublishedError(f"{work.place.name}/{CURRENT.name}")
        return named if work.in_bucket else current_index(work.home).name, None
    except (NotPublishedError, DamagedArtifactError) as error:
        return None, str(error)
