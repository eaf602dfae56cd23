"""What queries read of the store itself: by the process that owns it, or from that process."""

from typing import Protocol

import pyarrow as pa


class OwnerUnreachableError(ConnectionError):
    """The owner of the home does not answer; it is being restarted, or cannot be reached from here."""

    def __init__(self, what: str, owner: str = "", code: str = "") -> None:
        if owner:
            super().__init__(
                f"{what} needs {owner}, which does not answer ({code or 'no connection'}): try again"
            )
        else:
            super().__init__(f"{what} needs the process that owns the home, which is restarting: try again")
        self.what, self.owner = what, owner


class ReadReplicaError(RuntimeError):
    """A read replica that does not know its owner is asked for what only that can do."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} needs the owner of the home: this is a read replica that was started without --owner"
        )
        self.what = what


class StoredRows(Protocol):
    """Rows of the store, as `store.Store` reads them.

    Each raises OwnerUnreachableError where another process owns the store and does not answer.
    """

    def title_and_text(self, item_id: str) -> tuple[str | None, str | None]:
        """Read title and text of an item.  Raises: ItemNotFoundError."""

    def item_table(self, item_id: str) -> pa.Table:
        """Read title, text, kind, attributes and vector of an item, one row.  Raises: ItemNotFoundError."""

    def texts_of(self, user_id: str) -> set[str]:
        """Return the distinct visible texts of a user."""
