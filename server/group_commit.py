"""One thread that writes: requests which wait together share a transaction and one wait for the disk."""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Self, TypeVar

from server.calls import result_of
from store.requests import Change, Request
from store.rows import Written
from store.writing import Writer

_NICENESS = 5  # queries first, where there are fewer processors than work
MOST_ROWS = 20_000  # of one transaction, so that nobody waits long for the others'
log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_Waiting = tuple[Request, Future[Written]]


class StoppingError(RuntimeError):
    """The server takes no more writes because it stops."""

    def __init__(self) -> None:
        super().__init__("the server is stopping and takes no more writes")


class GroupCommit:
    """Writes requests in the order in which they come; a result is there once the request is durable.

    A request or job whose result is cancelled before its turn comes is neither written nor run.
    """

    def __init__(self, writer: Writer, changed: Callable[[Change], None]) -> None:
        """Take who writes, and who is told after each transaction; that must be quick."""
        self._writer = writer
        self._changed = changed
        self._queue: deque[_Waiting | Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="writer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write what waits, then stop."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def submit(self, request: Request) -> Future[Written]:
        """Return what will become of a request.  Raises: StoppingError."""
        result: Future[Written] = Future()
        self._enqueue((request, result))
        return result

    def alone(self, job: Callable[[], _Result]) -> _Result:
        """Return what a job returns that runs between transactions, when nothing else writes.

        Raises:
            StoppingError, AbandonedError, NoTurnError, and what the job raises.
        """
        result: Future[_Result] = Future()

        def run() -> None:
            if not result.set_running_or_notify_cancel():
                return
            try:
                result.set_result(job())
            except Exception as error:  # the caller raises it
                result.set_exception(error)

        self._enqueue(run)
        return result_of(result)

    def _enqueue(self, one: _Waiting | Callable[[], None]) -> None:
        with self._wake:
            if self._stopping:
                raise StoppingError
            self._queue.append(one)
            self._wake.notify()

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while True:
            with self._wake:
                while not (self._queue or self._stopping):
                    self._wake.wait()
                if not self._queue:
                    return
                first = self._queue.popleft()
                group = [] if callable(first) else self._group(first)
            if callable(first):
                first()
            else:
                self._write(group)

    def _group(self, first: _Waiting) -> list[_Waiting]:
        """Return a request with those behind it, up to a job or to what one transaction may hold.

        Those that were cancelled while they waited are left out.
        """
        group, rows = [first], first[0].rows
        while self._queue and rows < MOST_ROWS and not callable(one := self._queue[0]):
            group.append(one)
            rows += one[0].rows
            self._queue.popleft()
        return [one for one in group if one[1].set_running_or_notify_cancel()]

    def _write(self, group: list[_Waiting]) -> None:
        if not group:
            return
        try:
            written, change = self._writer.write([request for request, _ in group])
        except Exception as error:  # a supervisor: the callers raise it
            if len(group) == 1:
                group[0][1].set_exception(error)
                return
            log.info("a transaction of %d requests failed: writing them one by one", len(group))
            for one in group:
                self._write([one])
            return
        self._changed(change)  # first: whoever deleted an item does not find it any more
        for (_, result), told in zip(group, written, strict=True):
            result.set_result(told)
