"""The live store: one DuckDB file, owned by one process, safe to use from many threads."""

import hashlib
import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa

from store.attributes import usable_attributes
from store.database import Commit, add_commit, attach, connect, read_last_commit, single_value, transaction
from store.disk import disk_errors, errors_of_disks
from store.queries import (
    BOUNDED_WEIGHT,
    HELD_OUT_SPLITS,
    NAMED_USERS,
    VISIBLE,
    VISIBLE_TEXT,
    Reader,
    shared,
    used,
)
from store.records import Event, Friend, ItemRecord, UserViews, item_of_row
from store.tables import TABLES

_ITEM = """
    SELECT item_id, title, text, kind, attributes, available, updated_at, vector FROM data.items
    WHERE item_id = $1"""
_FRIENDS = f"""
    SELECT user_id, friend_id, {BOUNDED_WEIGHT} FROM data.social
    WHERE {used("S")} AND {shared("H", "friend_id")}"""
_EVENTS = "SELECT user_id, item_id, action, weight, ts, split FROM data.behaviors WHERE true"
_TEXTS = f"SELECT user_id, item_id, text, ts FROM data.texts WHERE {used('T')}"
_UNUSED_HISTORIES = "SELECT user_id FROM data.consents WHERE view = 'H' AND NOT use"
# Whose place in the user index hangs on a consent: who keeps a view back, and who has such a friend.
_RESTRICTED = """
    SELECT user_id FROM data.consents WHERE NOT (use AND share)
    UNION SELECT user_id FROM data.social WHERE friend_id IN (
        SELECT user_id FROM data.consents WHERE view = 'H' AND NOT (use AND share))"""
_ATTRIBUTES = """
    SELECT item_id, attributes::VARCHAR AS attributes FROM data.items WHERE available ORDER BY item_id"""
# By length, so that texts that are encoded in one batch need little padding.
_TEXTS_OF = f"SELECT DISTINCT text FROM data.texts WHERE user_id = $1 AND {VISIBLE_TEXT}"
_DISTINCT_TEXTS = f"SELECT DISTINCT text FROM data.texts WHERE {VISIBLE_TEXT} ORDER BY length(text), text"
# `marks` is an Arrow table that the caller registers.
_MARK_SPLITS = """
    UPDATE data.behaviors AS event SET split = mark.split FROM marks AS mark
    WHERE event.user_id = mark.user_id AND event.item_id = mark.item_id AND event.action = mark.action
      AND event.ts IS NOT DISTINCT FROM mark.ts::TIMESTAMP"""
_BATCH = 65_536
_SPLITS = {None, "train", *HELD_OUT_SPLITS}
_EventRow = tuple[str, str, str, float, datetime | None, str | None]
_TextRow = tuple[str | None, str, datetime | None]
log = logging.getLogger(__name__)


class ItemNotFoundError(LookupError):
    """The store has no such item; the server answers NOT_FOUND."""

    def __init__(self, item_id: str) -> None:
        super().__init__(f"item {item_id!r} is not in the store")
        self.item_id = item_id


class UnknownSplitError(ValueError):
    """A split is none of train, valid, test and NULL."""

    def __init__(self, split: object) -> None:
        super().__init__(f"split {split!r} is none of train, valid, test and NULL")
        self.split = split


