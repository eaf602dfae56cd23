"""Queries go first: who writes lets those that run come to their end."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST_SECONDS = 0.002  # of one pause, so that writes go on under any load


class QueryPriority:
    """Counts the queries that run; threads may share it.

    All threads share Python's lock. A thread that computes gives it up every half millisecond only, and a
    query, which lets go of it at each look into the state, the graph or the index, waits as long each time.
    """

    def __init__(self) -> None:
        self._running = 0
        self._still = threading.Condition()

    @contextmanager
    def query(self) -> Iterator[None]:
        """Count a query while the block runs."""
        with self._still:
            self._running += 1
        try:
            yield
        finally:
            with self._still:
                self._running -= 1
                if not self._running:
                    self._still.notify_all()

    def pause(self) -> None:
        """Wait until no query runs, for two milliseconds at most."""
        if self._running:
            with self._still:
                self._still.wait_for(lambda: not self._running, _LONGEST_SECONDS)
