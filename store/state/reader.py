"""What queries read: the state of users, wherever it is kept."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from store.state.log import IndexPart, LogEntry, LogHead
from store.state.records import UserRecord
from store.state.vocabulary import Vocabulary

_Result = TypeVar("_Result")


class StateContents(Protocol):
    """The state at one moment: records as of the head of the log, or newer."""

    @property
    def head(self) -> LogHead:
        """How far the log has come."""

    @property
    def serves(self) -> str:
        """The index that serves, "" where none does yet."""

    def users(self, user_ids: Sequence[str]) -> list[UserRecord]:
        """Read the records of some users, as their own results use them; an unknown user has an empty one."""

    def shared_users(self, user_ids: Sequence[str]) -> list[UserRecord]:
        """Read the records of some users, without the views that others must not see."""

    def record_of_friends(self, weights: Mapping[str, float]) -> UserRecord:
        """Read the record of a user who has nothing but friends, given with weights."""

    def entries(self, after: int) -> list[LogEntry] | None:
        """Read the log entries behind a number; None where some of them are not kept any more."""

    def live(
        self, index_id: str, part: IndexPart, names: Sequence[str] | None = None
    ) -> dict[str, tuple[int, bytes]]:
        """Read what became of items, or users, of an index: the entry that told, and the bytes."""


class StateReader(Protocol):
    """The state of users, for queries; threads may share it.

    Attributes:
        items: the vocabulary of item ids.
        words: the vocabulary of actions and relations.
    """

    items: Vocabulary
    words: Vocabulary

    @property
    def commit(self) -> int:
        """The number of the last log entry: whoever reads from here on finds all that it tells of."""

    @property
    def age(self) -> float | None:
        """Seconds since it was known to have every commit; None where it always has."""

    def wait_for(self, commit: int, seconds: float) -> bool:
        """Wait until the log has come to a number; return whether it has in that time."""

    def read(self, read: Callable[[StateContents], _Result]) -> _Result:
        """Call a function with the state at one moment."""

    def users(self, user_ids: Sequence[str]) -> list[UserRecord]:
        """Read the records of some users at one moment; an unknown user has an empty one."""

    def shared_users(self, user_ids: Sequence[str]) -> list[UserRecord]:
        """Read the records of some users, without the views that others must not see."""
