"""What must hold of a home after a command was killed in it."""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import duckdb
import pyarrow as pa

from indexer.publish import load_index
from scripts.bench import small_home
from store.artifact import DamagedArtifactError, NotPublishedError, artifacts, read_pointer, verify
from store.database import NotAStoreError, StoreLockedError
from store.export import Export, create_export
from store.home import Home
from store.store import Store
from triptych_client import CallError, Client

log = logging.getLogger(__name__)

Rows = dict[str, pa.Table]


@dataclass
class FaultCounts:
    """Rounds of one stage: tried, killed (the rest ended before), and those with each kind of harm."""

    tried: int = 0
    killed: int = 0
    lost: int = 0
    mixed: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Listing:
    """What a home lists: finished artifacts, by folder, and the pointers that are there."""

    ids: dict[Path, frozenset[str]]
    pointers: frozenset[Path]

    @classmethod
    def of(cls, home: Home) -> Self:
        """Return what a home lists now."""
        folders = (home.exports, home.models, home.indexes)
        pointers = (home.latest_model, home.current_index)
        return cls(
            {folder: frozenset(artifacts(folder)) for folder in folders},
            frozenset(pointer for pointer in pointers if pointer.exists()),
        )


def rows_of_store(home: Home) -> Rows:
    """Return all that a store holds, without the times at which items were written.

    Raises:
        StoreLockedError, NotAStoreError: it does not open.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Store.open(home.database) as store:
            export_id = create_export(store, folder)
        with Export.open(folder / export_id) as export:
            return {
                "items": export.items().drop_columns(["updated_at"]),
                "history": export.history(),
                "valid": export.held_out("valid"),
                "test": export.held_out("test"),
                "texts": export.texts(),
                "friends": export.friends(),
                "impressions": export.impressions(),
            }


def harm_after_kill(home: Home, before: Listing, allowed: list[Rows]) -> tuple[bool, bool]:
    """Return whether rows, artifacts or pointers are lost, and whether something half written shows.

    Args:
        home: to look at; nothing runs on it.
        before: what it listed before the kill.
        allowed: the states that the rows of its store may be in, the one before the kill first.
    """
    lost = mixed = False
    try:
        rows = rows_of_store(home)
        mixed = rows not in allowed
        lost = any(len(rows[name]) < len(table) for name, table in allowed[0].items())
    except (StoreLockedError, NotAStoreError, duckdb.Error) as error:
        log.error("%s does not open: %s", home.database, error)
        lost = True
    now = Listing.of(home)
    for folder, ids in now.ids.items():
        lost |= not before.ids[folder] <= ids
        for artifact_id in ids:
            mixed |= not _sound(folder / artifact_id)
    lost |= not before.pointers <= now.pointers
    return lost, mixed or not _pointers_sound(home, now)


def answers(home: Home) -> bool:
    """Return whether a server starts on a home and, where an index is published, answers a query."""
    try:
        with small_home.serving(home) as address, Client(address, timeout=30) as client:
            serving = client.status().serving
            if serving != home.current_index.exists():
                return False
            return not serving or len(client.query(user_id="u-nobody").item_ids) == 10
    except (small_home.CommandFailedError, CallError) as error:
        log.error("no server answers on %s: %s", home.path, error)
        return False


def _sound(directory: Path) -> bool:
    try:
        verify(directory)
    except DamagedArtifactError as error:
        log.error("%s is listed, but %s", directory, error.reason)
        return False
    return True


def _pointers_sound(home: Home, now: Listing) -> bool:
    """Return whether LATEST and CURRENT, where they are, name what loads."""
    try:
        if home.latest_model in now.pointers:
            read_pointer(home.latest_model, home.models)
        if home.current_index in now.pointers:
            load_index(home, read_pointer(home.current_index, home.indexes).name)
    except (DamagedArtifactError, NotPublishedError) as error:
        log.error("a pointer of %s is wrong: %s", home.path, error)
        return False
    return True
