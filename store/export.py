"""Exports: immutable Parquet copies of the store, which training, reindexing and evaluation read."""

import glob
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

import duckdb
import pyarrow as pa
from tqdm import tqdm

from store import artifact
from store.database import migrations, quoted
from store.disk import disk_errors
from store.home import Home
from store.ledger import LEDGER, erased_users, erasures_missing_from, read_erasures, read_ledger, write_ledger
from store.queries import (
    BOUNDED_WEIGHT,
    NAMED_USERS,
    TRACED_USERS,
    USERS,
    VISIBLE,
    VISIBLE_IMPRESSION,
    VISIBLE_TEXT,
    Reader,
    shared,
    used,
)
from store.store import Store
from store.tables import MAX_WEIGHT, SQL_TYPES, TABLES, Table

_EVENT = "user_id, item_id, action, weight, ts"
_BY_TIME = "ORDER BY user_id, ts NULLS FIRST, item_id, action"
_HISTORY = f"SELECT {_EVENT} FROM data.behaviors WHERE {VISIBLE} {_BY_TIME}"
_TEXTS = f"""
    SELECT user_id, item_id, text, ts FROM data.texts WHERE {VISIBLE_TEXT}
    ORDER BY user_id, ts NULLS FIRST, item_id NULLS FIRST, text"""
_FRIENDS = f"""
    SELECT user_id, friend_id, sum({BOUNDED_WEIGHT}) AS weight FROM data.social WHERE user_id <> friend_id
    GROUP BY ALL ORDER BY user_id, friend_id"""
_IMPRESSIONS = f"""
    SELECT user_id, item_id, ts, position, query_id, clicked FROM data.impressions WHERE {VISIBLE_IMPRESSION}
    ORDER BY user_id, ts NULLS FIRST, item_id, query_id NULLS FIRST"""
_ACTIONS = f"""
    SELECT action, NOT {VISIBLE} AS held_out, count(*)::BIGINT AS rows, max({BOUNDED_WEIGHT}) AS max_weight
    FROM data.behaviors GROUP BY ALL ORDER BY ALL"""
_OVERWEIGHT = f"""
    SELECT count(*) FROM (
        SELECT weight FROM data.behaviors UNION ALL SELECT weight FROM data.social
    ) WHERE weight > {MAX_WEIGHT!r}"""
_BATCH = 65_536
# Which rows of a table are shown, by what people allow (store/schema/schema_4.sql).
_ALLOWED = {
    "behaviors": (used("H"),),
    "texts": (used("T"),),
    "social": (used("S"), shared("H", "friend_id")),
    "impressions": (used("H"),),
}
_ALL_IMPRESSIONS = _IMPRESSIONS.replace(f" WHERE {VISIBLE_IMPRESSION}", "")
_LOGS = "SELECT log, epoch, sequence FROM data.logs ORDER BY log"
_VECTOR_NUMBERS = 1 << 24  # of all vectors of a batch
_log = logging.getLogger(__name__)


class NoExportError(LookupError):
    """A home has no export yet."""

    def __init__(self, exports: Path | str) -> None:
        super().__init__(f"{exports} holds no export yet: make one first (triptych export)")
        self.exports = Path(exports)


class NotAnExportError(ValueError):
    """An artifact is something else than an export."""

    def __init__(self, path: Path, kind: object) -> None:
        super().__init__(f"{path} is no export; its manifest says kind {kind!r}")
        self.path = path


class ActionCounts(NamedTuple):
    """Behaviours with one action, held-out ones apart: their number and the greatest weight."""

    action: str
    held_out: bool
    rows: int
    max_weight: float


