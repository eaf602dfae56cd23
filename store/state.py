"""What a query needs of a user, packed in LMDB beside the store: derived, checked, and made anew in doubt."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from store.codes import Codes
from store.disk import disk_errors
from store.packing import EVENT, TEXT, EventRows, Ties
from store.state_draft import TABLES, Draft
from store.state_files import DAMAGE, close_environment, discard, open_environment

_CODES = ("items", "words")


class DamagedStateError(ValueError):
    """The derived state is not what was written; it is derived, so deleting it loses only time."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"state {path} is damaged ({reason}); stop the server, delete the folder and start it again"
        )
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Person:
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


NOBODY = Person(np.zeros(0, EVENT), np.zeros(0, np.int64), (), (), np.zeros(0))


class UserState:
    """The packed rows of all users; threads may share it, one process opens it.

    It names the commit of the store that it reflects. What was written survives the death of the process, not
    that of the machine: `open` empties a state that another boot left open.
    """

    def __init__(self, path: Path, env: Any) -> None:
        self._path = path
        self._env = env
        self._tables = {name: env.open_db(name.encode()) for name in (*TABLES, *_CODES)}
        self.items = Codes.load(env, self._tables["items"])
        self.words = Codes.load(env, self._tables["words"])

    @classmethod
    def open(cls, path: Path) -> Self:
        """Return the state in a directory, empty where there is none or none that can be trusted."""
        with disk_errors(path):
            env = open_environment(path)
        try:
            return cls(path, env)
        except DAMAGE as error:
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

    @property
    def head(self) -> str:
        """The commit id of the store that the state reflects, "" for none."""
        with self._reading() as transaction:
            return str(transaction.get(b"head", default=b"").decode())

    def people(self, user_ids: Sequence[str]) -> list[Person]:
        """Return what is visible of some users, from one state; an unknown user has nothing."""
        with self._reading() as transaction:
            return [self._person(transaction, user_id) for user_id in user_ids]

    def friends_of(self, weights: Mapping[str, float]) -> Person:
        """Return a person with nothing but these friends."""
        with self._reading() as transaction:
            return self._gathered(transaction, b"", b"", dict(sorted(weights.items())))

    @contextmanager
    def writing(self) -> Iterator[Draft]:
        """Yield the only write transaction: all of the block is kept, or nothing of it.

        Raises:
            DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
        """
        draft = None
        try:
            with disk_errors(self._path), self._env.begin(write=True) as transaction:
                draft = Draft(transaction, self._tables, self.items, self.words)
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
        except DAMAGE as error:
            raise DamagedStateError(self._path, str(error)) from error

    def _person(self, transaction: Any, user_id: str) -> Person:
        key = user_id.encode()
        events = transaction.get(key, default=b"", db=self._tables["events"])
        texts = transaction.get(key, default=b"", db=self._tables["texts"])
        ties = Ties.unpack(transaction.get(key, default=b"", db=self._tables["friends"]))
        return self._gathered(transaction, events, texts, ties.by_friend())

    def _gathered(self, transaction: Any, own: bytes, texts: bytes, ties: Mapping[str, float]) -> Person:
        table = self._tables["events"]
        parts = [own, *(transaction.get(friend.encode(), default=b"", db=table) for friend in ties)]
        events = np.frombuffer(b"".join(parts), EVENT)
        owners = np.repeat(np.arange(len(parts)), [len(part) // EVENT.itemsize for part in parts])
        if events["hidden"].any():
            visible = ~events["hidden"]
            events, owners = events[visible], owners[visible]
        rows = np.frombuffer(texts, TEXT)
        digests = tuple(row.tobytes() for row in rows["digest"][~rows["hidden"]])
        return Person(events, owners, digests, tuple(ties), np.fromiter(ties.values(), np.float64, len(ties)))
