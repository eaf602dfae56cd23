"""The live store: one DuckDB file, owned by one process, safe to use from many threads."""

import hashlib
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa

from store.attributes import attributes_of
from store.commit_log import Commit, add_commit, last_commit
from store.database import attach, connect, transaction
from store.disk import DISK_ERRORS, disk_errors
from store.items import bad_attributes, item_hashes, some_items
from store.queries import (
    DISTINCT_TEXTS,
    MARK_SPLITS,
    TEXTS_AMONG,
    TEXTS_OF,
    USER_HASHES,
    USERS,
    VISIBLE,
    Matrix,
    texts_with_vectors,
)
from store.records import Item, UserViews
from store.tables import TABLES
from store.views import read_views

_ITEM = """
    SELECT item_id, title, text, kind, attributes, available, updated_at FROM data.items WHERE item_id = $1"""
log = logging.getLogger(__name__)
_HELD_OUT = ("valid", "test")
_SPLITS = {None, "train", *_HELD_OUT}


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


class Store:
    """The raw views of all users, and the items.

    Every call takes a cursor of its own, so threads may share a store; writers take turns.

    Attributes:
        home_id: random name that was made with the store; a copy of the file has it, too.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        self._db = connection
        self._path = path
        self._invalid = False
        self._writing = threading.Lock()
        with closing(connection.cursor()) as cursor:
            self._head = last_commit(cursor)
            ((salt,),) = cursor.execute("SELECT salt FROM data.salt").fetchall()
        self.home_id = hashlib.sha256(f"home {salt}".encode()).hexdigest()[:32]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Return the store in a file, made or brought to the newest schema where need be.

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

    @contextmanager
    def snapshot(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a cursor that sees one state of the store, for SQL in this package."""
        try:
            with disk_errors(self._path), closing(self._db.cursor()) as cursor, transaction(cursor):
                yield cursor
        except DISK_ERRORS as error:
            # As where a checkpoint found the disk full: DuckDB refuses all use of the file from then on.
            self._invalid |= "has been invalidated" in f"{error} {error.__cause__}"
            raise

    @property
    def head(self) -> Commit:
        """The last write transaction."""
        return self._head

    @contextmanager
    def writing(self, touched: set[str] | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield the cursor of the only write transaction: all of the block is kept, or nothing of it.

        `touched` names, when the block ends, every user whose rows it changed; without it, whoever derives
        something from the store has to make all of it anew.

        Raises:
            DiskFullError, ReadOnlyDiskError: the disk takes nothing more; nothing is kept.
        """
        with self._writing:
            if self._invalid:
                self._reattach()
            with self.snapshot() as cursor:
                yield cursor
                head = add_commit(cursor, self._head, touched)
            self._head = head

    def _reattach(self) -> None:
        """Use the file again, with all that was committed, after DuckDB gave it up."""
        log.warning("attaching %s again", self._path)
        with closing(self._db.cursor()) as cursor:
            attach(cursor, self._path)
            self._head = last_commit(cursor)
        self._invalid = False

    def user_views(self, user_id: str) -> UserViews:
        """Return what is visible of one user; an unknown user has empty views.

        History is ordered by time (undated first), then item id; friends by id, each with the sum of its
        relations as weight and with its own visible history.
        """
        return self.users_views([user_id])[user_id]

    def users_views(self, user_ids: Sequence[str]) -> dict[str, UserViews]:
        """Return what `user_views` returns, for several users at once and from one state of the store."""
        with self.snapshot() as cursor:
            return read_views(cursor, user_ids)

    def item(self, item_id: str) -> Item:
        """Return one item.

        Raises:
            ItemNotFoundError: no such item.
            BadAttributesError: its attributes cannot be used.
        """
        _, title, text, kind, attributes, available, updated_at = self._row(item_id)
        return Item(item_id, title, text, kind, attributes_of(attributes), available, updated_at)

    def title_and_text(self, item_id: str) -> tuple[str | None, str | None]:
        """Return the title and the text of one item, whatever its attributes are.

        Raises:
            ItemNotFoundError: no such item.
        """
        _, title, text, *_ = self._row(item_id)
        return title, text

    def _row(self, item_id: str) -> tuple[Any, ...]:
        with closing(self._db.cursor()) as cursor:
            row: tuple[Any, ...] | None = cursor.execute(_ITEM, [item_id]).fetchone()
        if row is None:
            raise ItemNotFoundError(item_id)
        return row

    def item_hashes(self) -> pa.Table:
        """Return what `store.items.item_hashes` does."""
        with closing(self._db.cursor()) as cursor:
            return item_hashes(cursor)

    def some_items(self, item_ids: Sequence[str]) -> pa.Table:
        """Return what `store.items.some_items` does."""
        with closing(self._db.cursor()) as cursor:
            return some_items(cursor, item_ids)

    def bad_attributes(self) -> dict[str, str]:
        """Return what `store.items.bad_attributes` does."""
        with closing(self._db.cursor()) as cursor:
            return bad_attributes(cursor)

    def user_hashes(self) -> pa.Table:
        """Return what `Export.user_hashes` does."""
        with closing(self._db.cursor()) as cursor:
            hashes: pa.Table = cursor.sql(USER_HASHES).to_arrow_table()
        return hashes

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each table, and of distinct users over all tables."""
        sources = {table.name: f"data.{table.name}" for table in TABLES} | {"users": f"({USERS})"}
        columns = ", ".join(f"(SELECT count(*) FROM {source}) AS {name}" for name, source in sources.items())
        with closing(self._db.cursor()) as cursor:
            row = cursor.execute(f"SELECT {columns}").fetchall()[0]
        return dict(zip(sources, row, strict=True))

    def user_ids(self) -> list[str]:
        """Return the ids of all users that any table names."""
        with closing(self._db.cursor()) as cursor:
            return [str(row[0]) for row in cursor.execute(f"SELECT user_id FROM ({USERS})").fetchall()]

    def distinct_texts(self, batch: int = 4096) -> Iterator[list[str]]:
        """Yield the distinct visible texts of all users, shortest first, at most `batch` at a time."""
        with closing(self._db.cursor()) as cursor:
            for rows in cursor.sql(DISTINCT_TEXTS).to_arrow_reader(batch):
                yield rows.column("text").to_pylist()

    def texts_of(self, user_id: str) -> set[str]:
        """Return the distinct visible texts of one user; an unknown user has none."""
        with closing(self._db.cursor()) as cursor:
            return {str(row[0]) for row in cursor.execute(TEXTS_OF, [user_id]).fetchall()}

    def texts_among(self, texts: Sequence[str]) -> set[str]:
        """Return those of some texts that somebody has written."""
        with closing(self._db.cursor()) as cursor:
            return {str(row[0]) for row in cursor.execute(TEXTS_AMONG, [list(texts)]).fetchall()}

    def imported_vectors(self, text_model_id: str, batch: int = 4096) -> Iterator[tuple[list[str], Matrix]]:
        """Yield distinct visible texts with the vectors (n, D) float32 that came with them for one model."""
        with closing(self._db.cursor()) as cursor:
            yield from texts_with_vectors(cursor, text_model_id, batch)

    def visible_events(self, *, held_out: bool = False) -> pa.Table:
        """Return user_id, item_id, action, ts and split of the history, with `held_out` of all behaviours."""
        condition = "true" if held_out else VISIBLE
        with closing(self._db.cursor()) as cursor:
            events: pa.Table = cursor.sql(f"""
                SELECT user_id, item_id, action, ts, split FROM data.behaviors WHERE {condition}
                ORDER BY user_id, ts NULLS FIRST, item_id, action""").to_arrow_table()
        return events

    def write_splits(self, marks: pa.Table, *, reset: bool) -> int:
        """Set the split of the behaviours named by user_id, item_id, action, ts; return how many were found.

        With `reset`, every other behaviour goes back to history first.  All in one transaction.

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
            row = cursor.execute(MARK_SPLITS).fetchall()[0]
            return int(row[0])
