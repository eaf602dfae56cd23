"""Measure what a query reads of a user and what a write costs, in LMDB as we do it, in SQLite and in DuckDB.

All stores hold the same synthetic users and answer a read with the same arrays. A write is one behaviour,
durable when it returns: the row is committed to a DuckDB file, as the store does it, and the state follows.
"""

import logging
import random
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from inspect import getsource
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from store import state as state_package
from store.state import EVENT, TEXT, EventRows, Friendships, UserState, find_row, pack_event_identity

log = logging.getLogger(__name__)

_AT_ONCE = 1_000  # users that are filled in one transaction


@dataclass(frozen=True)
class StateOptions:
    """How large the world is, and how much of it is read and written in each of the `rounds`."""

    users: int = 20_000
    events: int = 100
    friends: int = 20
    texts: int = 5
    reads: int = 400
    writes: int = 40
    rounds: int = 5
    threads: Sequence[int] = (1, 4)
    seed: int = 0


@dataclass(frozen=True)
class SyntheticUser:
    """The rows of one user; events and texts by time, ties by friend."""

    user_id: str
    events: EventRows
    texts: npt.NDArray[np.void]
    ties: Friendships


@dataclass(frozen=True)
class Read:
    """What a query needs of a user: events (n,), first the own, then those of friends; digests; weights."""

    events: EventRows
    texts: list[bytes]
    weights: list[float]


class StateStore(Protocol):
    """The state of users in one kind of store; threads may read at once."""

    name: str
    durable: str

    def fill(self, users: Iterator[SyntheticUser]) -> None:
        """Write all users into an empty store, and bring it to disk."""

    def read(self, user_id: str) -> Read:
        """Return what a query needs of a user and the friends."""

    def write(self, user_id: str, event: EventRows) -> None:
        """Add one event (1,) to a user, durably, unless it is known already."""

    def size(self) -> int:
        """Return the bytes on disk."""

    def close(self) -> None:
        """Release the files."""


