"""What the consumer needs of a log; each kind of log is a module that fulfils `LogSource`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol


class LogUnreachableError(ConnectionError):
    """The log does not answer, or what came of it has a gap; reading it again from the position helps."""


class LogMissingError(LookupError):
    """There is no such log."""


class UnusableLogError(ValueError):
    """The log is there and cannot be consumed as it is; says what to change."""


class LogTakenOverError(RuntimeError):
    """Another consumer has begun to read the log for the same home."""


@dataclass(frozen=True)
class LogMessage:
    """One message of a log.

    Attributes:
        sequence: greater than those of the messages before.
        published: when the log took it, with a zone.
        subject: under which it was published.
        payload: an event, if all is well.
        handle: of the source, by which it acknowledges the message.
    """

    sequence: int
    published: datetime
    subject: str
    payload: bytes
    handle: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class DeadLetter:
    """What could not be written of a message.

    Attributes:
        message: where it comes from.
        reasons: number of rows by reason, the event itself counting as one.
        payload: the event with the rejected rows alone, or the whole message where it is no event.
        detail: what is wrong with a message that is no event; may quote it.
    """

    message: LogMessage
    reasons: dict[str, int]
    payload: bytes
    detail: str = ""


class LogSource(Protocol):
    """A log, read from a position by one consumer; every call may raise LogUnreachableError.

    Attributes:
        pending: messages behind the last one that was read, as far as known.
    """

    pending: int

    async def epoch(self) -> str:
        """Return what tells this log from another one of its name, which was deleted."""
        ...

    async def seek(self, after: int) -> int:
        """Begin to read behind a sequence; return how many messages behind it the log has dropped.

        Raises:
            LogTakenOverError: another consumer has begun since this one did.
        """
        ...

    async def read(self, most: int, seconds: float) -> list[LogMessage]:
        """Return the next messages in order, without a gap; none where none come within some seconds."""
        ...

    async def at_end(self) -> bool:
        """Return whether nothing is left to read, by the word of the log itself."""
        ...

    async def acknowledge(self, messages: Sequence[LogMessage]) -> None:
        """Tell the log that messages are written; where that is lost it repeats them, which is harmless."""
        ...

    async def message(self, sequence: int) -> LogMessage | None:
        """Return one message, None where the log has dropped it."""
        ...

    async def bury(self, letter: DeadLetter) -> None:
        """Keep a dead letter, durably; the same one again, soon, is kept once."""
        ...
