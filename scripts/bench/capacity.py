"""How much disk and memory a person, an event, and an item take, measured on a home and its server."""

import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scripts.bench.serve.servers import own_server
from scripts.bench.serve.soak import private_bytes
from store.export import Export
from store.home import Home
from store.store import Store
from triptych_client import Client

_MIB = 1 << 20
_PROCESSES = 2
_WARM = 1_000  # people who are asked for before memory is read
_GIB = 1 << 30
_FILL_SECONDS = 600.0  # of a cluster
_OF_PEOPLE = ("behaviors", "texts", "social")  # tables

# Sizes that the measured units are multiplied with: (items, people).
DECADES = ((10**5, 10**5), (10**6, 10**6), (10**7, 10**7), (10**8, 10**8), (10**8, 10**9))


@dataclass(frozen=True)
class Units:
    """Bytes that one of each takes.

    Attributes:
        index_item, model_item: on the disk and mapped by every query process, of an item.
        store_row: in the live store, of a behaviour, a text or a tie, on average.
        state_user: in the derived state, of a person with as many rows as in this home.
        export_row: in an export, of a row.
    """

    index_item: float
    model_item: float
    store_row: float
    state_user: float
    export_row: float


def measure_capacity(kept: Home, folder: Path, state_url: str = "") -> dict[str, Any]:
    """Return bytes of each unit, the memory of a server's processes, and what larger homes would take.

    Args:
        kept: a home with a published index; a copy is served.
        folder: for the copy.
        state_url: of a Valkey cluster without authentication, which the users are copied to; "" for none.

    Raises:
        TimeoutError: not all of them came there within ten minutes.
    """
    home = Home(folder / "home")
    shutil.copytree(kept.path, home.path)
    with Store.open(home.database) as store:
        rows = store.counts()
    with Export.latest(home.exports) as export:
        users = export.users().to_pylist()
        exported = size_of(export.path)
    before = _cluster_bytes(state_url)
    options = ("--state-url", state_url) if state_url else ()
    with own_server(home, 8, _PROCESSES, options) as server:
        started = private_bytes(server.pids)
        with Client(server.address) as client:
            for user in users[:_WARM]:
                client.query(user_id=user, k=50)
        asked = private_bytes(server.pids)
        _wait_for_users(state_url, len(users))
        copied = _cluster_bytes(state_url) - before
    stored = size_of(home.state)
    of_people = sum(rows[name] for name in _OF_PEOPLE)
    units = Units(
        index_item=_newest(home.indexes) / rows["items"],
        model_item=_newest(home.models) / rows["items"],
        store_row=home.database.stat().st_size / max(1, of_people + rows["items"]),
        state_user=stored / len(users),
        export_row=exported / max(1, of_people + rows["items"]),
    )
    return {
        "rows": rows,
        "people": len(users),
        "bytes_per_unit": asdict(units),
        "cluster_bytes_per_person": copied / len(users) if state_url else None,
        "processes": _PROCESSES,
        "private_mib_started": {role: taken / _MIB for role, taken in started.items()},
        "private_mib_asked": {role: taken / _MIB for role, taken in asked.items()},
        "extended": [extended(units, rows, len(users), *sizes) for sizes in DECADES],
    }


def extended(units: Units, rows: Mapping[str, int], people: int, items: int, users: int) -> dict[str, Any]:
    """Return GiB by part for so many items and users whose people have as many rows as the measured ones."""
    each = sum(rows[name] for name in _OF_PEOPLE) / people
    parts = {
        "index": units.index_item * items,
        "model": units.model_item * items,
        "state": units.state_user * users,
        "store": units.store_row * (each * users + items),
        "export": units.export_row * (each * users + items),
    }
    return {"items": items, "users": users} | {f"{name}_gib": size / _GIB for name, size in parts.items()}


def size_of(path: Path) -> int:
    """Return the bytes that a file, or all files below a folder, take on the disk."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(one.stat().st_blocks * 512 for one in files if one.is_file())


def _cluster_bytes(state_url: str) -> int:
    """Return what the nodes of a cluster say that they use; 0 without one."""
    if not state_url:
        return 0
    with closing(_cluster(state_url)) as cluster:
        told = cluster.info("memory", target_nodes="primaries")
    return sum(int(one["used_memory"]) for one in told.values())


def _wait_for_users(state_url: str, people: int) -> None:
    if not state_url:
        return
    deadline = time.monotonic() + _FILL_SECONDS
    with closing(_cluster(state_url)) as cluster:
        while (there := cluster.dbsize(target_nodes="primaries")) < people:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{there} of {people} people are in {state_url}")
            time.sleep(0.2)


def _cluster(state_url: str) -> Any:
    from valkey.cluster import ValkeyCluster

    at = urlsplit(state_url.partition(",")[0])
    return ValkeyCluster(str(at.hostname), at.port or 6379)


def _newest(folder: Path) -> int:
    return size_of(sorted(one for one in folder.iterdir() if one.is_dir())[-1])
