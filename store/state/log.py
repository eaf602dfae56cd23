"""The change log of the derived state: what each transaction changed, for whoever keeps something made of it.

A reader that keeps user vectors, or an index with live changes, looks at the head of the log in the read
transaction of its call, and first makes up for the entries since it last looked. So what is acknowledged by
one process is seen by the next call to any.
"""

import json
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from store.state.packing import with_checksum, without_checksum

if TYPE_CHECKING:
    from store.state.reader import StateContents, StateReader

_Result = TypeVar("_Result")

KEPT_ENTRIES = 1_024
MOST_USERS = 5_000  # in one entry; of a transaction that changes more, it says that all users changed

IndexPart = Literal["items", "users"]

_HEAD_KEY = b"log head"  # beside the names of the tables
_SERVES_KEY = b"serves"
_HEAD = struct.Struct("<QQII")
_SEQUENCE = struct.Struct(">Q")  # big-endian, so that LMDB sorts the keys by number
_PREFIXES: dict[IndexPart, bytes] = {"items": b"\0i\0", "users": b"\0u\0"}


@dataclass(frozen=True, slots=True)
class LogHead:
    """How far the log has come in one transaction.

    Attributes:
        sequence: of the newest entry, 0 where there was none yet.
        oldest: of the oldest entry that is kept.
        items, words: numbers of codes that the vocabularies have given out.
    """

    sequence: int = 0
    oldest: int = 1
    items: int = 0
    words: int = 0


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What one transaction changed.

    Attributes:
        sequence: one more than that of the entry before; callers know it as the commit.
        users: whose rows changed; None for all.
        index_id: of the index whose live items or users changed, "" for none.
        items, members: ids of its items and of the users in its user index that were put or removed.
        serves: the index that serves from here on, "" where that did not change.
    """

    sequence: int
    users: frozenset[str] | None
    index_id: str = ""
    items: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    serves: str = ""

    def pack(self) -> bytes:
        """Return the bytes that `unpack` reads."""
        users = None if self.users is None else sorted(self.users)
        fields = [users, self.index_id, self.items, self.members, self.serves]
        return json.dumps(fields, ensure_ascii=False).encode()

    @classmethod
    def unpack(cls, sequence: int, raw: bytes) -> "LogEntry":
        """Read the bytes of `pack`."""
        users, index_id, items, members, serves = json.loads(raw)
        changed = None if users is None else frozenset(users)
        return cls(sequence, changed, index_id, tuple(items), tuple(members), serves)


@dataclass(frozen=True, slots=True)
class Committed:
    """What a transaction has changed, for whoever copies the state.

    Attributes:
        entry: of the log.
        users: whose rows changed, however many; None for all.
        texts: those of them whose texts did.
    """

    entry: LogEntry
    users: frozenset[str] | None
    texts: frozenset[str]


@dataclass
class EntryDraft:
    """What a write transaction has changed so far.

    Attributes:
        users: whose rows changed; None for all.
        texts: those of them whose texts did.
        above: the number of the entry is greater than this.
        and as in LogEntry.
    """

    users: set[str] | None = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    index_id: str = ""
    items: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    serves: str = ""
    above: int = 0

    def changed(self, user_id: str, *, texts: bool) -> None:
        """Note that rows of a user changed, and whether the texts did."""
        if self.users is not None:
            self.users.add(user_id)
            if texts:
                self.texts.add(user_id)

    def committed(self, sequence: int) -> Committed:
        """Return what changed; the entry names all users where there are more than `MOST_USERS`."""
        users = None if self.users is None else frozenset(self.users)
        named = None if users is None or len(users) > MOST_USERS else users
        entry = LogEntry(sequence, named, self.index_id, self.items, self.members, self.serves)
        return Committed(entry, users, frozenset(self.texts))

    @property
    def empty(self) -> bool:
        """Whether nothing changed."""
        return self.users == set() and not (self.index_id or self.serves)


def read_head(transaction: Any) -> LogHead:
    """Read how far the log has come.  Raises: DamagedRecordError."""
    raw = transaction.get(_HEAD_KEY)
    return LogHead() if raw is None else LogHead(*_HEAD.unpack(without_checksum("log", _HEAD_KEY, raw)))


def read_serves(transaction: Any) -> str:
    """Read which index serves, "" where none does yet.  Raises: DamagedRecordError."""
    raw = transaction.get(_SERVES_KEY)
    return "" if raw is None else without_checksum("log", _SERVES_KEY, raw).decode()


def read_entries(transaction: Any, table: Any, after: int, head: LogHead) -> list[LogEntry] | None:
    """Read the entries behind a number; None where some of them are not kept any more.

    Raises:
        DamagedRecordError: one is not what was written.
    """
    if after + 1 < head.oldest:
        return None
    entries = []
    for sequence in range(after + 1, head.sequence + 1):
        key = _SEQUENCE.pack(sequence)
        raw = transaction.get(key, db=table)
        if raw is None:
            return None
        entries.append(LogEntry.unpack(sequence, without_checksum("log", key, raw)))
    return entries


def append_entry(
    transaction: Any, table: Any, draft: EntryDraft, items: int, words: int
) -> tuple[int, Committed | None]:
    """Append what a transaction changed, and how many codes there are.

    Older entries than the last `KEPT_ENTRIES` are removed.

    Returns:
        the number of the last entry, and what was appended, None for nothing.
    """
    before = read_head(transaction)
    sequence, oldest = before.sequence, before.oldest
    if draft.above > sequence:
        for earlier in range(oldest, sequence + 1):
            transaction.delete(_SEQUENCE.pack(earlier), db=table)
        sequence, oldest = draft.above, draft.above + 1
    committed = None
    if not draft.empty:
        sequence += 1
        committed = draft.committed(sequence)
        key = _SEQUENCE.pack(sequence)
        transaction.put(key, with_checksum(key, committed.entry.pack()), db=table)
        while oldest <= sequence - KEPT_ENTRIES:
            transaction.delete(_SEQUENCE.pack(oldest), db=table)
            oldest += 1
        if draft.serves:
            transaction.put(_SERVES_KEY, with_checksum(_SERVES_KEY, draft.serves.encode()))
    after = LogHead(sequence, oldest, items, words)
    if after != before:
        raw = _HEAD.pack(after.sequence, after.oldest, after.items, after.words)
        transaction.put(_HEAD_KEY, with_checksum(_HEAD_KEY, raw))
    return sequence, committed


def put_live(
    transaction: Any,
    table: Any,
    sequence: int,
    index_id: str,
    part: IndexPart,
    changes: Mapping[str, bytes],
) -> None:
    """Store what became of items or users of an index, b"" for one that was removed."""
    prefix = index_id.encode() + _PREFIXES[part]
    for name, change in changes.items():
        key = prefix + name.encode()
        transaction.delete(key, db=table)
        transaction.put(key, with_checksum(key, _SEQUENCE.pack(sequence) + change), db=table)


def read_live(
    transaction: Any, table: Any, index_id: str, part: IndexPart, names: Sequence[str] | None = None
) -> dict[str, tuple[int, bytes]]:
    """Read what became of items or users of an index, of all or of some: the entry that told, and the bytes.

    Raises:
        DamagedRecordError: a value is not what was written.
    """
    prefix = index_id.encode() + _PREFIXES[part]
    if names is None:
        found = _behind(transaction, table, prefix)
    else:
        keys = (prefix + name.encode() for name in names)
        found = ((key, raw) for key in keys if (raw := transaction.get(key, db=table)) is not None)
    live = {}
    for key, raw in found:
        value = without_checksum("live", key, raw)
        (sequence,) = _SEQUENCE.unpack_from(value)
        live[key[len(prefix) :].decode()] = int(sequence), value[_SEQUENCE.size :]
    return live


def clear_live(transaction: Any, table: Any, index_id: str) -> None:
    """Forget what became of the items and users of an index."""
    for prefix in _PREFIXES.values():
        for key, _ in list(_behind(transaction, table, index_id.encode() + prefix)):
            transaction.delete(key, db=table)


def live_indexes(transaction: Any, table: Any) -> list[str]:
    """Return the ids of the indexes of which something is stored."""
    found: list[str] = []
    cursor = transaction.cursor(table)
    at = cursor.first()
    while at:
        index_id = cursor.key().partition(b"\0")[0]
        found.append(index_id.decode())
        at = cursor.set_range(index_id + b"\1")
    return found


def _behind(transaction: Any, table: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    cursor = transaction.cursor(table)
    at = cursor.set_range(prefix)
    while at and cursor.key().startswith(prefix):
        yield cursor.item()
        at = cursor.next()


LogListener = Callable[[Sequence[LogEntry] | None, "StateContents"], None]
"""Makes up for entries in order, or for everything where it is None: some of them are not kept any more.
It reads what they are about from the transaction of the reading, which is at the end of the log."""


class LogFollower:
    """Passes each entry of the log to its listeners once and in order; threads may share it.

    A query catches up with the transaction that it reads from, so that it finds all that was acknowledged
    before it began, whichever process wrote it.
    """

    def __init__(self, *listeners: LogListener, sequence: int = 0) -> None:
        """Take the listeners, which are called one after another.

        Args:
            listeners: bring up what they keep.
            sequence: of the last entry that they know of already.
        """
        self._listeners = list(listeners)
        self._sequence = sequence
        self._following = threading.Lock()

    @property
    def sequence(self) -> int:
        """The number of the last entry that all listeners know of."""
        return self._sequence

    def listen(self, listener: LogListener) -> None:
        """Pass entries to a further listener, from the next one on."""
        with self._following:
            self._listeners.append(listener)

    def catch_up(self, reading: "StateContents") -> None:
        """Bring all listeners up to a read transaction, or further.

        Where one fails, the next call begins with the same entries again.

        Raises:
            DamagedStateError: an entry cannot be read.
            and what a listener raises.
        """
        if reading.head.sequence > self._sequence:
            with self._following:
                self._advance(reading)

    def exclusively(self, state: "StateReader", action: "Callable[[StateContents], _Result]") -> _Result:
        """Catch up with the present end of the log, and act there before any listener hears of more.

        Raises:
            as `catch_up`, and what the action raises.
        """

        def act(reading: "StateContents") -> _Result:
            self._advance(reading)
            return action(reading)

        with self._following:  # first: so no listener is further than the transaction
            return state.read(act)

    def _advance(self, reading: "StateContents") -> None:
        if reading.head.sequence <= self._sequence:  # another thread has done it
            return
        entries = reading.entries(self._sequence)
        for listener in self._listeners:
            listener(entries, reading)
        self._sequence = reading.head.sequence
