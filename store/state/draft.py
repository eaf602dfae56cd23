"""Writing the derived state of users."""

from collections.abc import Callable, Mapping
from typing import Any

from store.state.packing import DamagedRecordError, sealed, unsealed
from store.state.vocabulary import Vocabulary

TABLES = ("events", "texts", "friends")  # packed rows by user id


class StateDraft:
    """One write transaction of the state."""

    def __init__(
        self,
        transaction: Any,
        tables: Mapping[str, Any],
        items: Vocabulary,
        words: Vocabulary,
        mend: Callable[["StateDraft", str, str], None],
    ) -> None:
        """Take where to write, and what puts the rows of a table and user anew where they are damaged."""
        self._transaction = transaction
        self._tables = tables
        self._mend = mend
        self.items = items.draft(transaction, tables["items"])
        self.words = words.draft(transaction, tables["words"])

    def reflect(self, commit_id: str) -> None:
        """Say which commit of the store the state reflects with this transaction."""
        self._transaction.put(b"head", commit_id.encode())

    def get(self, table: str, user_id: str) -> bytes:
        """Return the packed rows of a user in events, texts or friends; damaged ones are put anew before."""
        try:
            return rows_of(self._transaction, self._tables[table], table, user_id)
        except DamagedRecordError:
            self._mend(self, table, user_id)
        return rows_of(self._transaction, self._tables[table], table, user_id)

    def put(self, table: str, user_id: str, packed: bytes) -> None:
        """Replace the packed rows of a user; a user without any leaves no key behind."""
        key, db = user_id.encode(), self._tables[table]
        # First: a shorter value in its place would keep pages that `store.lmdb_file` takes for damage.
        self._transaction.delete(key, db=db)
        if packed:
            self._transaction.put(key, sealed(key, packed), db=db)

    def clear(self) -> None:
        """Remove the rows of all users; items and words keep their codes."""
        for name in TABLES:
            self._transaction.drop(self._tables[name], delete=False)


def rows_of(transaction: Any, db: Any, table: str, user_id: str) -> bytes:
    """Return the packed rows of a user in a table, b"" for none.  Raises: DamagedRecordError."""
    key = user_id.encode()
    raw: bytes | None = transaction.get(key, db=db)
    return b"" if raw is None else unsealed(table, key, raw)
