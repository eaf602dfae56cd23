"""What a query needs of each user, packed in LMDB beside the store: derived from it, and rebuilt in doubt."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, Self, TypeVar

from store.disk import disk_errors
from store.lmdb_file import DAMAGE_ERRORS, DATA_FILE, DamagedLmdbFileError
from store.state.environment import (
    close_environment,
    discard,
    open_environment,
    open_for_reading,
)
from store.state.log import (
    Committed,
    EntryDraft,
    IndexPart,
    LogEntry,
    LogHead,
    append_entry,
    clear_live,
    live_indexes,
    put_live,
    read_entries,
    read_head,
    read_live,
    read_serves,
)
from store.state.packing import (
    DamagedRecordError,
    with_checksum,
    without_checksum,
)
from store.state.records import UserRecord, UserRecords
from store.state.vocabulary import Vocabulary, VocabularyDraft

TABLES = ("events", "texts", "friends", "consents")  # packed rows by user id
_VOCABULARIES = ("items", "words")
_LOG = ("log", "live")
_LOOK_SECONDS = 0.005  # how often whoever waits for a commit of another process looks for it
_IDENTITY = b"identity"  # key of a random id, drawn when the state is made
_COMMIT_ID = b"head"  # key of the commit that the state reflects
_Result = TypeVar("_Result")
_Repair = Callable[["StateDraft", str, str], None]
log = logging.getLogger(__name__)


class DamagedStateError(ValueError):
    """LMDB cannot read the derived state any more; the next start rebuilds it from the store."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"state {path} is damaged ({reason}); start the server again, which makes it anew")
        self.path = path
        self.reason = reason


class _DamagedRowsError(DamagedRecordError):
    """The rows of a user in a table are not what was written."""

    def __init__(self, table: str, user_id: str) -> None:
        super().__init__(table)
        self.user_id = user_id


class StateDraft:
    """One write transaction of the state.

    Attributes:
        items: the codes of item ids.
        words: the codes of actions and relations.
        committed: what `append_to_log` appended, None for nothing.
    """

    def __init__(
        self,
        transaction: Any,
        tables: Mapping[str, Any],
        items: Vocabulary,
        words: Vocabulary,
        repair: _Repair,
    ) -> None:
        """Take where to write, and what writes the rows of a table and user again when they are damaged."""
        self._transaction = transaction
        self._tables = tables
        self._repair = repair
        self._entry = EntryDraft()
        self._live: dict[IndexPart, Mapping[str, bytes]] = {}
        self.committed: Committed | None = None
        self.items = VocabularyDraft(items, transaction, tables["items"])
        self.words = VocabularyDraft(words, transaction, tables["words"])

    def set_commit_id(self, commit_id: str) -> None:
        """Record which commit of the store the state reflects from this transaction on."""
        self._transaction.put(_COMMIT_ID, commit_id.encode())

    def get(self, table: str, user_id: str) -> bytes:
        """Read the packed rows of a user in one of TABLES, b"" for none; damaged ones are repaired first."""
        try:
            return _packed_rows(self._transaction, self._tables[table], table, user_id)
        except DamagedRecordError:
            self._repair(self, table, user_id)
        return _packed_rows(self._transaction, self._tables[table], table, user_id)

    def put(self, table: str, user_id: str, packed: bytes) -> None:
        """Replace the packed rows of a user; no bytes remove the key."""
        self._entry.changed(user_id, texts=table == "texts")
        key, db = user_id.encode(), self._tables[table]
        # Deleted first: a shorter value in its place would keep pages that `lmdb.verify` takes for damage.
        self._transaction.delete(key, db=db)
        if packed:
            self._transaction.put(key, with_checksum(key, packed), db=db)

    def clear(self) -> None:
        """Remove the rows of all users; item ids and words keep their codes."""
        self._entry.users = None
        for name in TABLES:
            self._transaction.drop(self._tables[name], delete=False)

    def number_above(self, sequence: int) -> None:
        """Give the log entry of this transaction, and later ones, a number greater than this."""
        self._entry.above = sequence

    def change_all(self) -> None:
        """Note that what is made of the rows of all users may have changed, though no row does."""
        self._entry.users = None

    def put_live(
        self, index_id: str, items: Mapping[str, bytes], members: Mapping[str, bytes] | None = None
    ) -> None:
        """Note what became of items of an index, and of users in its user index, b"" for a removed one.

        To be called once in a transaction.
        """
        self._entry.index_id = index_id
        self._live = {"items": items, "users": members or {}}
        self._entry.items, self._entry.members = tuple(items), tuple(members or ())

    def clear_live(self, *index_ids: str) -> None:
        """Forget what became of the items and users of some indexes."""
        for index_id in index_ids:
            clear_live(self._transaction, self._tables["live"], index_id)

    def serve(self, index_id: str) -> None:
        """Note that an index serves from this transaction on."""
        self._entry.serves = index_id

    def append_to_log(self) -> None:
        """Append what this transaction changed to the log; the last step before it is committed."""
        counts = len(self.items), len(self.words)
        sequence, self.committed = append_entry(self._transaction, self._tables["log"], self._entry, *counts)
        for part, changes in self._live.items():
            put_live(self._transaction, self._tables["live"], sequence, self._entry.index_id, part, changes)