class Export(Reader):
    """One export, read through DuckDB; threads may share it.

    History, texts, friends and impressions are the visible ones; only `held_out` shows rows with split valid
    or test. An export of before schema version 3 has items without vectors, and no impressions.
    Users whose erasure is in the ledger of the home when the export is opened are hidden everywhere. So is
    what people did not allow to be used when it was made, and friends who did not share their history.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], threads: int | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self._db = duckdb.connect(config={} if threads is None else {"threads": threads})
        spill = Path(tempfile.gettempdir()) / f"triptych-{artifact.new_id()}"  # DuckDB creates it when needed
        self._db.execute(f"SET GLOBAL temp_directory = {quoted(spill)}")
        self._db.execute("SET GLOBAL python_enable_replacements = false")
        self._db.execute("ATTACH ':memory:' AS data")
        _create_views(self._db, path, Home(path.parent.parent).erasures, manifest)

    @classmethod
    def open(cls, path: Path, *, verify: bool = True, threads: int | None = None) -> Self:
        """Open an export, after comparing every byte with its checksum unless `verify` is off.

        Args:
            path: of the export.
            verify: whether to read it whole first.
            threads: of DuckDB; None takes one for each processor.

        Raises:
            DamagedArtifactError: a file is missing or damaged, or the ledger of the home is damaged.
            NotAnExportError: the artifact is something else.
        """
        manifest = artifact.verify(path) if verify else artifact.read_manifest(path)
        if manifest.get("kind") != "export":
            raise NotAnExportError(path, manifest.get("kind"))
        return cls(path, manifest, threads)

    @classmethod
    def latest(cls, exports: Path, *, verify: bool = True) -> Self:
        """Open the newest export of a directory.

        Raises:
            NoExportError: it has none.
        """
        ids = artifact.artifacts(exports)
        if not ids:
            raise NoExportError(exports)
        return cls.open(exports / ids[-1], verify=verify)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the files."""
        self._db.close()

    @property
    def export_id(self) -> str:
        """The id that models and indexes name."""
        return self.path.name

    def items(self, *, available_only: bool = False, columns: Sequence[str] = ("*",)) -> pa.Table:
        """Return the items by item id; `attributes` is JSON text, `vector` a list of float32.

        Args:
            available_only: without those that are not available.
            columns: the names of those to read; all without. Vectors of many items are large.
        """
        return self._table(f"""
            SELECT {", ".join(columns)} FROM data.items
            WHERE available OR NOT {available_only} ORDER BY item_id""")

    def item_batches(self, rows: int = _BATCH) -> Iterator[pa.RecordBatch]:
        """Yield the columns of `items` for the available items, in their order, at most `rows` at a time.

        Of items with long vectors fewer come at a time, so that no batch has more than 64 MiB of vectors.
        """
        # The file is in this order, and so is what is read of it; a sort would hold all vectors in memory.
        return self._batches("FROM data.items WHERE available", self.items_at_once(rows))

    def items_at_once(self, rows: int) -> int:
        """Return how many items may be in memory at once: `rows`, or fewer where they have long vectors."""
        longest = (
            self._table("SELECT max(len(vector)) AS numbers FROM data.items").column("numbers")[0].as_py()
        )
        return min(rows, max(1, _VECTOR_NUMBERS // (longest or 1)))

    def items_between(self, first: str, last: str) -> pa.Table:
        """Return the columns of `items` for the available items from one id to another, in their order."""
        return self._table(
            "FROM data.items WHERE available AND item_id BETWEEN $1 AND $2 ORDER BY item_id", [first, last]
        )

    def history(self) -> pa.Table:
        """Return user_id, item_id, action, weight, ts of the history, by user, time (undated first), item."""
        return self._table(_HISTORY)

    def history_batches(self, rows: int = _BATCH) -> Iterator[pa.RecordBatch]:
        """Yield the history in the same order, at most `rows` at a time."""
        return self._batches(_HISTORY, rows)

    def actions(self) -> list[ActionCounts]:
        """Count the behaviours of each action, by name."""
        with closing(self._db.cursor()) as cursor:
            return [ActionCounts(*row) for row in cursor.execute(_ACTIONS).fetchall()]

    def overweight(self) -> tuple[int, float]:
        """Return the number of rows with a weight beyond what imports accept today, and that bound."""
        with closing(self._db.cursor()) as cursor:
            return int(cursor.execute(_OVERWEIGHT).fetchall()[0][0]), MAX_WEIGHT

    def held_out(self, split: str) -> pa.Table:
        """Return user_id, item_id, action, weight, ts of the behaviours in one split (valid or test)."""
        return self._table(f"SELECT {_EVENT} FROM data.behaviors WHERE split = $1 {_BY_TIME}", [split])

    def texts(self) -> pa.Table:
        """Return user_id, item_id, text, ts of the visible texts, by user and time (undated first)."""
        return self._table(_TEXTS)

    def texts_batches(self, rows: int = _BATCH) -> Iterator[pa.RecordBatch]:
        """Yield the visible texts in the same order, at most `rows` at a time."""
        return self._batches(_TEXTS, rows)

    def shared_texts_batches(self, rows: int = _BATCH) -> Iterator[pa.RecordBatch]:
        """Yield the visible texts that their authors share, in the same order, at most `rows` at a time."""
        return self._batches(_TEXTS.replace(" WHERE ", f" WHERE {shared('T')} AND ", 1), rows)

    def shared_text_counts(self) -> pa.Table:
        """Return user_id and texts: how many visible texts each author shares, of those who share any."""
        return self._table(f"""
            SELECT user_id, count(*) AS texts FROM data.texts WHERE {shared("T")} AND {VISIBLE_TEXT}
            GROUP BY user_id""")

    def friends(self) -> pa.Table:
        """Return user_id, friend_id, weight summed over relations, by both ids, without oneself."""
        return self._table(_FRIENDS)

    def impressions(self) -> pa.Table:
        """Return the visible impressions, by user, time (undated first), item and query id.

        Returns:
            user_id, item_id, ts, position (int32), query_id, clicked; each of ts, position and query_id may
            be NULL. Those of a pair of user and item that is held out are not visible.
        """
        return self._table(_IMPRESSIONS)

    def all_impressions(self) -> pa.Table:
        """Return impressions as `impressions` does, and those of held-out pairs beside them."""
        return self._table(_ALL_IMPRESSIONS)

    def impressions_batches(self, rows: int = _BATCH) -> Iterator[pa.RecordBatch]:
        """Yield the visible impressions in the same order, at most `rows` at a time."""
        return self._batches(_IMPRESSIONS, rows)

    def users(self) -> pa.StringArray:
        """Return the ids of all users of behaviours, texts and ties, friends included, sorted."""
        ids = self._table(f"SELECT user_id FROM ({USERS}) ORDER BY user_id")
        return cast("pa.StringArray", ids.column("user_id").combine_chunks())

    def some_users(self, user_ids: pa.Array) -> tuple[pa.Table, pa.Table, pa.Table]:
        """Return `history`, `texts` and `friends` of some users, with the history of their friends.

        As others may see them: what a user uses, but does not share, is left out.
        """
        wanted = user_ids.to_pylist()
        friends = self._table(_some(_FRIENDS, "S"), [wanted])
        with_friends = pa.concat_arrays([user_ids, *friends.column("friend_id").chunks]).unique().to_pylist()
        history = self._table(_some(_HISTORY, "H"), [with_friends])
        return history, self._table(_some(_TEXTS, "T"), [wanted]), friends

    def texts_among(self, texts: Sequence[str]) -> set[str]:
        """Return those of some texts that the export shows, by the ledger of the home as it is now."""
        with Export(self.path, self.manifest) as now:
            return super(Export, now).texts_among(texts)

    def mentions(self, user_id: str) -> bool:
        """Return whether any row that is shown names a user, as its owner or as a friend."""
        rows = self._table(f"SELECT 1 FROM ({TRACED_USERS}) WHERE user_id = $1 LIMIT 1", [user_id])
        return len(rows) > 0


def create_export(store: Store, exports: Path) -> str:
    """Write one state of the store to a new export, with held-out rows and the ledger; return the export id.

    Raises:
        DiskFullError, ReadOnlyDiskError: the disk takes nothing more; no export is made.
    """
    export_id = artifact.new_id()
    _log.info("export %s started", export_id)
    created_at = datetime.now(UTC).isoformat()
    with artifact.build(exports, export_id) as draft, store.snapshot() as cursor:
        counts: dict[str, int] = {}
        for table in tqdm(TABLES, desc="export", unit="table", disable=None):
            columns = ", ".join(
                f"{column.name}::VARCHAR AS {column.name}" if column.kind == "json" else column.name
                for column in table.columns
            )
            with disk_errors(draft.path):
                rows = cursor.execute(f"""
                    COPY (SELECT {columns} FROM data.{table.name} ORDER BY {table.order})
                    TO {quoted(draft.path / f"{table.name}.parquet")} (FORMAT parquet, COMPRESSION zstd)""")
            counts[table.name] = int(rows.fetchall()[0][0])
        write_ledger(draft.path / LEDGER, read_erasures(cursor))
        held_out = dict(
            cursor.execute("""
                SELECT s, (SELECT count(*) FROM data.behaviors WHERE split = s)
                FROM unnest(['valid', 'test']) AS t(s)""").fetchall()
        )
        draft.facts |= {
            "kind": "export",
            "schema_version": len(migrations()),
            "created_at": created_at,
            "counts": counts,
            "held_out": held_out,
            "logs": {log: [epoch, sequence] for log, epoch, sequence in cursor.execute(_LOGS).fetchall()},
        }
    _log.info("export %s done: %s", export_id, counts)
    return export_id


def _some(sql: str, view: str) -> str:
    """Return a statement restricted to those users in a list parameter who share a view."""
    return sql.replace(" WHERE ", f" WHERE user_id IN (SELECT unnest($1)) AND {shared(view)} AND ", 1)


def _create_views(
    db: duckdb.DuckDBPyConnection, path: Path, ledger: Path, manifest: Mapping[str, Any]
) -> None:
    """Create the tables of an export as views of its files, but what is erased or not allowed.

    Raises:
        DamagedArtifactError: a ledger is damaged.
    """
    version = int(manifest["schema_version"])
    for table in TABLES:
        _view(db, path, table, "true", version)
    restricted = bool(db.execute("FROM data.consents WHERE NOT (use AND share) LIMIT 1").fetchall())
    erasures = erasures_missing_from(path, manifest, read_ledger(ledger))
    if erasures:
        users = (str(row[0]) for row in db.execute(NAMED_USERS).fetchall())
        erased = sorted(erased_users(users, erasures))
        db.execute("CREATE TABLE data.erased AS SELECT unnest($1::VARCHAR[]) AS user_id", [erased])
    for table in TABLES:
        conditions = list(_ALLOWED.get(table.name, ())) if restricted else []
        if erasures:
            ids = (name for name in ("user_id", "friend_id") if name in table.names)
            conditions += [f"{name} NOT IN (FROM data.erased)" for name in ids]
        if conditions:
            _view(db, path, table, " AND ".join(conditions), version)


def _view(db: duckdb.DuckDBPyConnection, path: Path, table: Table, condition: str, version: int) -> None:
    """Create a view of the rows that a condition selects; what came after the version is NULL, or empty."""
    if table.since > version:
        columns = ", ".join(f"NULL::{SQL_TYPES[one.kind]} AS {one.name}" for one in table.columns)
        db.execute(f"CREATE OR REPLACE VIEW data.{table.name} AS SELECT {columns} WHERE false")
        return
    # Equal texts are stored in the order of their occurrence.
    number = ", file_row_number AS occurrence" if table.numbered else ""
    columns = ", ".join(
        f"NULL::{SQL_TYPES[one.kind]} AS {one.name}" if one.since > version else one.name
        for one in table.columns
    )
    file = quoted(glob.escape(str(path / f"{table.name}.parquet")))
    db.execute(f"""
        CREATE OR REPLACE VIEW data.{table.name} AS SELECT {columns}{number}
        FROM read_parquet({file}, file_row_number = true) WHERE {condition}""")
