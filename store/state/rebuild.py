"""Derive the state from the rows of the store: of all users, or of some."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from store.queries import VISIBLE, VISIBLE_TEXT
from store.state.packing import ALL_ALLOWED, EVENT, NO_ITEM, NO_TIME, TEXT, Friendships
from store.state.state import TABLES, StateDraft, UserState
from store.state.vocabulary import VocabularyDraft
from store.store import Store

_BATCH = 65_536
_ENTRIES_BITS = 20  # of a number of the log: entries since a commit of the store
_TS = f"coalesce(epoch_us(ts), ({NO_TIME + 1} - 1)::BIGINT)"  # the literal itself would be a HUGEINT
_EVENTS = f"""
    SELECT user_id, {_TS} AS ts, i.code AS item, a.code AS action, weight, NOT {VISIBLE} AS hidden
    FROM data.behaviors JOIN item_codes AS i ON i.name = item_id JOIN word_codes AS a ON a.name = action
    WHERE {{0}} ORDER BY user_id, {_TS}, item_id, action"""
_TEXTS = f"""
    SELECT user_id, unhex(sha256(text)) AS digest, {_TS} AS ts, coalesce(i.code, {NO_ITEM}::UINTEGER) AS item,
        NOT {VISIBLE_TEXT} AS hidden
    FROM data.texts LEFT JOIN item_codes AS i ON i.name = item_id
    WHERE {{0}} ORDER BY user_id, {_TS}, item_id NULLS FIRST, text, occurrence"""
_FRIENDS = f"""
    SELECT user_id, friend_id, r.code AS relation, weight, {_TS} AS ts
    FROM data.social JOIN word_codes AS r ON r.name = relation
    WHERE {{0}} ORDER BY user_id, friend_id, social.relation"""
_CONSENTS = "SELECT user_id, view, use, share FROM data.consents WHERE {0} ORDER BY user_id"
_WORDS = """
    SELECT DISTINCT action FROM data.behaviors UNION SELECT DISTINCT relation FROM data.social ORDER BY 1"""
log = logging.getLogger(__name__)


def bring_up_to_date(store: Store, state: UserState) -> None:
    """Make the state reflect the store's last commit.

    Of a state that is one commit behind, the users whom that commit touched are read again; a killed server
    leaves no more to do. After any other difference (an import, a split, a restored or replaced store) the
    state is rebuilt. From then on the state repairs damaged rows from the store.
    """
    state.repair_with(partial(_repair, store))
    last = store.last_commit
    if state.commit_id == last.commit_id:
        return
    if state.commit_id == last.previous and last.users is not None:
        log.info("state is one commit behind: reading %d users again", len(last.users))
        with state.writing() as draft, store.snapshot() as cursor:
            if last.users:
                refresh(cursor, draft, last.users)
            draft.set_commit_id(last.commit_id)
        return
    rebuild(store, state)


def rebuild(store: Store, state: UserState) -> None:
    """Derive the state of all users again; readers see the old one until the new one is complete.

    The log of a state that was made anew goes on behind all numbers that earlier states have had: there have
    been fewer than 2^20 entries for each commit of the store, which counts one more commit for that.
    """
    made_anew = not state.commit_id
    if made_anew:
        with store.writing(set()):
            pass
    last, start = store.last_commit, time.monotonic()
    log.info("making the state of all users for commit %d", last.sequence)
    with state.writing() as draft, store.snapshot() as cursor:
        draft.clear()
        if made_anew:
            draft.number_above(last.sequence << _ENTRIES_BITS)
        total = cursor.execute("""
            SELECT (SELECT count(*) FROM data.behaviors) + (SELECT count(*) FROM data.texts)
                + (SELECT count(*) FROM data.social)""").fetchall()[0][0]
        with tqdm(total=int(total), desc="user state", unit="row", disable=None) as progress:
            _fill(cursor, draft, "true", progress)
        draft.set_commit_id(last.commit_id)
    log.info("state of all users made in %.1f s", time.monotonic() - start)


def refresh(
    cursor: duckdb.DuckDBPyConnection,
    draft: StateDraft,
    user_ids: Sequence[str],
    tables: Sequence[str] = TABLES,
) -> None:
    """Replace the packed rows of some users, in some tables, with the rows that the cursor sees."""
    wanted = sorted(set(user_ids))
    for user_id in wanted:
        for table in tables:
            draft.put(table, user_id, b"")
    cursor.register("wanted", pa.table({"id": pa.array(wanted, pa.string())}))
    _fill(cursor, draft, "user_id IN (SELECT id FROM wanted)", None, tables)
    cursor.unregister("wanted")


def _repair(store: Store, draft: StateDraft, table: str, user_id: str) -> None:
    """Write the rows of a table and user again, from the store.

    The draft loses no change of its own: it repairs rows before it changes them, and changed rows are sound.
    """
    with store.snapshot() as cursor:
        refresh(cursor, draft, [user_id], [table])


def _fill(
    cursor: duckdb.DuckDBPyConnection,
    draft: StateDraft,
    condition: str,
    progress: "tqdm[Any] | None",
    tables: Sequence[str] = TABLES,
) -> None:
    """Write the packed rows of the users that an SQL condition selects; others are not touched."""
    for (item_id,) in cursor.execute("SELECT item_id FROM data.items ORDER BY item_id").fetchall():
        draft.items.code(item_id)
    for (word,) in cursor.execute(_WORDS).fetchall():
        draft.words.code(word)
    for name, vocabulary in (("item_codes", draft.items), ("word_codes", draft.words)):
        cursor.register(name, _code_table(vocabulary))
    for table, sql, unpack, pack in (
        ("events", _EVENTS, partial(_struct_rows, EVENT), _pack_structs),
        ("texts", _TEXTS, partial(_struct_rows, TEXT), _pack_structs),
        ("friends", _FRIENDS, _friend_rows, _pack_friends),
        ("consents", _CONSENTS, _consent_rows, _pack_consents),
    ):
        if table not in tables:
            continue
        for user_id, parts in _by_user(cursor.sql(sql.format(condition)).to_arrow_reader(_BATCH), unpack):
            draft.put(table, user_id, pack(parts))
            if progress is not None:
                progress.update(sum(map(len, parts)))
    for name in ("item_codes", "word_codes"):
        cursor.unregister(name)


def _by_user(
    batches: Iterable[pa.RecordBatch], unpack: Callable[[pa.RecordBatch], Any]
) -> Iterator[tuple[str, list[Any]]]:
    """Yield each user with the rows in parts: batches come sorted by user, and one may end amid a user."""
    owner = ""
    parts: list[Any] = []
    for batch in batches:
        rows = unpack(batch)
        ends = pc.run_end_encode(batch.column("user_id"), run_end_type=pa.int64())
        stops = ends.run_ends.to_pylist()
        for user_id, start, stop in zip(ends.values.to_pylist(), [0, *stops[:-1]], stops, strict=True):
            if user_id != owner and parts:
                yield owner, parts
                parts = []
            owner = user_id
            parts.append(rows[start:stop])
    if parts:
        yield owner, parts


def _struct_rows(dtype: np.dtype[np.void], batch: pa.RecordBatch) -> npt.NDArray[np.void]:
    rows = np.empty(len(batch), dtype)
    for name in dtype.names or ():
        column = batch.column(name)
        if name == "digest":  # pyarrow gives it as Python bytes, which NumPy would cut at zero bytes
            rows[name] = np.frombuffer(b"".join(column.to_pylist()), dtype[name])
        else:
            rows[name] = column.to_numpy(zero_copy_only=False)
    return rows


def _friend_rows(batch: pa.RecordBatch) -> list[tuple[str, int, float, int]]:
    columns = (batch.column(name).to_pylist() for name in ("friend_id", "relation", "weight", "ts"))
    return list(zip(*columns, strict=True))


def _pack_structs(parts: list[npt.NDArray[np.void]]) -> bytes:
    return b"".join(part.tobytes() for part in parts)


def _pack_friends(parts: list[list[tuple[str, int, float, int]]]) -> bytes:
    return Friendships.of(chain.from_iterable(parts)).pack()


def _consent_rows(batch: pa.RecordBatch) -> list[tuple[str, bool, bool]]:
    columns = (batch.column(name).to_pylist() for name in ("view", "use", "share"))
    return list(zip(*columns, strict=True))


def _pack_consents(parts: list[list[tuple[str, bool, bool]]]) -> bytes:
    consents = ALL_ALLOWED
    for row in chain.from_iterable(parts):
        consents = consents.changed(*row)
    return consents.pack()


def _code_table(vocabulary: VocabularyDraft) -> pa.Table:
    names = vocabulary.names()
    return pa.table({"name": pa.array(names, pa.string()), "code": pa.array(range(len(names)), pa.uint32())})
