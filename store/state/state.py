"""What a query needs of a user, packed in LMDB beside the store: derived, checked, and made anew in doubt."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from store.disk import disk_errors
from store.lmdb_file import DAMAGE_ERRORS
from store.state.environment import close_environment, discard, open_environment
from store.state.packing import (
    EVENT,
    TEXT,
    DamagedRecordError,
    EventRows,
    Friendships,
    with_checksum,
    without_checksum,
)
from store.state.vocabulary import Vocabulary

TABLES = ("events", "texts", "friends")  # packed rows by user id
_CODES = ("items", "words")
_Result = TypeVar("_Result")
_Mend = Callable[["StateDraft", str, str], None]
log = logging.getLogger(__name__)


class DamagedStateError(ValueError):
    """LMDB cannot read the derived state any more; it is derived, and the next start makes it anew."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"state {path} is damaged ({reason}); start the server again, which makes it anew")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class UserRecord:
    """What is visible of a user, and of the friends.

    Shapes:
        events: (n,) EVENT rows of the user, then of each friend; each part by time (undated first).
        owners: (n,) int64, 0 for the user, i for the i-th friend.
        texts: sha256 digests, by time.
        weights: (F,) float64, of the friends in the order of their ids.
    """

    events: EventRows
    owners: npt.NDArray[np.int64]
    texts: tuple[bytes, ...]
    friends: tuple[str, ...]
    weights: npt.NDArray[np.float64]

    @property
    def history(self) -> EventRows:
        """The user's own events."""
        return self.events[: int(np.searchsorted(self.owners, 1))]


class _DamagedRowsError(DamagedRecordError):
    """The rows of a user in a table are not what was written."""

    def __init__(self, table: str, user_id: str) -> None:
        super().__init__(table)
        self.user_id = user_id


EMPTY_RECORD = UserRecord(np.zeros(0, EVENT), np.zeros(0, np.int64), (), (), np.zeros(0))


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

    def set_commit_id(self, commit_id: str) -> None:
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
            self._transaction.put(key, with_checksum(key, packed), db=db)

    def clear(self) -> None:
        """Remove the rows of all users; items and words keep their codes."""
        for name in TABLES:
            self._transaction.drop(self._tables[name], delete=False)


def rows_of(transaction: Any, db: Any, table: str, user_id: str) -> bytes:
    """Return the packed rows of a user in a table, b"" for none.  Raises: DamagedRecordError."""
    key = user_id.encode()
    raw: bytes | None = transaction.get(key, db=db)
    return b"" if raw is None else without_checksum(table, key, raw)


class UserState:
    """The packed rows of all users; threads may share it, one process opens it.

    It names the commit of the store that it reflects. What was written survives the death of the process, not
    that of the machine: `open` empties a state that another boot left open.
    """

    def __init__(self, path: Path, env: Any) -> None:
        self._path = path
        self._env = env
        self._mend: _Mend | None = None
        self._tables = {name: env.open_db(name.encode()) for name in (*TABLES, *_CODES)}
        self.items = Vocabulary.load(env, self._tables["items"])
        self.words = Vocabulary.load(env, self._tables["words"])

    @classmethod
    def open(cls, path: Path) -> Self:
        """Return the state in a directory, empty where there is none or none that can be trusted."""
        with disk_errors(path):
            env = open_environment(path)
        try:
            return cls(path, env)
        except (*DAMAGE_ERRORS, DamagedRecordError) as error:
            env.close()
            discard(path, str(error))
            return cls(path, open_environment(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the files, with all of it on disk."""
        close_environment(self._path, self._env)

    def repair_with(self, mend: _Mend) -> None:
        """Take what puts the rows of a table and user anew; from then on damaged records are read again."""
        self._mend = mend

    @property
    def commit_id(self) -> str:
        """The commit id of the store that the state reflects, "" for none."""
        with self._reading() as transaction:
            return str(transaction.get(b"head", default=b"").decode())

    def users(self, user_ids: Sequence[str]) -> list[UserRecord]:
        """Return what is visible of some users, from one state; an unknown user has nothing."""
        return self._mending(lambda transaction: [self._person(transaction, one) for one in user_ids])

    def record_of_friends(self, weights: Mapping[str, float]) -> UserRecord:
        """Return a person with nothing but these friends."""
        friends = dict(sorted(weights.items()))
        return self._mending(lambda transaction: self._gathered(transaction, b"", b"", friends))

    @contextmanager
    def writing(self) -> Iterator[StateDraft]:
        """Yield the only write transaction: all of the block is kept, or nothing of it.

        Raises:
            DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
        """
        draft = None
        try:
            with disk_errors(self._path), self._env.begin(write=True) as transaction:
                draft = StateDraft(transaction, self._tables, self.items, self.words, self._mend_in)
                yield draft
                # Readers must know a code as soon as they can meet it.
                self.items.take(draft.items)
                self.words.take(draft.words)
        except BaseException:
            if draft is not None:
                self.items.forget(draft.items)
                self.words.forget(draft.words)
            raise

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        try:
            with self._env.begin() as transaction:
                yield transaction
        except DAMAGE_ERRORS as error:
            raise DamagedStateError(self._path, str(error)) from error

    def _mending(self, read: Callable[[Any], _Result]) -> _Result:
        """Return what is read in one transaction, after damaged records were put anew."""
        while True:
            try:
                with self._reading() as transaction:
                    return read(transaction)
            except _DamagedRowsError as error:
                with self.writing() as draft:
                    draft.get(error.table, error.user_id)

    def _mend_in(self, draft: StateDraft, table: str, user_id: str) -> None:
        if self._mend is None:
            raise DamagedStateError(self._path, f"the {table} of a user are not what was written")
        log.warning("state %s: the %s of a user are damaged: reading them again", self._path, table)
        self._mend(draft, table, user_id)

    def _rows(self, transaction: Any, table: str, user_id: str) -> bytes:
        try:
            return rows_of(transaction, self._tables[table], table, user_id)
        except DamagedRecordError as error:
            raise _DamagedRowsError(table, user_id) from error

    def _person(self, transaction: Any, user_id: str) -> UserRecord:
        events, texts, friends = (self._rows(transaction, name, user_id) for name in TABLES)
        return self._gathered(transaction, events, texts, Friendships.unpack(friends).by_friend())

    def _gathered(self, transaction: Any, own: bytes, texts: bytes, ties: Mapping[str, float]) -> UserRecord:
        parts = [own, *(self._rows(transaction, "events", friend) for friend in ties)]
        events = np.frombuffer(b"".join(parts), EVENT)
        owners = np.repeat(np.arange(len(parts)), [len(part) // EVENT.itemsize for part in parts])
        if events["hidden"].any():
            visible = ~events["hidden"]
            events, owners = events[visible], owners[visible]
        rows = np.frombuffer(texts, TEXT)
        digests = tuple(row.tobytes() for row in rows["digest"][~rows["hidden"]])
        return UserRecord(
            events, owners, digests, tuple(ties), np.fromiter(ties.values(), np.float64, len(ties))
        )
