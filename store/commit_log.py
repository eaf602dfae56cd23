"""The last write transaction of a store: what derived state is checked against."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import uuid4

import duckdb


@dataclass(frozen=True)
class Commit:
    """One write transaction.

    Attributes:
        sequence: how many there were, this one included.
        commit_id: a random name, so that two stores with equal sequences are told apart.
        previous: the commit id of the transaction before.
        users: whose rows it touched, or None where that is not known.
    """

    sequence: int
    commit_id: str
    previous: str
    users: tuple[str, ...] | None


def last_commit(cursor: duckdb.DuckDBPyConnection) -> Commit:
    """Return the last write transaction that the cursor sees."""
    rows = cursor.execute("SELECT sequence, commit_id, previous, users FROM data.head").fetchall()
    sequence, commit_id, previous, users = rows[0]
    return Commit(int(sequence), commit_id, previous, None if users is None else tuple(json.loads(users)))


def add_commit(cursor: duckdb.DuckDBPyConnection, before: Commit, users: Iterable[str] | None) -> Commit:
    """Return the head that a transaction leaves behind when it commits; `users` are those it touched."""
    touched = None if users is None else tuple(sorted(users))
    head = Commit(before.sequence + 1, uuid4().hex, before.commit_id, touched)
    cursor.execute(
        "UPDATE data.head SET sequence = $1, commit_id = $2, previous = $3, users = $4",
        [head.sequence, head.commit_id, head.previous, None if touched is None else json.dumps(touched)],
    )
    return head