class StateReading:
    """One read transaction of the state.

    Attributes:
        head: how far the log has come.
    """

    def __init__(self, state: "UserState", transaction: Any, head: LogHead) -> None:
        self._state = state
        self._transaction = transaction
        self.head = head

    @property
    def _records(self) -> UserRecords:
        anybody = bool(self._transaction.stat(self._state._tables["consents"])["entries"])
        return UserRecords(self.rows, any_consents=anybody)

    def users(self, user_ids: Sequence[str]) -> list[UserRecord]:
        """Read the records of some users, as their own results use them; an unknown user has an empty one."""
        return self._records.users(user_ids)

    def shared_users(self, user_ids: Sequence[str]) -> list[UserRecord]:
        """Read the records of some users, without the views that others must not see."""
        return self._records.shared_users(user_ids)

    def record_of_friends(self, weights: Mapping[str, float]) -> UserRecord:
        """Read the record of a user who has nothing but friends, given with weights."""
        return self._records.record_of_friends(weights)

    def entries(self, after: int) -> list[LogEntry] | None:
        """Read the log entries behind a number; None where some of them are not kept any more."""
        return read_entries(self._transaction, self._state._tables["log"], after, self.head)

    def rows(self, table: str, user_id: str) -> bytes:
        """Read the packed rows of a user in one of TABLES, b"" for none."""
        return self._state._rows(self._transaction, table, user_id)

    def user_ids(self, after: str, most: int) -> list[str]:
        """Return the next users who have rows, at most so many, in the order of the bytes of their ids."""
        found: set[bytes] = set()
        for table in TABLES:
            cursor = self._transaction.cursor(self._state._tables[table])
            at = cursor.set_range(after.encode() + b"\0")
            for _, key in zip(range(most), cursor.iternext(values=False) if at else (), strict=False):
                found.add(bytes(key))
        return [key.decode() for key in sorted(found)[:most]]

    def live(
        self, index_id: str, part: IndexPart, names: Sequence[str] | None = None
    ) -> dict[str, tuple[int, bytes]]:
        """Read what became of all or some items, or users, of an index: the entry that told, and the bytes.

        The bytes are those given to `StateDraft.put_live`.
        """
        return read_live(self._transaction, self._state._tables["live"], index_id, part, names)

    @property
    def serves(self) -> str:
        """The index that serves, "" where none does yet."""
        return read_serves(self._transaction)

    def live_indexes(self) -> list[str]:
        """Return the ids of the indexes of which `live` has something."""
        return live_indexes(self._transaction, self._state._tables["live"])


