"""The DuckDB file of the live store: opened by one owner, at the newest schema, with a log of its commits."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb

from store.disk import disk_error, disk_errors
from store.locks import locked

# Small row groups: min/max pruning then reads few rows beside those of the user looked up.  At 5 M events, 20
# users come back in 12 ms instead of 82 ms; an index on user_id takes 28 ms and four times the write time.
_ROW_GROUP_SIZE = 10_240
# DuckDB takes what follows a question mark for options, and a backslash for a slash.
_UNUSABLE_CHARACTERS = ("?", "\\")
_SCHEMAS = ("schema.sql", "schema_2.sql", "schema_3.sql", "schema_4.sql", "schema_5.sql")


class StoreLockedError(OSError):
    """Another process, or another Store in this one, owns the file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} is owned by another process (a running server?): stop it, or go through it ({reason})"
        )
        self.path = path


class NotAStoreError(ValueError):
    """The file is damaged, or Triptych did not write it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is no Triptych store, or is damaged: {reason}")
        self.path = path


class NewerStoreError(ValueError):
    """A newer Triptych wrote the file; this one must not write to it."""

    def __init__(self, path: Path, version: int, known: int) -> None:
        super().__init__(
            f"{path} has schema version {version} and this Triptych knows up to {known}: upgrade"
        )
        self.path = path
        self.version = version


class UnusablePathError(ValueError):
    """The path has a character that DuckDB does not take for a part of a name."""

    def __init__(self, path: Path, character: str) -> None:
        super().__init__(
            f"{path} has a {character!r} in it, which DuckDB reads as something else than a part of a name: "
            f"rename the folder, or use another"
        )
        self.path = path


@dataclass(frozen=True)
class Commit:
    """One write transaction.

    Attributes:
        sequence: number of write transactions of the store up to this one.
        commit_id: random, so that two stores with equal sequences differ.
        previous: the commit id of the transaction before.
        users: the users whose rows it touched, None where that is not known.
    """

    sequence: int
    commit_id: str
    previous: str
    users: tuple[str, ...] | None


def migrations() -> tuple[str, ...]:
    """Read the SQL of every migration, in order; the n-th leads to schema version n."""
    return tuple((Path(__file__).parent / "schema" / name).read_text(encoding="utf-8") for name in _SCHEMAS)


def connect(path: Path) -> duckdb.DuckDBPyConnection:
    """Open the store as catalog `data` of a connection, creating or migrating it where needed.

    A missing file is created beside its place and linked into it, so a killed creation leaves no half store.
    The lock is a POSIX one: while the store is open, the owning process must not open the file by other
    means, because closing that second handle would drop the lock.

    Raises:
        UnusablePathError: the path has a question mark or a backslash.
        StoreLockedError: another process owns the file.
        NotAStoreError: the file is damaged or foreign.
        NewerStoreError: the file has a newer schema.
        DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
    """
    path = path.absolute()
    for character in _UNUSABLE_CHARACTERS:
        if character in str(path.resolve()):  # DuckDB looks through links, too
            raise UnusablePathError(path, character)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create(path)
    connection = _attach(path)
    try:
        with disk_errors(path):
            migrate(connection, path, migrations())
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(connection: duckdb.DuckDBPyConnection, path: Path, steps: Sequence[str]) -> None:
    """Apply the migrations that the store lacks, each in a transaction that records it, too.

    Raises:
        NotAStoreError: the file has no record of migrations.
        NewerStoreError: the file has more migrations than `steps`.
    """
    cursor = connection.cursor()
    try:
        row = cursor.execute("SELECT max(version) FROM data.migrations").fetchone()
    except duckdb.CatalogException as error:
        raise NotAStoreError(path, "it holds no Triptych tables") from error
    version: int = (row and row[0]) or 0
    if version > len(steps):
        raise NewerStoreError(path, version, len(steps))
    for number, sql in enumerate(steps[version:], start=version + 1):
        _apply(cursor, number, sql)


def attach(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Attach a file as catalog `data`, in place of the one that is attached.  Raises: as `connect`."""
    try:
        connection.execute("DETACH DATABASE IF EXISTS data")
        connection.execute(f"ATTACH {quoted(path)} AS data (ROW_GROUP_SIZE {_ROW_GROUP_SIZE})")
    except duckdb.Error as error:
        if (named := disk_error(error, path)) is not None:
            raise named from error
        # DuckDB distinguishes these by message only.
        if "Could not set lock" in str(error) or "Unique file handle conflict" in str(error):
            raise StoreLockedError(path, str(error)) from error
        raise NotAStoreError(path, str(error)) from error


@contextmanager
def transaction(cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Begin a transaction; commit it when the block ends, roll it back when the block raises."""
    cursor.execute("BEGIN")
    try:
        yield
        cursor.execute("COMMIT")
    except BaseException:
        with suppress(duckdb.TransactionException):  # a failed COMMIT has already ended it
            cursor.execute("ROLLBACK")
        raise


def single_value(
    cursor: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[object] | None = None
) -> Any:
    """Execute SQL and return the first column of the first row; of a write, the number of rows."""
    return cursor.execute(sql, parameters).fetchall()[0][0]


def utc_now() -> datetime:
    """Return the time in UTC without a zone, as all times in the store are."""
    return datetime.now(UTC).replace(tzinfo=None)


def quoted(text: str | Path) -> str:
    """Return an SQL string literal, for statements that take no parameters."""
    return "'" + str(text).replace("'", "''") + "'"


def read_last_commit(cursor: duckdb.DuckDBPyConnection) -> Commit:
    """Read the last write transaction that a cursor sees."""
    rows = cursor.execute("SELECT sequence, commit_id, previous, users FROM data.head").fetchall()
    sequence, commit_id, previous, users = rows[0]
    return Commit(int(sequence), commit_id, previous, None if users is None else tuple(json.loads(users)))


def add_commit(cursor: duckdb.DuckDBPyConnection, before: Commit, users: Iterable[str] | None) -> Commit:
    """Record, in a write transaction, the commit that it becomes; `users` are those whose rows it touched."""
    touched = None if users is None else tuple(sorted(users))
    commit = Commit(before.sequence + 1, uuid4().hex, before.commit_id, touched)
    cursor.execute(
        "UPDATE data.head SET sequence = $1, commit_id = $2, previous = $3, users = $4",
        [
            commit.sequence,
            commit.commit_id,
            commit.previous,
            None if touched is None else json.dumps(touched),
        ],
    )
    return commit


def _apply(cursor: duckdb.DuckDBPyConnection, number: int, sql: str) -> None:
    with transaction(cursor):
        cursor.execute(sql)
        cursor.execute("INSERT INTO data.migrations VALUES (?, now()::TIMESTAMP)", [number])


def _create(path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".new-", dir=path.parent) as folder, locked(Path(folder)):
        draft = Path(folder) / path.name
        with closing(_attach(draft)) as connection:
            _apply(connection.cursor(), 1, migrations()[0])
        try:
            os.link(draft, path)  # unlike a rename, never replaces a store that another process just made
        except FileExistsError:
            return


def _attach(path: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    try:
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        # Otherwise a table name that is not found is looked up among the caller's Python variables.
        connection.execute("SET GLOBAL python_enable_replacements = false")
        connection.execute(f"SET GLOBAL temp_directory = {quoted(f'{path}.tmp')}")
        attach(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection
