"""Writing the derived state of users."""

from collections.abc import Mapping
from typing import Any

from store.codes import Codes

TABLES = ("events", "texts", "friends")  # packed rows by user id


class Draft:
    """One write transaction of the state."""

    def __init__(self, transaction: Any, tables: Mapping[str, Any], items: Codes, words: Codes) -> None:
        self._transaction = transaction
        self._tables = tables
        self.items = items.draft(transaction, tables["items"])
        self.words = words.draft(transaction, tables["words"])

    def reflect(self, commit_id: str) -> None:
        """Say which commit of the store the state reflects with this transaction."""
        self._transaction.put(b"head", commit_id.encode())

    def get(self, table: str, user_id: str) -> bytes:
        """Return the packed rows of a user in events, texts or friends."""
        raw: bytes = self._transaction.get(user_id.encode(), default=b"", db=self._tables[table])
        return raw

    def put(self, table: str, user_id: str, packed: bytes) -> None:
        """Replace the packed rows of a user; a user without any leaves no key behind."""
        key, db = user_id.encode(), self._tables[table]
        if packed:
            self._transaction.put(key, packed, db=db)
        else:
            self._transaction.delete(key, db=db)

    def clear(self) -> None:
        """Remove the rows of all users; items and words keep their codes."""
        for name in TABLES:
            self._transaction.drop(self._tables[name], delete=False)