class StateReplacedError(RuntimeError):
    """The process that writes the state has made it anew in another file, which this process has not open."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"state {path} was made anew: this process reads the old one and must be replaced")
        self.path = path


class UserState:
    """The packed rows of all users; threads may share it, one process opens it to write, others to read.

    What was written survives the death of the process, not that of the machine: `open` empties a state that
    was open in an earlier boot.

    Attributes:
        items: the vocabulary of item ids.
        words: the vocabulary of actions and relations.
    """

    def __init__(self, path: Path, env: Any, *, reads_only: bool = False) -> None:
        self._path = path
        self._env = env
        self._repair: _Repair | None = None
        self._ask_to_repair: Callable[[str], None] | None = None
        self._listeners: list[Callable[[Committed], None]] = []
        self._reads_only = reads_only
        self._file = str(path / DATA_FILE)
        self._inode = os.stat(self._file).st_ino
        self._catching_up = threading.Lock()
        self._writing = threading.Lock()
        names = (*TABLES, *_VOCABULARIES, *_LOG)
        self._tables = {name: env.open_db(name.encode(), create=not reads_only) for name in names}
        self.items = Vocabulary.load(env, self._tables["items"])
        self.words = Vocabulary.load(env, self._tables["words"])

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the state in a directory; where there is none, or a damaged one, make an empty one.

        Raises:
            DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
        """
        with disk_errors(path):
            env = open_environment(path)
        try:
            return cls(path, env)
        except (*DAMAGE_ERRORS, DamagedRecordError) as error:
            env.close()
            discard(path, str(error))
            return cls(path, open_environment(path))

    @classmethod
    def open_reader(cls, path: Path) -> Self:
        """Open a state that another process writes; each read sees all that it had committed by then.

        Raises:
            DamagedStateError: there is none, or LMDB cannot read it.
        """
        try:
            return cls(path, open_for_reading(path), reads_only=True)
        except (*DAMAGE_ERRORS, DamagedLmdbFileError, DamagedRecordError, OSError) as error:
            raise DamagedStateError(path, str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Bring everything to disk and release the files."""
        if self._reads_only:
            self._env.close()
        else:
            close_environment(self._path, self._env)

    def free_readers(self) -> None:
        """Free what killed processes were reading, so that the file need not keep it for them."""
        self._env.reader_check()

    def on_commit(self, listener: Callable[[Committed], None]) -> None:
        """Pass what each later transaction changes to a function, on the thread that writes; it is quick."""
        self._listeners.append(listener)

    def repair_with(self, repair: _Repair) -> None:
        """Take the function that writes the damaged rows of a table and user again, for all later reads."""
        self._repair = repair

    def repair_by(self, ask: Callable[[str], None]) -> None:
        """Take the function that has the process which writes repair the rows of a user, for a reader."""
        self._ask_to_repair = ask

    @property
    def identity(self) -> str:
        """A random id, drawn when the state was made: what codes mean is the same as long as this is."""
        with self._reading() as transaction:
            found = transaction.get(_IDENTITY)
        if found is None:
            found = token_hex(16).encode()
            with disk_errors(self._path), self._env.begin(write=True) as transaction:
                transaction.put(_IDENTITY, found)
        return str(found.decode())

    @property
    def commit(self) -> int:
        """The number of the last log entry: whoever reads from here on finds all that it tells of."""
        return self.read(lambda reading: reading.head.sequence)

    @property
    def age(self) -> None:
        """None: a reading always has every commit."""
        return None

    def wait_for(self, commit: int, seconds: float) -> bool:
        """Wait until the log has come to a number; return whether it has in that time."""
        end = time.monotonic() + seconds
        while self.commit < commit:
            if time.monotonic() >= end:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    @property
    def commit_id(self) -> str:
        """The commit of the store that the state reflects, "" for none."""
        with self._reading() as transaction:
            return str(transaction.get(_COMMIT_ID, default=b"").decode())

    def users(self, user_ids: Sequence[str]) -> list[UserRecord]:
        """Read the records of some users in one transaction; an unknown user has an empty one.

        Raises:
            DamagedStateError: LMDB cannot read the state, or rows are damaged and cannot be repaired.
        """
        return self.read(lambda reading: reading.users(user_ids))

    def shared_users(self, user_ids: Sequence[str]) -> list[UserRecord]:
        """Read the records of some users, without the views that others must not see.  Raises: as `users`."""
        return self.read(lambda reading: reading.shared_users(user_ids))

    def record_of_friends(self, weights: Mapping[str, float]) -> UserRecord:
        """Read the record of a user who has nothing but friends, given with weights.  Raises: as `users`."""
        return self.read(lambda reading: reading.record_of_friends(weights))

    @contextmanager
    def writing(self) -> Iterator[StateDraft]:
        """Open the only write transaction: all of the block is kept, or nothing of it.

        Raises:
            DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
        """
        draft = None
        with self._writing:  # until the listeners know: they hear of commits in their order
            try:
                with disk_errors(self._path), self._env.begin(write=True) as transaction:
                    draft = StateDraft(transaction, self._tables, self.items, self.words, self._repair_rows)
                    yield draft
                    draft.append_to_log()
                    # Before the commit: readers must know a code as soon as a row may hold it.
                    self.items.add(draft.items)
                    self.words.add(draft.words)
            except BaseException:
                if draft is not None:
                    self.items.roll_back(draft.items)
                    self.words.roll_back(draft.words)
                raise
            if draft.committed is not None:
                for listener in self._listeners:
                    listener(draft.committed)

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        try:
            with self._env.begin() as transaction:
                yield transaction
        except DAMAGE_ERRORS as error:
            raise DamagedStateError(self._path, str(error)) from error

    def read(self, read: Callable[[StateReading], _Result]) -> _Result:
        """Call a function with a read transaction, again after each damaged record that it met was repaired.

        Raises:
            DamagedStateError: LMDB cannot read the state, or rows are damaged and cannot be repaired.
            StateReplacedError: another process writes the state, and has made it anew.
            and what the function raises.
        """
        asked: set[str] = set()
        while True:
            try:
                with self._reading() as transaction:
                    head = read_head(transaction)
                    if self._reads_only:
                        self._follow(transaction, head)
                    return read(StateReading(self, transaction, head))
            except _DamagedRowsError as error:
                if self._reads_only:
                    if self._ask_to_repair is None or error.user_id in asked:
                        raise DamagedStateError(self._path, str(error)) from error
                    asked.add(error.user_id)
                    self._ask_to_repair(error.user_id)
                    continue
                with self.writing() as draft:
                    draft.get(error.table, error.user_id)
            except DamagedRecordError as error:  # of the log
                raise DamagedStateError(self._path, str(error)) from error

    def _follow(self, transaction: Any, head: LogHead) -> None:
        """Learn the codes that rows of a transaction of another process may hold."""
        if os.stat(self._file).st_ino != self._inode:
            raise StateReplacedError(self._path)
        known = ((self.items, head.items, "items"), (self.words, head.words, "words"))
        for vocabulary, count, table in known:
            if len(vocabulary.names) < count:
                with self._catching_up:
                    vocabulary.catch_up(transaction, self._tables[table], count)

    def _repair_rows(self, draft: StateDraft, table: str, user_id: str) -> None:
        if self._repair is None:
            raise DamagedStateError(self._path, f"the {table} of a user are not what was written")
        log.warning("state %s: the %s of a user are damaged: reading them again", self._path, table)
        self._repair(draft, table, user_id)

    def _rows(self, transaction: Any, table: str, user_id: str) -> bytes:
        try:
            return _packed_rows(transaction, self._tables[table], table, user_id)
        except DamagedRecordError as error:
            raise _DamagedRowsError(table, user_id) from error


def _packed_rows(transaction: Any, db: Any, table: str, user_id: str) -> bytes:
    """Read the packed rows of a user in a table, b"" for none.  Raises: DamagedRecordError."""
    key = user_id.encode()
    raw: bytes | None = transaction.get(key, db=db)
    return b"" if raw is None else without_checksum(table, key, raw)