class Store(Reader):
    """The items and the raw views of all users; threads may share it, and writers take turns.

    Attributes:
        home_id: random, drawn when the store was created; a copy of the file has the same.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        self._db = connection
        self._path = path
        self._invalid = False
        self._writing = threading.Lock()
        with closing(connection.cursor()) as cursor:
            self._last_commit = read_last_commit(cursor)
            ((salt,),) = cursor.execute("SELECT salt FROM data.salt").fetchall()
        self.home_id = hashlib.sha256(f"home {salt}".encode()).hexdigest()[:32]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the store in a file; a missing one is created, an older schema is migrated.

        Raises:
            UnusablePathError: the path has a question mark or a backslash.
            StoreLockedError: another process owns the file.
            NotAStoreError: the file is damaged or foreign.
            NewerStoreError: the file has a newer schema.
            DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
        """
        return cls(connect(path), path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def limit_memory(self, size: int) -> None:
        """Bound the memory of DuckDB, in bytes; what needs more is written to a folder beside the store."""
        with closing(self._db.cursor()) as cursor:
            cursor.execute(f"SET GLOBAL memory_limit = '{size}B'")

    @contextmanager
    def snapshot(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a cursor in a transaction, which sees one state of the store, for SQL in this package."""
        try:
            with disk_errors(self._path), closing(self._db.cursor()) as cursor, transaction(cursor):
                yield cursor
        except errors_of_disks() as error:
            # As after a checkpoint that met a full disk: DuckDB refuses the file until it is attached again.
            self._invalid |= "has been invalidated" in f"{error} {error.__cause__}"
            raise

    @property
    def last_commit(self) -> Commit:
        """The last write transaction."""
        return self._last_commit

    @contextmanager
    def writing(self, touched: set[str] | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the only write transaction and yield its cursor: all of the block is kept, or nothing of it.

        Args:
            touched: must hold, when the block ends, every user whose rows changed. Without it, all that is
                derived from the store has to be derived again.

        Raises:
            DiskFullError, ReadOnlyDiskError: the disk takes nothing more; nothing is kept.
        """
        with self._writing:
            if self._invalid:
                self._reattach()
            with self.snapshot() as cursor:
                yield cursor
                commit = add_commit(cursor, self._last_commit, touched)
            self._last_commit = commit

    def _reattach(self) -> None:
        """Attach the file again, with all that was committed, after DuckDB refused it."""
        log.warning("attaching %s again", self._path)
        with closing(self._db.cursor()) as cursor:
            attach(cursor, self._path)
            self._last_commit = read_last_commit(cursor)
        self._invalid = False

    def user_views(self, user_id: str) -> UserViews:
        """Read the visible views of one user; an unknown user has empty ones.

        The history is ordered by time (undated first), then item id; friends by id, each with the sum over
        the relations as weight and with the visible history of the friend. A view that the user does not
        allow to be used is empty, and friends who do not share their history are left out.
        """
        return self.users_views([user_id])[user_id]

    def users_views(self, user_ids: Sequence[str]) -> dict[str, UserViews]:
        """Read what `user_views` does, for several users and from one state of the store."""
        with self.snapshot() as cursor:
            return _read_views(cursor, user_ids)

    def item(self, item_id: str) -> ItemRecord:
        """Read one item.

        Raises:
            ItemNotFoundError: the store has no such item.
            BadAttributesError: its attributes cannot be used.
        """
        return item_of_row(self._item_row(item_id))

    def title_and_text(self, item_id: str) -> tuple[str | None, str | None]:
        """Read the title and the text of one item, whose attributes may be unusable.

        Raises:
            ItemNotFoundError: the store has no such item.
        """
        _, title, text, *_ = self._item_row(item_id)
        return title, text

    def item_table(self, item_id: str) -> pa.Table:
        """Read title, text, kind, attributes (JSON) and vector of one item, whose attributes may be unusable.

        Raises:
            ItemNotFoundError: the store has no such item.
        """
        _, title, text, kind, attributes, _, _, vector = self._item_row(item_id)
        texts = {"title": title, "text": text, "kind": kind, "attributes": attributes}
        columns = {name: pa.array([value], pa.string()) for name, value in texts.items()}
        return pa.table(columns | {"vector": pa.array([vector], pa.list_(pa.float32()))})

    def _item_row(self, item_id: str) -> tuple[Any, ...]:
        with closing(self._db.cursor()) as cursor:
            row: tuple[Any, ...] | None = cursor.execute(_ITEM, [item_id]).fetchone()
        if row is None:
            raise ItemNotFoundError(item_id)
        return row

    def counts(self) -> dict[str, int]:
        """Count the rows of each table, and the distinct users over all tables."""
        sources = {table.name: f"data.{table.name}" for table in TABLES} | {"users": f"({NAMED_USERS})"}
        columns = ", ".join(f"(SELECT count(*) FROM {source}) AS {name}" for name, source in sources.items())
        with closing(self._db.cursor()) as cursor:
            row = cursor.execute(f"SELECT {columns}").fetchall()[0]
        return dict(zip(sources, row, strict=True))

    def user_ids(self) -> list[str]:
        """Return the ids of all users that any table has, in no order."""
        with closing(self._db.cursor()) as cursor:
            return [str(row[0]) for row in cursor.execute(f"SELECT user_id FROM ({NAMED_USERS})").fetchall()]

    def bad_attributes(self) -> dict[str, str]:
        """Check the attributes of all available items; return the reasons against bad ones, by item id."""
        reasons: dict[str, str] = {}
        for batch in self._batches(_ATTRIBUTES, _BATCH):
            ids, texts = (batch.column(name).to_pylist() for name in ("item_id", "attributes"))
            reasons |= usable_attributes(zip(ids, texts, strict=True))[1]
        return reasons

    def distinct_texts(self, batch: int = 4096) -> Iterator[list[str]]:
        """Yield the distinct visible texts of all users, shortest first, at most `batch` at a time."""
        for rows in self._batches(_DISTINCT_TEXTS, batch):
            yield rows.column("text").to_pylist()

    def restricted_users(self) -> set[str]:
        """Return the users who keep a view back, from use or from others, and those with such a friend."""
        with closing(self._db.cursor()) as cursor:
            return {str(row[0]) for row in cursor.execute(_RESTRICTED).fetchall()}

    def followers(self, user_ids: Iterable[str]) -> set[str]:
        """Return the users who have one of some users as a friend."""
        sql = "SELECT DISTINCT user_id FROM data.social WHERE friend_id IN (SELECT unnest($1))"
        with closing(self._db.cursor()) as cursor:
            return {str(row[0]) for row in cursor.execute(sql, [list(user_ids)]).fetchall()}

    def texts_of(self, user_id: str) -> set[str]:
        """Return the distinct visible texts of one user; an unknown user has none."""
        with closing(self._db.cursor()) as cursor:
            return {str(row[0]) for row in cursor.execute(_TEXTS_OF, [user_id]).fetchall()}

    def visible_events(self, *, held_out: bool = False) -> pa.Table:
        """Return user_id, item_id, action, ts, split of the history; with `held_out`, of all behaviours."""
        return self._table(f"""
            SELECT user_id, item_id, action, ts, split FROM data.behaviors
            WHERE {"true" if held_out else VISIBLE} ORDER BY user_id, ts NULLS FIRST, item_id, action""")

    def write_splits(self, marks: pa.Table, *, reset: bool) -> int:
        """Set the split of behaviours in one transaction; return how many were found.

        Args:
            marks: user_id, item_id, action, ts and split, one row for each behaviour.
            reset: every other behaviour becomes history.

        Raises:
            UnknownSplitError: a split is none of train, valid, test and NULL; nothing is written.
        """
        for split in marks.column("split").unique().to_pylist():
            if split not in _SPLITS:
                raise UnknownSplitError(split)
        with self.writing() as cursor:
            if reset:
                cursor.execute("UPDATE data.behaviors SET split = NULL WHERE split IS NOT NULL")
            cursor.register("marks", marks)
            return int(single_value(cursor, _MARK_SPLITS))


def _read_views(cursor: duckdb.DuckDBPyConnection, user_ids: Sequence[str]) -> dict[str, UserViews]:
    """Read the visible and used views of some users, in the orders of `Store.user_views`."""
    wanted = list(dict.fromkeys(user_ids))
    friends: dict[str, dict[str, float]] = {user_id: defaultdict(float) for user_id in wanted}
    for user_id, friend_id, weight in _of_users(cursor, _FRIENDS, wanted):
        if friend_id != user_id:
            friends[user_id][friend_id] += weight
    with_friends = list(dict.fromkeys([*wanted, *(friend for own in friends.values() for friend in own)]))
    rows = _of_users(cursor, _EVENTS, with_friends)
    histories = _histories(rows)
    for (user_id,) in cursor.execute(_UNUSED_HISTORIES).fetchall():
        histories.pop(user_id, None)
    held_out = {(row[0], row[1]) for row in rows if row[5] in HELD_OUT_SPLITS}
    texts: dict[str, list[_TextRow]] = {user_id: [] for user_id in wanted}
    for user_id, *row in _of_users(cursor, _TEXTS, wanted):
        if (user_id, row[0]) not in held_out:
            texts[user_id].append((row[0], row[1], row[2]))
    return {
        user_id: UserViews(
            history=tuple(histories[user_id]),
            texts=tuple(text for _, text, _ in sorted(texts[user_id], key=_text_by_time)),
            friends=tuple(
                Friend(friend_id, weight, tuple(histories[friend_id]))
                for friend_id, weight in sorted(friends[user_id].items())
            ),
        )
        for user_id in wanted
    }


def _of_users(cursor: duckdb.DuckDBPyConnection, select: str, user_ids: list[str]) -> list[Any]:
    """Read the rows of some users; of one user by equality, which takes half the time of a list of one."""
    if len(user_ids) == 1:
        return cursor.execute(f"{select} AND user_id = $1", user_ids).fetchall()
    return cursor.execute(f"{select} AND user_id IN (SELECT unnest($1))", [user_ids]).fetchall()


def _histories(rows: list[_EventRow]) -> defaultdict[str, list[Event]]:
    histories: defaultdict[str, list[Event]] = defaultdict(list)
    for owner, item_id, action, weight, ts, split in sorted(rows, key=_by_time):
        if split not in HELD_OUT_SPLITS:
            histories[owner].append(Event(item_id, action, weight, ts))
    return histories


def _by_time(row: _EventRow) -> tuple[object, ...]:
    """Sort key: undated first, then time, item id, action; the flag avoids comparing None with a date."""
    return row[4] is not None, row[4], row[1], row[2]


def _text_by_time(row: _TextRow) -> tuple[object, ...]:
    """Sort key: undated first, then time, item id, text."""
    return row[2] is not None, row[2], row[0] or "", row[1]
