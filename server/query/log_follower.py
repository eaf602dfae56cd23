"""Following the change log: what is kept in memory is brought up to a transaction before a query uses it."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from store.state import LogEntry, StateReading, UserState

_Result = TypeVar("_Result")

LogListener = Callable[[Sequence[LogEntry] | None, StateReading], None]
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

    def catch_up(self, reading: StateReading) -> None:
        """Bring all listeners up to a read transaction, or further.

        Where one fails, the next call begins with the same entries again.

        Raises:
            DamagedStateError: an entry cannot be read.
            and what a listener raises.
        """
        if reading.head.sequence > self._sequence:
            with self._following:
                self._advance(reading)

    def exclusively(self, state: UserState, action: Callable[[StateReading], _Result]) -> _Result:
        """Catch up with the present end of the log, and act there before any listener hears of more.

        Raises:
            as `catch_up`, and what the action raises.
        """

        def act(reading: StateReading) -> _Result:
            self._advance(reading)
            return action(reading)

        with self._following:  # first: so no listener is further than the transaction
            return state.read(act)

    def _advance(self, reading: StateReading) -> None:
        if reading.head.sequence <= self._sequence:  # another thread has done it
            return
        entries = reading.entries(self._sequence)
        for listener in self._listeners:
            listener(entries, reading)
        self._sequence = reading.head.sequence
