"""Work in processes of this machine, each with one thread."""

import os
import signal
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from threading import Thread
from typing import Any, TypeVar

from loky.process_executor import ProcessPoolExecutor

from encoder.jobs.arrow import leave_pandas_out
from encoder.jobs.jobs import Jobs, PartOutcome, Room, attempt
from encoder.jobs.processors import usable_processors
from encoder.jobs.threads import ONE_THREAD
from encoder.progress import be_silent

MOST_TOGETHER = 2  # processes of one machine that add up gradients: more would do little else
_LOOK_SECONDS = 1.0  # from one look at whether the parent is there to the next

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


class LocalProcesses(Jobs):
    """Works in N processes of this machine, which are started when there is work and end with this object.

    Each process is a pool of its own, so one that is ended takes no other's part with it.
    """

    tries = 3
    lost = (BrokenProcessPool,)

    def __init__(self, count: int) -> None:
        self.workers = self.at_once = count
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: dict[Future[Any], ProcessPoolExecutor] = {}

    def submit(self, function: Callable[[_Part], _Result], part: _Part) -> "Future[PartOutcome[_Result]]":
        """Give a part to a process that has none."""
        self._collect()
        while self._idle:
            pool = self._idle.pop()
            try:
                return self._submit(pool, function, part)
            except BrokenProcessPool:  # it was ended while it had no part
                pool.shutdown(kill_workers=True)
        return self._submit(_new_pool(), function, part)

    def room(self, cards: int = 0) -> Room:
        """Return the processes, which share the processors; where there are cards, one for each.

        Without cards they are two at most: what they exchange grows with their number, and the threads of one
        share its weights and gradients.
        """
        count = min(self.workers, cards or MOST_TOGETHER)
        return Room(count, max(1, usable_processors() // count), with_cards=cards > 0)

    def abandon(self, futures: "Collection[Future[Any]]") -> None:
        """End the processes that work on some parts."""
        for future in futures:
            if (pool := self._busy.pop(future, None)) is not None:  # else its part is finished
                pool.shutdown(kill_workers=True)

    def close(self) -> None:
        """End all processes."""
        self._collect()
        for pool in (*self._idle, *self._busy.values()):
            pool.shutdown(kill_workers=True)
        self._idle.clear()
        self._busy.clear()

    def _submit(
        self, pool: ProcessPoolExecutor, function: Callable[[_Part], _Result], part: _Part
    ) -> "Future[PartOutcome[_Result]]":
        future: Future[PartOutcome[_Result]] = pool.submit(attempt, function, part)
        self._busy[future] = pool
        return future

    def _collect(self) -> None:
        """Take back the processes whose part is finished; those that were lost are let go."""
        for future in [one for one in self._busy if one.done()]:
            pool = self._busy.pop(future)
            if future.exception() is None:
                self._idle.append(pool)
            else:
                pool.shutdown(kill_workers=True)


def _new_pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, initializer=_begin_worker, initargs=(os.getpid(),), env=ONE_THREAD)


def _begin_worker(parent: int) -> None:
    """Leave the terminal, and Ctrl-C, which all its processes get, to the parent; end when that has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    be_silent()
    leave_pandas_out()
    Thread(target=_end_with, args=(parent,), name="end with the parent", daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent was killed, which could not end it."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)
