"""Finished vectors of stored users, kept in memory until rows change that they were made from."""

import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexer.files import IntArray
from server.query.query import FloatArray, QueryVector
from server.query.snapshot import Snapshot
from store.state import LogEntry, StateContents, UserRecord

DEFAULT_BYTES = 128 << 20
_MOST_CHANGES = 65_536  # users of the newest entries that are remembered: 1 MB, and up to 10 where all differ
_ENTRY_BYTES = 1_000  # of Python's objects for one user, measured
_FRIEND_BYTES = 70  # for each friend, in both directions, without the id
_MOST_IN_TUPLE = 8  # followers of one person

# What is kept lies in plain tuples of arrays, strings and numbers, because Python's collector does not look
# through these: with an object of ours for each user it would hold up all threads for 40 ms of 16,000 users.
# Vector, parts, views used, whether it is empty, seen codes, and their main rows:
_Packed = tuple[FloatArray, FloatArray, tuple[str, ...], bool, npt.NDArray[np.uint32], IntArray]
_Entry = tuple[_Packed, int, tuple[str, ...], int]  # with the sequence, the friends, and the bytes


@dataclass(frozen=True, slots=True)
class UserVector:
    """What a query needs of a stored user.

    Shapes:
        seen: (n,) uint32, item codes of the user's own events.
        main_rows: (n,) int64, their rows in the main part of the index, −1 for those that it lacks.

    Attributes:
        query_vector: the user vector and its parts, unweighted.
    """

    query_vector: QueryVector
    seen: npt.NDArray[np.uint32]
    main_rows: IntArray

    @classmethod
    def of(cls, snapshot: Snapshot, record: UserRecord, query_vector: QueryVector) -> "UserVector":
        """Take from a record and the vector made of it what a query needs; nothing of a batch is kept."""
        seen = record.history["item"].copy()
        return cls(query_vector, seen, snapshot.main_rows(seen))

    def pack(self) -> _Packed:
        """Return what `unpack` reads."""
        query_vector = self.query_vector
        if query_vector.parts is None:
            raise ValueError("a user vector has parts")
        vector, parts, used = query_vector.vector, query_vector.parts, query_vector.views_used
        return vector, parts, used, query_vector.is_empty, self.seen, self.main_rows

    @classmethod
    def unpack(cls, packed: _Packed) -> "UserVector":
        """Make the vector again that was packed."""
        vector, parts, used, is_empty, seen, main_rows = packed
        return cls(QueryVector.unweighted(vector, parts, used, is_empty), seen, main_rows)


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """What a cache of user vectors has done so far, and what it holds now."""

    hits: int
    misses: int
    users: int
    nbytes: int


