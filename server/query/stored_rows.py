"""What queries read of the store itself: by the process that owns it, or from that process."""

from typing import Protocol

import pyarrow as pa


class OwnerUnreachableError(ConnectionError):
    """The process that owns the home does not answer; it is being restarted."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} needs the process that owns the home, which is restarting: try again")
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
