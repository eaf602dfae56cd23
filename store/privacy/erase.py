"""Erase a user from the store and the derived state, and resume erasures that a crash interrupted."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import duckdb

from store.database import single_value, utc_now
from store.ledger import Erasure, read_erasures
from store.state import TABLES, Friendships, StateDraft, UserState, bring_up_to_date
from store.store import Store

# Digests of the texts that no other user wrote.
_OWN_TEXTS = """
    SELECT DISTINCT sha256(text) FROM data.texts WHERE user_id = $1
        AND text NOT IN (SELECT text FROM data.texts WHERE user_id <> $1)"""
_COUNT_IN_LEDGER = "SELECT count(*) FROM data.erasures WHERE user_hash = sha256(salt || $1)"
# With a time that no other erasure of this user has: it is a part of the identity of an erasure.
_ADD = """
    INSERT INTO data.erasures SELECT
        greatest($1::TIMESTAMP, (SELECT max(erased_at) + INTERVAL 1 MICROSECOND FROM data.erasures
            WHERE user_hash = sha256(salt || $2))),
        salt, sha256(salt || $2), $3, $4 FROM data.salt"""
_DELETIONS = {
    "behaviors": "DELETE FROM data.behaviors WHERE user_id = $1",
    "texts": "DELETE FROM data.texts WHERE user_id = $1",
    "social": "DELETE FROM data.social WHERE user_id = $1 OR friend_id = $1",
    "impressions": "DELETE FROM data.impressions WHERE user_id = $1",
    "consents": "DELETE FROM data.consents WHERE user_id = $1",
}


@dataclass(frozen=True)
class UnfinishedErasure:
    """An erasure whose traces outside the store may not all be removed yet.

    Attributes:
        user_id: the erased user.
        digests: sha256, hexadecimal, of the texts that no other user wrote.
        removed: number of rows removed from the store, by table.
        models: models trained on an export that held rows of the user.
        unknown_models: models whose export is missing or damaged, so that nobody can know.
    """

    user_id: str
    digests: tuple[str, ...] = ()
    removed: dict[str, int] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    unknown_models: tuple[str, ...] = ()


def erase_user(
    store: Store, state: UserState, user_id: str, models: Sequence[str], unknown_models: Sequence[str]
) -> UnfinishedErasure:
    """Remove a user from the store and its state, durably; return what is to be removed elsewhere.

    The ledger gets an entry where rows were removed, and for a user that it does not name yet, because an
    older backup may hold a user that this store has never seen. Erasing such a user again adds nothing.

    Args:
        store: which only the caller writes.
        state: of the store; brought up to its last commit first.
        user_id: the user to erase.
        models: models trained on the user.
        unknown_models: models of which that is not known.
    """
    bring_up_to_date(store, state)  # the commit before may have missed the state
    touched, removed = {user_id}, dict[str, int]()
    with state.writing() as draft:
        with store.writing(touched) as cursor:
            digests = tuple(row[0] for row in cursor.execute(_OWN_TEXTS, [user_id]).fetchall())
            followers = delete_user_rows(cursor, [user_id], removed)
            unfinished = UnfinishedErasure(user_id, digests, removed, tuple(models), tuple(unknown_models))
            known = single_value(cursor, _COUNT_IN_LEDGER, [user_id])
            if any(removed.values()) or not known:
                cursor.execute(_ADD, [utc_now(), user_id, list(models), json.dumps(asdict(unfinished))])
            touched |= followers
        for table in TABLES:
            draft.put(table, user_id, b"")
        for follower in followers:
            _remove_friend(draft, follower, user_id)
        draft.set_commit_id(store.last_commit.commit_id)
    return unfinished


def delete_user_rows(
    cursor: duckdb.DuckDBPyConnection, user_ids: Iterable[str], removed: dict[str, int]
) -> set[str]:
    """Delete all rows of some users and count them in `removed`; return the users who had them as friends."""
    followers: set[str] = set()
    for user_id in user_ids:
        rows = cursor.execute("SELECT user_id FROM data.social WHERE friend_id = $1", [user_id]).fetchall()
        followers.update(row[0] for row in rows)
        for table, sql in _DELETIONS.items():
            count = int(single_value(cursor, sql, [user_id]))
            removed[table] = removed.get(table, 0) + count
    return followers


def unfinished_erasures(store: Store) -> list[UnfinishedErasure]:
    """Return the erasures that a crash interrupted after their rows were deleted."""
    with store.snapshot() as cursor:
        rows = cursor.execute("SELECT unfinished FROM data.erasures WHERE unfinished IS NOT NULL").fetchall()
    return [_from_json(row[0]) for row in rows]


def finish_erasure(store: Store, user_id: str) -> None:
    """Record that an erasure is finished; with it the last mention of the user id in clear is deleted."""
    with store.writing(set()) as cursor:
        cursor.execute(
            """UPDATE data.erasures SET unfinished = NULL
            WHERE user_hash = sha256(salt || $1) AND unfinished IS NOT NULL""",
            [user_id],
        )


def list_erasures(store: Store) -> list[Erasure]:
    """Return the ledger of a store, oldest erasure first."""
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


def _from_json(text: str) -> UnfinishedErasure:
    stored: dict[str, Any] = json.loads(text)
    lists = {name: tuple(stored[name]) for name in ("digests", "models", "unknown_models")}
    return UnfinishedErasure(user_id=stored["user_id"], removed=stored["removed"], **lists)


def _remove_friend(draft: StateDraft, follower: str, user_id: str) -> None:
    """Remove a user from the packed friends of another."""
    old = Friendships.unpack(draft.get("friends", follower))
    rows = zip(old.friends, old.relations, old.weights, old.times, strict=True)
    draft.put("friends", follower, Friendships.of(row for row in rows if row[0] != user_id).pack())
