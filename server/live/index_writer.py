"""What changes an index in memory and, where query processes follow, tells them through the change log."""

import threading
from collections.abc import Mapping, Sequence

from indexer.files import ItemChange
from indexer.packed_change import pack_change, unpack_change
from server.query import Snapshot
from store.state import IndexPart, StateContents, StateReading, UserState


class IndexWriter:
    """Puts changes into the two indexes of a snapshot; the only place that does."""

    def put_items(
        self, snapshot: Snapshot, changes: Sequence[ItemChange], removed: Sequence[str] = ()
    ) -> None:
        """Put and remove items; a search sees all of it or nothing.  Raises: as `Index.put`."""
        snapshot.index.put(changes, removed)

    def put_users(
        self, snapshot: Snapshot, changes: Sequence[ItemChange], removed: Sequence[str] = ()
    ) -> None:
        """Put users into the user index, where there is one, and remove some.  Raises: as `Index.put`."""
        if snapshot.users is not None:
            snapshot.users.put(changes, removed)

    def flush(self) -> None:
        """Make up for what could not be told."""

    def begin(self, index_id: str) -> None:
        """Begin with an index as its files are, unless it serves already."""

    def restore(self, snapshot: Snapshot) -> None:
        """Put into a snapshot what others know of its index already."""

    def serve(self, index_id: str) -> None:
        """Tell that an index serves from now on."""


class RecordingIndexWriter(IndexWriter):
    """Tells the query processes all that it puts, and which index serves.

    When a call returns, a query that any process begins afterwards finds the change. What the disk refuses
    is kept, and told by the next call that succeeds.
    """

    def __init__(self, state: UserState) -> None:
        self._state = state
        self._telling = threading.Lock()
        self._untold: dict[tuple[str, IndexPart], dict[str, bytes]] = {}

    def put_items(
        self, snapshot: Snapshot, changes: Sequence[ItemChange], removed: Sequence[str] = ()
    ) -> None:
        """Put and remove items, and tell.  Raises: as `Index.put`, DiskFullError, ReadOnlyDiskError."""
        super().put_items(snapshot, changes, removed)
        self._tell(snapshot, "items", changes, removed)

    def put_users(
        self, snapshot: Snapshot, changes: Sequence[ItemChange], removed: Sequence[str] = ()
    ) -> None:
        """Put and remove users, and tell.  Raises: as `Index.put`, DiskFullError, ReadOnlyDiskError."""
        super().put_users(snapshot, changes, removed)
        if snapshot.users is not None:
            self._tell(snapshot, "users", changes, removed)

    def flush(self) -> None:
        """Tell what could not be told before.  Raises: DiskFullError, ReadOnlyDiskError."""
        with self._telling:
            for index_id, part in list(self._untold):
                changes = self._untold[index_id, part]
                items, members = (changes, {}) if part == "items" else ({}, changes)
                with self._state.writing() as draft:
                    draft.put_live(index_id, items, members)
                del self._untold[index_id, part]

    def begin(self, index_id: str) -> None:
        """Forget what was told of an index when it served before; of the one that serves it stays."""
        if self._state.read(lambda reading: reading.serves) != index_id:
            with self._state.writing() as draft:
                draft.clear_live(index_id)

    def restore(self, snapshot: Snapshot) -> None:
        """Put what an earlier owner told of the index that serves: the query processes know of it, too."""
        self._state.read(lambda reading: put_live(snapshot, reading))

    def serve(self, index_id: str) -> None:
        """Tell that an index serves from now on, and forget what was told of others."""
        self.flush()
        others = set(self._state.read(StateReading.live_indexes)) - {index_id}
        with self._state.writing() as draft:
            draft.clear_live(*sorted(others))
            draft.serve(index_id)

    def _tell(
        self, snapshot: Snapshot, part: IndexPart, changes: Sequence[ItemChange], removed: Sequence[str]
    ) -> None:
        if not changes and not removed:
            return
        told = dict.fromkeys(removed, b"")
        told |= {change.item_id: pack_change(change) for change in changes}
        with self._telling:
            self._untold.setdefault((snapshot.index.index_id, part), {}).update(told)
        self.flush()


def put_live(
    snapshot: Snapshot,
    reading: StateContents,
    items: Sequence[str] | None = None,
    users: Sequence[str] | None = None,
) -> None:
    """Put into the indexes of a snapshot what the owner told of some of their items and users, or of all.

    Args:
        snapshot: whose indexes are brought up to the log.
        reading: where it was told.
        items: ids of them; None for all that anything was told of.
        users: likewise.
    """
    index_id = snapshot.index.index_id
    if items is None or items:
        snapshot.index.put(*_changes(reading.live(index_id, "items", items)))
    if snapshot.users is not None and (users is None or users):
        snapshot.users.put(*_changes(reading.live(index_id, "users", users)))


def _changes(live: Mapping[str, tuple[int, bytes]]) -> tuple[list[ItemChange], list[str]]:
    """Return the changes that were told, and the ids of what was removed."""
    put = [unpack_change(name, raw) for name, (_, raw) in live.items() if raw]
    return put, [name for name, (_, raw) in live.items() if not raw]
