"""Erasing a person from the store and the derived state, and taking up what a crash left unfinished."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb

from store.ledger import Erasure, read_erasures, user_hash
from store.state.packing import Friendships
from store.state.state import StateDraft, UserState
from store.store import Store

# Texts that nobody else wrote, by digest.
_OWN_TEXTS = """
    SELECT DISTINCT sha256(text) FROM data.texts WHERE user_id = $1
        AND text NOT IN (SELECT text FROM data.texts WHERE user_id <> $1)"""
_IN_LEDGER = "SELECT count(*) FROM data.erasures WHERE user_hash = sha256(salt || $1)"
# A time that this person has not yet: it is part of the name of an erasure.
_ENTER = """
    INSERT INTO data.erasures SELECT
        greatest($1::TIMESTAMP, (SELECT max(erased_at) + INTERVAL 1 MICROSECOND FROM data.erasures
            WHERE user_hash = sha256(salt || $2))),
        salt, sha256(salt || $2), $3, $4 FROM data.salt"""
_DELETIONS = {
    "behaviors": "DELETE FROM data.behaviors WHERE user_id = $1",
    "texts": "DELETE FROM data.texts WHERE user_id = $1",
    "social": "DELETE FROM data.social WHERE user_id = $1 OR friend_id = $1",
}


@dataclass(frozen=True)
class UnfinishedErasure:
    """What of an erasure is still to be removed outside the store.

    Attributes:
        user_id: whom it is about.
        digests: sha256, hexadecimal, of the texts that nobody else wrote.
        removed: rows removed from the store, by table.
        models: models trained on the person; `unknown_models` those of which nobody can tell.
    """

    user_id: str
    digests: tuple[str, ...] = ()
    removed: dict[str, int] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    unknown_models: tuple[str, ...] = ()


def erase_user(
    store: Store, state: UserState, user_id: str, models: Sequence[str], unknown_models: Sequence[str]
) -> UnfinishedErasure:
    """Remove a person from store and state, durably; return what is left to do.

    The ledger gets an entry where there was something to remove, and for a person whom it does not name yet:
    an older backup may hold somebody whom this store has never seen. To say it again adds nothing.
    """
    touched, removed = {user_id}, dict[str, int]()
    with state.writing() as draft:
        with store.writing(touched) as cursor:
            digests = tuple(row[0] for row in cursor.execute(_OWN_TEXTS, [user_id]).fetchall())
            followers = delete_user_rows(cursor, [user_id], removed)
            rest = UnfinishedErasure(user_id, digests, removed, tuple(models), tuple(unknown_models))
            named = int(cursor.execute(_IN_LEDGER, [user_id]).fetchall()[0][0])
            if any(removed.values()) or not named:
                cursor.execute(_ENTER, [_now(), user_id, list(models), json.dumps(asdict(rest))])
            touched |= followers
        for table in ("events", "texts", "friends"):
            draft.put(table, user_id, b"")
        for follower in followers:
            _forget(draft, follower, user_id)
        draft.set_commit_id(store.last_commit.commit_id)
    return rest


def delete_user_rows(
    cursor: duckdb.DuckDBPyConnection, user_ids: Iterable[str], removed: dict[str, int]
) -> set[str]:
    """Return whose ties to some people were removed with all rows of these; counts them in `removed`."""
    followers: set[str] = set()
    for user_id in user_ids:
        named = cursor.execute("SELECT user_id FROM data.social WHERE friend_id = $1", [user_id]).fetchall()
        followers.update(row[0] for row in named)
        for table, sql in _DELETIONS.items():
            count = int(cursor.execute(sql, [user_id]).fetchall()[0][0])
            removed[table] = removed.get(table, 0) + count
    return followers


def unfinished_erasures(store: Store) -> list[UnfinishedErasure]:
    """Return the erasures that a crash interrupted after the rows were gone."""
    with store.snapshot() as cursor:
        rows = cursor.execute("SELECT unfinished FROM data.erasures WHERE unfinished IS NOT NULL").fetchall()
    return [_unfinished(json.loads(row[0])) for row in rows]


def finish_erasure(store: Store, user_id: str) -> None:
    """Note that nothing is left to remove of a person, and forget the id."""
    with store.writing(set()) as cursor:
        cursor.execute(
            """UPDATE data.erasures SET unfinished = NULL
            WHERE user_hash = sha256(salt || $1) AND unfinished IS NOT NULL""",
            [user_id],
        )


def list_erasures(store: Store) -> list[Erasure]:
    """Return the whole ledger, oldest first."""
    with store.snapshot() as cursor:
        return read_erasures(cursor)


def add_erasures(store: Store, ledger: Iterable[Erasure]) -> None:
    """Add erasures of another store to the ledger of this one."""
    with store.writing(set()) as cursor:
        for one in ledger:
            cursor.execute(
                "INSERT INTO data.erasures VALUES ($1, $2, $3, $4, NULL)",
                [one.erased_at, one.salt, one.user_hash, list(one.models)],
            )


def pseudonym(store: Store, user_id: str) -> str:
    """Return the salted hash that stands for a person in the audit log."""
    with store.snapshot() as cursor:
        return user_hash(str(cursor.execute("SELECT salt FROM data.salt").fetchall()[0][0]), user_id)


def _unfinished(said: dict[str, Any]) -> UnfinishedErasure:
    lists = {name: tuple(said[name]) for name in ("digests", "models", "unknown_models")}
    return UnfinishedErasure(user_id=said["user_id"], removed=said["removed"], **lists)


def _forget(draft: StateDraft, follower: str, user_id: str) -> None:
    ties = Friendships.unpack(draft.get("friends", follower))
    rows = zip(ties.friends, ties.relations, ties.weights, ties.times, strict=True)
    draft.put("friends", follower, Friendships.of(row for row in rows if row[0] != user_id).pack())


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
