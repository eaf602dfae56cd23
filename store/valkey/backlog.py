"""What the owner has committed to its state and not written to the cluster yet."""

import threading
from dataclasses import dataclass, field

from store.state import Committed, LogEntry

_MOST_USERS = 200_000  # beyond them it is no more work to fill the cluster again
_MOST_ENTRIES = 10_000


@dataclass
class Pending:
    """Commits that are to be written together.

    Attributes:
        entries: of the log, in their order.
        users: whose rows changed, and whether their texts did.
        everybody: whether rows of anybody may have changed.
    """

    entries: list[LogEntry] = field(default_factory=list)
    users: dict[str, bool] = field(default_factory=dict)
    everybody: bool = False

    def __bool__(self) -> bool:
        return bool(self.entries)

    def add(self, later: "Pending") -> None:
        """Add what was committed later."""
        self.entries += later.entries
        for user_id, texts in later.users.items():
            self.users[user_id] = self.users.get(user_id, False) or texts
        self.everybody |= later.everybody
        if len(self.users) > _MOST_USERS or len(self.entries) > _MOST_ENTRIES:
            self.everybody = True
        if self.everybody:  # nothing else needs to be known
            self.users.clear()
            del self.entries[:-1]


class Backlog:
    """Takes commits from the thread that makes them, and gives them to the one that writes the cluster."""

    def __init__(self) -> None:
        self._pending = Pending()
        self._lock = threading.Lock()

    def add(self, committed: Committed) -> None:
        """Take what a transaction has changed."""
        entry, users = committed.entry, committed.users
        changed = {} if users is None else {one: one in committed.texts for one in users}
        with self._lock:
            self._pending.add(Pending([entry], changed, users is None))

    def take(self) -> Pending:
        """Return all that is pending, and forget it."""
        with self._lock:
            pending, self._pending = self._pending, Pending()
            return pending

    def put_back(self, pending: Pending) -> None:
        """Take back what could not be written."""
        with self._lock:
            pending.add(self._pending)
            self._pending = pending

    def __bool__(self) -> bool:
        with self._lock:
            return bool(self._pending)
