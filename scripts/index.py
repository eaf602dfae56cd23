"""triptych index: list, check, publish and remove the indexes of a home."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table
from tqdm import tqdm

from scripts.home_access import existing_home, publish_index, server_of
from scripts.terminal import HomeOption, console
from store.artifact import DamagedArtifactError, NotPublishedError, artifacts, made_at, read_manifest, verify
from store.home import Home
from triptych_client import Client

IdArgument = Annotated[str, typer.Argument(help="An index id, as `triptych index list` prints it.")]

_SHOWN = ("model_id", "factory", "ann_recall@100", "items", "changes", "dim")

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
def list_command(home: HomeOption) -> None:
    """List all indexes, newest last, every byte checked; a star marks the one that serves.

    Example: triptych index list --home demo
    """
    place = existing_home(home)
    ids = artifacts(place.indexes)
    if not ids:
        print(f"there is no index yet: run `triptych reindex --home {home}`")
        return
    current, broken = _current(place)
    wanted = ("model", "factory", "ANN recall", "items", "changes", "dim", "created", "size", "state")
    table = Table("", Column("index", no_wrap=True), *wanted)
    for index_id in tqdm(ids, desc="check", unit="index", leave=False, disable=None):
        state = check_index(place, index_id)
        facts = [str(state.facts.get(name, "–")) for name in _SHOWN]
        row = [
            index_id,
            *facts,
            creation_time(index_id),
            f"{state.size / 1e6:,.1f} MB",
            escape(state.damage or "ok"),
        ]
        table.add_row("*" if index_id == current else "", *row)
    console().print(table)
    if broken:
        print(f"{broken}; publish one: triptych index publish ID --home {home}")


@index_app.command("show")
def show_command(index_id: IdArgument, home: HomeOption) -> None:
    """Print the manifest of an index, then check every byte of it and of its model.

    Example: triptych index show 20260101T120000000000-abcd --home demo
    """
    from indexer.publish import IndexNotFoundError, load_index

    place = existing_home(home)
    if index_id not in artifacts(place.indexes):
        raise IndexNotFoundError(place, index_id)
    print(json.dumps(read_manifest(place.indexes / index_id), indent=2))
    pair = load_index(place, index_id)
    serves = "; it is CURRENT" if _current(place)[0] == index_id else ""
    print(f"ok: every file of the index and of model {pair.model.model_id} is as it was written{serves}")


@index_app.command("publish")
def publish_command(index_id: IdArgument, home: HomeOption) -> None:
    """Make an index the one that serves, after checking it; a running server changes over at once.

    Example: triptych index publish 20260101T120000000000-abcd --home demo
    """
    publish_index(existing_home(home), index_id)
    print(f"index {index_id} serves")


@index_app.command("rollback")
def rollback_command(home: HomeOption) -> None:
    """Publish the newest index that is older than the one that serves.

    Example: triptych index rollback --home demo
    """
    place = existing_home(home)
    roll_back(place)
    print(f"index {_current(place)[0]} serves")


@index_app.command("move")
def move_command(
    home: HomeOption,
    to: Annotated[str, typer.Option(help="milvus, or faiss for back.", show_default=False)],
    milvus: Annotated[str, typer.Option(help="URI of Milvus, such as http://127.0.0.1:19530.")] = "",
    index_id: Annotated[
        str | None, typer.Argument(help="An index id; the one that serves without it.")
    ] = None,
    milvus_token_file: Annotated[
        Path | None, typer.Option(help="File with the token, or user:password, for Milvus.")
    ] = None,
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
    from indexer.publish import IndexNotFoundError, current_index

    if to not in ("milvus", "faiss"):
        raise typer.BadParameter(f"{to!r} is neither milvus nor faiss", param_hint="--to")
    if not milvus:
        raise typer.BadParameter("say where Milvus is", param_hint="--milvus")
    place = existing_home(home)
    index_id = index_id or current_index(place).name
    token = "" if milvus_token_file is None else milvus_token_file.read_text("utf-8").strip()
    connection = MilvusConnection(MilvusAddress(milvus, token))
    if to == "faiss":
        there = drop_collection(connection, index_id)
        print(f"index {index_id} {'is no more' if there else 'was not'} in Milvus")
        return
    if index_id not in artifacts(place.indexes):
        raise IndexNotFoundError(place, index_id)
    index = Index.load(place.indexes / index_id)
    queries = users_to_tune_with(place.indexes, index)
    facts = move_to_milvus(index, connection, queries, recall_asked_of(index))
    print(
        f"index {index_id} is in Milvus: {facts.items} items, efSearch {facts.search_params.ef_search}, "
        f"ANN recall@100 {facts.recall:.4f}"
    )


@index_app.command("prune")
def prune_command(
    home: HomeOption,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest stay.")] = 3,
) -> None:
    """Remove all but the newest indexes and the one that serves.

    Example: triptych index prune --keep 3 --home demo
    """
    from indexer.publish import prune

    place = existing_home(home)
    sizes = {index_id: _size(place.indexes / index_id) for index_id in artifacts(place.indexes)}
    removed = prune(place, keep)
    for index_id in removed:
        print(f"removed {index_id}, {sizes[index_id] / 1e6:,.1f} MB")
    print(f"{len(sizes) - len(removed)} of {len(sizes)} indexes stay")


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


def check_index(home: Home, index_id: str) -> IndexOnDisk:
    """Return the state of an index after reading every byte of it; damage does not raise."""
    directory = home.indexes / index_id
    facts: dict[str, Any] = {}
    damage = None
    try:
        facts = read_manifest(directory)
        verify(directory)
        if facts.get("kind") != "index":
            damage = f"damaged: it is a {facts.get('kind')!r}, not an index"
        elif facts["model_id"] not in artifacts(home.models):
            damage = f"of no use: model {facts['model_id']} is missing"
    except DamagedArtifactError as error:
        inside = error.path.is_relative_to(directory) and error.path != directory
        name = error.path.relative_to(directory) if inside else error.path.name
        damage = f"damaged: {name} {error.reason}"
    return IndexOnDisk(index_id, facts, _size(directory), damage)


def creation_time(artifact_id: str) -> str:
    """Return the time in an artifact id, such as "2026-11-23 19:41:02 UTC"; "–" where it holds none."""
    try:
        at = made_at(artifact_id)
    except ValueError:
        return "–"
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _current(home: Home) -> tuple[str | None, str | None]:
    """Return the id of the index that serves, or why none does."""
    from indexer.publish import current_index

    try:
        return current_index(home).name, None
    except (NotPublishedError, DamagedArtifactError) as error:
        return None, str(error)


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