class UserVectors:
    """User vectors of the snapshot that serves, at most so many bytes of them; threads may share it.

    It is a listener of the change log. A vector leaves as soon as the log tells of a change to rows of its
    user or of one of the user's friends. One that was computed from a transaction before such a change never
    comes in: the newest changes are remembered. Of more vectors than fit, those least recently used leave.
    """

    def __init__(self, most_bytes: int = DEFAULT_BYTES) -> None:
        """Begin with no snapshot, so that nothing is kept; `most_bytes` 0 never keeps anything."""
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # the least recently used one first
        self._followers: dict[str, tuple[str, ...] | set[str]] = {}  # of a friend: users in `_entries`
        self._nbytes = self._hits = self._misses = 0
        self._changed: dict[str, int] = {}  # the newest entry of the log that names each user
        self._changes: deque[tuple[int, tuple[str, ...]]] = deque()  # entries behind `_known_from`
        self._remembered = 0  # users in `_changes`, with repeats
        self._known_from = 0  # all changes of later entries, which the log has told of, are remembered

    def serve(self, snapshot: Snapshot) -> None:
        """Forget all vectors, and keep those of another snapshot from here on."""
        with self._lock:
            self._snapshot = snapshot
            self._clear()

    def get(self, snapshot: Snapshot, sequence: int, user_ids: Sequence[str]) -> list[UserVector | None]:
        """Look up the vectors of users, None for one that is not kept, or where another snapshot serves.

        Args:
            snapshot: whose model and index are asked.
            sequence: of the log, in the transaction of the query, which has been caught up with: a vector of
                rows that were written later is not found, so that all users of a batch are of one state.
            user_ids: any.
        """
        with self._lock:
            if snapshot is not self._snapshot:
                self._misses += len(user_ids)
                return [None] * len(user_ids)
            found: list[UserVector | None] = []
            for user_id in user_ids:
                entry = self._entries.get(user_id)
                if entry is None or entry[1] > sequence:
                    self._misses += 1
                    found.append(None)
                else:
                    self._hits += 1
                    self._entries.move_to_end(user_id)
                    found.append(UserVector.unpack(entry[0]))
            return found

    def put(
        self,
        snapshot: Snapshot,
        sequence: int,
        user_id: str,
        friends: tuple[str, ...],
        vector: UserVector,
    ) -> bool:
        """Keep a vector, unless it may be stale already; return whether it is kept.

        Args:
            snapshot: whose model and index made it.
            sequence: of the log, in the transaction that its rows were read from.
            user_id: whose vector.
            friends: of the user, whose rows it was made from, too, and those who share none.
            vector: made of all that was stored, texts without a vector excepted: then it must not come here.
        """
        packed = vector.pack()
        nbytes = _ENTRY_BYTES + len(user_id) + packed[0].nbytes + packed[1].nbytes + packed[4].nbytes
        nbytes += packed[5].nbytes + sum(_FRIEND_BYTES + sys.getsizeof(one) for one in friends)
        with self._lock:
            if snapshot is not self._snapshot or nbytes > self._most_bytes or sequence < self._known_from:
                return False
            if any(self._changed.get(one, 0) > sequence for one in (user_id, *friends)):
                return False
            self._drop(user_id)
            self._entries[user_id] = packed, sequence, friends, nbytes
            for friend in friends:
                self._follow_friend(friend, user_id)
            self._nbytes += nbytes
            while self._nbytes > self._most_bytes:
                self._drop(next(iter(self._entries)))
            return True

    def follow(self, entries: Sequence[LogEntry] | None, reading: StateContents) -> None:
        """Drop what entries of the log make stale, all where they are not known any more: a `LogListener`."""
        with self._lock:
            if entries is None:
                self._forget_all(reading.head.sequence)
                return
            for entry in entries:
                if entry.users is None:
                    self._forget_all(entry.sequence)
                else:
                    self._follow_users(entry.sequence, entry.users)

    def counts(self) -> CacheCounts:
        """Return how many look-ups found a vector and how many did not, and what is kept."""
        with self._lock:
            return CacheCounts(self._hits, self._misses, len(self._entries), self._nbytes)

    def _follow_users(self, sequence: int, users: frozenset[str]) -> None:
        same = tuple(map(sys.intern, users))  # an id that changes often is kept once: 8 bytes, not 145
        for user_id in same:
            self._changed[user_id] = sequence
            self._drop(user_id)
            for follower in list(self._followers.get(user_id, ())):
                self._drop(follower)
        self._changes.append((sequence, same))
        self._remembered += len(users)
        while self._remembered > _MOST_CHANGES:
            self._known_from, oldest = self._changes.popleft()
            self._remembered -= len(oldest)
            self._forget_changes(oldest)

    def _forget_changes(self, users: Iterable[str]) -> None:
        for user_id in users:
            if self._changed.get(user_id, 0) <= self._known_from:
                self._changed.pop(user_id, None)

    def _forget_all(self, sequence: int) -> None:
        self._clear()
        self._changed.clear()
        self._changes.clear()
        self._remembered, self._known_from = 0, sequence

    def _clear(self) -> None:
        self._entries.clear()
        self._followers.clear()
        self._nbytes = 0

    def _drop(self, user_id: str) -> None:
        entry = self._entries.pop(user_id, None)
        if entry is None:
            return
        _, _, friends, nbytes = entry
        self._nbytes -= nbytes
        for friend in friends:
            followers = self._followers[friend]
            if isinstance(followers, set):
                followers.discard(user_id)
            else:
                followers = self._followers[friend] = tuple(one for one in followers if one != user_id)
            if not followers:
                del self._followers[friend]

    def _follow_friend(self, friend: str, user_id: str) -> None:
        followers = self._followers.get(friend, ())
        if isinstance(followers, set):
            followers.add(user_id)
        elif len(followers) < _MOST_IN_TUPLE:
            self._followers[friend] = (*followers, user_id)
        else:
            self._followers[friend] = {*followers, user_id}