class CommittedRows:
    """Rows of behaviour in a DuckDB file, which every write waits for, as the store has them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.connection = duckdb.connect(str(folder / "rows.duckdb"))
        self.connection.execute(
            "CREATE TABLE behaviors (user_id VARCHAR, ts BIGINT, item UINTEGER, action UINTEGER,"
            " weight DOUBLE, hidden BOOLEAN)"
        )

    def write(self, user_id: str, event: EventRows) -> None:
        """Commit one row."""
        self.connection.execute(
            "INSERT INTO behaviors VALUES (?, ?, ?, ?, ?, ?)", [user_id, *event[0].item()]
        )


class LmdbPacked:
    """Ours: the packed rows of `store.state`, a checksum behind each value, LMDB without fsync."""

    name = "lmdb, packed"
    durable = "DuckDB row fsynced; LMDB survives the process, and is made anew after the machine stopped"

    def __init__(self, folder: Path) -> None:
        self._rows = CommittedRows(folder)
        self._folder = folder / "state"
        self._state = UserState.open(self._folder)

    def fill(self, users: Iterator[SyntheticUser]) -> None:
        """Write all users, a thousand a transaction."""
        while some := list(islice(users, _AT_ONCE)):
            with self._state.writing() as draft:
                for user in some:
                    draft.put("events", user.user_id, user.events.tobytes())
                    draft.put("texts", user.user_id, user.texts.tobytes())
                    draft.put("friends", user.user_id, user.ties.pack())

    def read(self, user_id: str) -> Read:
        """Return what `UserState.people` finds."""
        (found,) = self._state.users([user_id])
        return Read(found.events, list(found.texts), found.weights.tolist())

    def write(self, user_id: str, event: EventRows) -> None:
        """Commit the row, then append it to the packed rows of the user."""
        self._rows.write(user_id, event)
        with self._state.writing() as draft:
            packed = draft.get("events", user_id)
            if find_row(packed, EVENT.itemsize, pack_event_identity(*event[0].item()[:3])) < 0:
                draft.put("events", user_id, packed + event.tobytes())
            draft.set_commit_id(user_id)

    def size(self) -> int:
        """Return the bytes of the LMDB file that are in use on disk."""
        return _bytes_in(self._folder)

    def close(self) -> None:
        """Release the files."""
        self._state.close()
        self._rows.connection.close()


class SqliteRows:
    """Rows in SQLite, clustered by user (WITHOUT ROWID), in WAL mode without fsync."""

    name = "sqlite, rows"
    durable = "DuckDB row fsynced; SQLite's WAL survives the process, not the machine (synchronous=OFF)"
    tables: tuple[str, ...] = (
        "CREATE TABLE events (user_id TEXT, ts INTEGER, item INTEGER, action INTEGER, weight REAL,"
        " hidden INTEGER, PRIMARY KEY (user_id, ts, item, action)) WITHOUT ROWID",
        "CREATE TABLE texts (user_id TEXT, ts INTEGER, digest BLOB, item INTEGER, hidden INTEGER,"
        " PRIMARY KEY (user_id, ts, digest, item)) WITHOUT ROWID",
        "CREATE TABLE friends (user_id TEXT, friend_id TEXT, relation INTEGER, weight REAL, ts INTEGER,"
        " PRIMARY KEY (user_id, friend_id, relation)) WITHOUT ROWID",
    )

    def __init__(self, folder: Path) -> None:
        self._rows = CommittedRows(folder)
        self._folder = folder / "state"
        self._folder.mkdir()
        self._of_thread = threading.local()
        for table in self.tables:
            self._connection().execute(table)

    def _connection(self) -> sqlite3.Connection:
        """Return the connection of this thread: one that threads share lets one of them in at a time."""
        connection: sqlite3.Connection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                self._folder / "state.sqlite", isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA mmap_size = 4294967296")
            self._of_thread.connection = connection
        return connection

    def fill(self, users: Iterator[SyntheticUser]) -> None:
        """Write all users in one transaction, by the key."""
        connection = self._connection()
        connection.execute("BEGIN")
        for user in users:
            name, ties = user.user_id, user.ties
            events = ((name, *row) for row in user.events.tolist())
            connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", events)
            texts = ((name, ts, digest, item, hidden) for digest, ts, item, hidden in user.texts.tolist())
            connection.executemany("INSERT INTO texts VALUES (?, ?, ?, ?, ?)", texts)
            rows = zip(ties.friends, ties.relations, ties.weights, ties.times, strict=True)
            connection.executemany(
                "INSERT INTO friends VALUES (?, ?, ?, ?, ?)", ((name, *row) for row in rows)
            )
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def read(self, user_id: str) -> Read:
        """Return the rows of the user and the friends from one snapshot."""
        connection = self._connection()
        connection.execute("BEGIN")
        friends = connection.execute(
            "SELECT friend_id, sum(weight) FROM friends WHERE user_id = ? GROUP BY friend_id", [user_id]
        ).fetchall()
        events: list[Any] = []
        for name in [user_id, *(friend for friend, _ in friends)]:
            events += connection.execute(
                "SELECT ts, item, action, weight, hidden FROM events WHERE user_id = ? AND NOT hidden", [name]
            ).fetchall()
        texts = connection.execute(
            "SELECT digest FROM texts WHERE user_id = ? AND NOT hidden ORDER BY ts", [user_id]
        ).fetchall()
        connection.execute("COMMIT")
        return Read(
            np.array(events, EVENT), [digest for (digest,) in texts], [weight for _, weight in friends]
        )

    def write(self, user_id: str, event: EventRows) -> None:
        """Commit the row, then add it to the state."""
        self._rows.write(user_id, event)
        row = (user_id, *event[0].item())
        self._connection().execute("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?)", row)

    def size(self) -> int:
        """Return the bytes of the SQLite files."""
        return _bytes_in(self._folder)

    def close(self) -> None:
        """Release the files; connections of other threads end with them."""
        self._connection().close()
        self._rows.connection.close()


class SqlitePacked(SqliteRows):
    """The packed rows of ours as one SQLite row per user, without its checksums."""

    name = "sqlite, packed"
    tables = (
        "CREATE TABLE users (user_id TEXT PRIMARY KEY, events BLOB, texts BLOB, friends BLOB) WITHOUT ROWID",
    )

    def fill(self, users: Iterator[SyntheticUser]) -> None:
        """Write all users in one transaction."""
        connection = self._connection()
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO users VALUES (?, ?, ?, ?)", map(_packed, users))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def read(self, user_id: str) -> Read:
        """Return the packed rows of the user and the friends from one snapshot."""
        connection = self._connection()
        connection.execute("BEGIN")
        own, texts, friends = connection.execute(
            "SELECT events, texts, friends FROM users WHERE user_id = ?", [user_id]
        ).fetchone()
        ties = Friendships.unpack(friends).by_friend()
        parts = [own]
        for friend in ties:
            parts += connection.execute("SELECT events FROM users WHERE user_id = ?", [friend]).fetchone()
        connection.execute("COMMIT")
        return _read_of(parts, texts, ties)

    def write(self, user_id: str, event: EventRows) -> None:
        """Commit the row, then append it to the packed rows of the user."""
        self._rows.write(user_id, event)
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        (packed,) = connection.execute("SELECT events FROM users WHERE user_id = ?", [user_id]).fetchone()
        if find_row(packed, EVENT.itemsize, pack_event_identity(*event[0].item()[:3])) < 0:
            added = packed + event.tobytes()
            connection.execute("UPDATE users SET events = ? WHERE user_id = ?", [added, user_id])
        connection.execute("COMMIT")


class DuckdbPacked:
    """One packed row per user in DuckDB, written in the transaction that commits the row of behaviour."""

    name = "duckdb, packed"
    durable = "row and state in one fsynced transaction of DuckDB"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows = CommittedRows(folder)
        self._of_thread = threading.local()
        self._cursor().execute(
            "CREATE TABLE users (user_id VARCHAR PRIMARY KEY, events BLOB, texts BLOB, friends BLOB)"
        )

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        """Return the cursor of this thread."""
        cursor: duckdb.DuckDBPyConnection | None = getattr(self._of_thread, "cursor", None)
        if cursor is None:
            cursor = self._of_thread.cursor = self._rows.connection.cursor()
        return cursor

    def fill(self, users: Iterator[SyntheticUser]) -> None:
        """Write all users, a thousand a statement."""
        while some := [_packed(user) for user in islice(users, _AT_ONCE)]:
            columns = [list(column) for column in zip(*some, strict=True)]
            names = ", ".join(f"unnest(${place})" for place in range(1, 5))
            self._cursor().execute(f"INSERT INTO users SELECT {names}", columns)
        self._cursor().execute("CHECKPOINT")

    def read(self, user_id: str) -> Read:
        """Return the packed rows of the user and the friends from one snapshot."""
        cursor = self._cursor()
        cursor.execute("BEGIN")
        found = cursor.execute("SELECT events, texts, friends FROM users WHERE user_id = ?", [user_id])
        own, texts, friends = found.fetchall()[0]
        ties = Friendships.unpack(friends).by_friend()
        found = cursor.execute(
            "SELECT user_id, events FROM users WHERE user_id IN (SELECT unnest($1))", [list(ties)]
        )  # one statement: a look-up a friend takes twenty times as long
        of_friend: dict[str, bytes] = dict(found.fetchall())
        cursor.execute("COMMIT")
        return _read_of([own, *(of_friend[friend] for friend in ties)], texts, ties)

    def write(self, user_id: str, event: EventRows) -> None:
        """Commit the row, and with it the packed rows that it is appended to."""
        connection = self._rows.connection
        connection.execute("BEGIN")
        (packed,) = connection.execute("SELECT events FROM users WHERE user_id = ?", [user_id]).fetchall()[0]
        self._rows.write(user_id, event)
        if find_row(packed, EVENT.itemsize, pack_event_identity(*event[0].item()[:3])) < 0:
            added = packed + event.tobytes()
            connection.execute("UPDATE users SET events = ? WHERE user_id = ?", [added, user_id])
        connection.execute("COMMIT")

    def size(self) -> int:
        """Return the bytes of the DuckDB file, its write-ahead log included."""
        return _bytes_in(self._folder)

    def close(self) -> None:
        """Release the files."""
        self._rows.connection.close()


STORES: tuple[type[LmdbPacked | SqliteRows | SqlitePacked | DuckdbPacked], ...] = (
    LmdbPacked,
    SqliteRows,
    SqlitePacked,
    DuckdbPacked,
)


def measure_state(folder: Path, options: StateOptions) -> dict[str, Any]:
    """Return results and ratios of each store below a folder; every figure is the median of the rounds.

    The stores take turns in an order drawn anew in each round, so that what else the machine does meets all.
    """
    chance = random.Random(options.seed)  # noqa: S311  # turns, not secrets
    made: list[StateStore] = [kind(folder / str(place)) for place, kind in enumerate(STORES)]
    log.info("bench state: %d stores of %d users", len(made), options.users)
    world = list(synthetic_users(options))
    filled = {}
    for one in made:
        began = time.perf_counter()
        one.fill(iter(world))
        filled[one.name] = {"fill_s": time.perf_counter() - began, "mib": one.size() / 2**20}
    alone = CommittedRows(folder / "alone")
    taken: dict[tuple[str, str], list[npt.NDArray[np.float64]]] = {}
    writes = {one.name: one.write for one in made} | {"the row alone": alone.write}
    for turn in tqdm(range(options.rounds), desc="bench state", unit="round", disable=None):
        for count in options.threads:
            users = [f"u{chance.randrange(options.users):07}" for _ in range(options.reads)]
            for one in chance.sample(made, len(made)):
                taken.setdefault((one.name, f"read, {count} threads"), []).append(
                    timed_reads(one, users, count)
                )
        events = [_new_event(options, turn, number) for number in range(options.writes)]
        users = [f"u{chance.randrange(options.users):07}" for _ in events]
        for name in chance.sample(list(writes), len(writes)):
            calls = [partial(writes[name], user, event) for user, event in zip(users, events, strict=True)]
            taken.setdefault((name, "write"), []).append(_timed(calls))
    results = [
        {
            "store": name,
            "call": call,
            "p50_us": statistics.median(float(np.percentile(times, 50)) for times in rounds) * 1e6,
            "p99_us": statistics.median(float(np.percentile(times, 99)) for times in rounds) * 1e6,
        }
        for (name, call), rounds in sorted(taken.items(), key=lambda entry: entry[0][1])
    ]
    stores = [
        {"store": one.name, **filled[one.name], "lines": _lines_of(one), "durable": one.durable}
        for one in made
    ]
    for one in made:
        one.close()
    alone.connection.close()
    log.info("bench state: done")
    return {"results": results, "stores": stores, "ratios": _ratios_to_ours(taken)}


def timed_reads(store: StateStore, users: Sequence[str], threads: int) -> npt.NDArray[np.float64]:
    """Return the seconds (n,) of reading each user, by so many threads at once."""
    lanes = [[partial(store.read, user) for user in users[lane::threads]] for lane in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda lane: lane[0](), lanes))  # opens what each thread has of its own
        return np.concatenate(list(pool.map(_timed, lanes)))


def synthetic_users(options: StateOptions) -> Iterator[SyntheticUser]:
    """Yield the users of a world by id; the same options give the same users."""
    generator = np.random.default_rng(options.seed)
    for number in range(options.users):
        events = np.zeros(options.events, EVENT)
        events["ts"] = np.sort(generator.choice(10**9, options.events, replace=False))
        events["item"] = generator.integers(100_000, size=options.events)
        events["weight"] = 1.0
        texts = np.zeros(options.texts, TEXT)
        texts["digest"] = np.frombuffer(generator.bytes(32 * options.texts), "V32")
        texts["ts"] = np.arange(options.texts)
        others = np.sort(generator.choice(options.users, options.friends, replace=False)).tolist()
        ties = Friendships.of([(f"u{friend:07}", 1, 1.0 + friend % 5, 0) for friend in others])
        yield SyntheticUser(f"u{number:07}", events, texts, ties)


def _new_event(options: StateOptions, turn: int, number: int) -> EventRows:
    """Return an event (1,) that no user has: it is later than all of them."""
    return np.array([(10**9 + turn * options.writes + number, number, 0, 1.0, False)], EVENT)


def _packed(user: SyntheticUser) -> tuple[str, bytes, bytes, bytes]:
    return user.user_id, user.events.tobytes(), user.texts.tobytes(), user.ties.pack()


def _read_of(parts: Sequence[bytes], texts: bytes, ties: dict[str, float]) -> Read:
    """Return a read from packed rows of the user and of each friend, without what is held out."""
    events, rows = np.frombuffer(b"".join(parts), EVENT), np.frombuffer(texts, TEXT)
    if events["hidden"].any():
        events = events[~events["hidden"]]
    return Read(events, [row.tobytes() for row in rows["digest"][~rows["hidden"]]], list(ties.values()))


def _timed(calls: Sequence[Callable[[], object]]) -> npt.NDArray[np.float64]:
    """Return the seconds (n,) that each call took."""
    seconds = np.empty(len(calls))
    for place, call in enumerate(calls):
        began = time.perf_counter()
        call()
        seconds[place] = time.perf_counter() - began
    return seconds


def _ratios_to_ours(taken: dict[tuple[str, str], list[npt.NDArray[np.float64]]]) -> dict[str, float]:
    """Return the median over the rounds of each store's median call over that of ours in the same round."""
    return {
        f"{name}/{call}": statistics.median(
            float(np.median(theirs) / np.median(ours))
            for theirs, ours in zip(rounds, taken[LmdbPacked.name, call], strict=True)
        )
        for (name, call), rounds in taken.items()
        if name != LmdbPacked.name
    }


def _lines_of(store: StateStore) -> int:
    """Return the lines that a store needs: all of `store.state` for ours, the class here for the others."""
    if isinstance(store, LmdbPacked):
        return sum(len(path.read_text("utf-8").splitlines()) for path in _state_modules())
    return len(getsource(type(store)).splitlines())


def _state_modules() -> list[Path]:
    return sorted(Path(state_package.__path__[0]).glob("*.py"))


def _bytes_in(folder: Path) -> int:
    """Return the bytes that the files of a folder take on disk; LMDB's file may have holes."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
