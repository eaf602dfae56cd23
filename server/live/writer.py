"""The thread that writes: requests that wait together share a transaction, and one wait for the disk."""

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from server.cancellation import result_of, watch
from server.supervisor import Supervisor, Worker
from store.writes import (
    ItemVectorLengthError,
    Request,
    RequestIdReusedError,
    Writer,
    WriteResult,
    WrittenChange,
)

_NICENESS = 5  # queries first, where there are fewer processors than work
MOST_ROWS = 20_000  # a transaction with so many takes in no more requests: no caller waits long for others
_FAULTS_OF_REQUESTS = (RequestIdReusedError, ItemVectorLengthError)
log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_Waiting = tuple[Request, Future[WriteResult]]


class StoppingError(RuntimeError):
    """The server takes no more writes because it stops."""

    def __init__(self) -> None:
        super().__init__("the server is stopping and takes no more writes")


class GroupCommit(Worker):
    """Writes requests in the order in which they come, and runs jobs between transactions.

    - A request has its result once it is durable and the listener knows of it.
    - Every request and job gets a result or an error, and later ones are written, whatever fails.
    - A request that is committed counts as written; where the listener fails, it catches up afterwards.
    - A request or job whose result is cancelled before its turn is neither written nor run.
    - What waits when the `with` block ends is still written.

    Attributes:
        counted: called after each transaction with its requests and the rows that these inserted or updated.
    """

    def __init__(
        self,
        writer: Writer,
        committed: Callable[[WrittenChange], None],
        catch_up: Callable[[], None] = lambda: None,
        supervisor: Supervisor | None = None,
    ) -> None:
        """Take the writer and its listener, which is called on this thread.

        Args:
            writer: writes transactions.
            committed: called after each one; must be quick.
            catch_up: called after `committed` failed, or what followed a job; brings all that
                follows commits up to the store.
            supervisor: of health and Status.
        """
        super().__init__("writer", supervisor, niceness=_NICENESS, drains=True)
        self._writer = writer
        self._committed = committed
        self._listener_catch_up = catch_up
        self._queue: deque[_Waiting | Callable[[], None]] = deque()
        self._since: deque[float] = deque()  # when each entry of the queue came
        self.counted: Callable[[int, int], None] = lambda _requests, _rows: None
        self._broken = False  # not even an empty transaction can be written
        self._listener_behind = False

    def submit(self, request: Request) -> Future[WriteResult]:
        """Have a request written; the result is cancelled with the call that this thread works for.

        Raises:
            StoppingError: nothing is written any more.
        """
        result: Future[WriteResult] = Future()
        watch(result)
        self._enqueue((request, result))
        return result

    def alone(self, job: Callable[[], _Result], follow: Callable[[], None] = lambda: None) -> _Result:
        """Run a job between transactions, on the thread that writes; wait for it and return its result.

        `follow` runs after a job that succeeds; where it fails, the listener catches up.

        Raises:
            StoppingError, AbandonedError, NoTurnError: the job has not run.
            and what the job raises.
        """
        result: Future[_Result] = Future()

        def run() -> None:
            if not result.set_running_or_notify_cancel():
                return
            try:
                done = job()
            except BaseException as error:
                result.set_exception(error)
                return
            self._try_to_follow(follow)
            result.set_result(done)

        self._enqueue(run)
        return result_of(result)

    def _enqueue(self, entry: _Waiting | Callable[[], None]) -> None:
        with self.wake:
            if self.stopping:
                raise StoppingError
            self._queue.append(entry)
            self._since.append(time.monotonic())
            self.wake.notify_all()

    def backlog(self) -> tuple[int, float]:
        """Return how many requests and jobs wait, and for how many seconds the oldest has waited."""
        with self.wake:
            return len(self._queue), time.monotonic() - self._since[0] if self._since else 0.0

    @property
    def is_listener_behind(self) -> bool:
        """Whether what follows commits has missed one, and will catch up."""
        return self._listener_behind

    def _has_work(self) -> bool:
        return bool(self._queue)

    def _work(self) -> None:
        with self.wake:
            first = self._queue.popleft()
            self._since.popleft()
            group = [] if callable(first) else self._group(first)
        if callable(first):
            first()
            return
        wanted = [(request, result) for request, result in group if result.set_running_or_notify_cancel()]
        if wanted:
            self._answer(wanted)

    def _catch_up(self) -> bool:
        if self._broken:
            self._writer.check()
            self._broken = False
        if self._listener_behind:
            self._listener_catch_up()
            self._listener_behind = False
        return True

    def _group(self, first: _Waiting) -> list[_Waiting]:
        """Take the requests behind one off the queue, up to a job or to the rows of one transaction."""
        group, rows = [first], first[0].rows
        while self._queue and rows < MOST_ROWS and not callable(entry := self._queue[0]):
            group.append(entry)
            rows += entry[0].rows
            self._queue.popleft()
            self._since.popleft()
        return group

    def _answer(self, group: list[_Waiting]) -> None:
        try:
            self._write(group)
        except BaseException as error:
            for _, result in group:
                if not result.done():
                    result.set_exception(error)
            raise

    def _write(self, group: list[_Waiting]) -> None:
        try:
            written, change = self._writer.write([request for request, _ in group])
        except BaseException as error:
            if len(group) > 1:
                log.info("a transaction of %d requests failed: writing them one by one", len(group))
                for waiting in group:
                    self._write([waiting])
                return
            self._examine(error)
            for _, result in group:
                result.set_exception(error)
            return
        self._pass_on(change)  # before the results: whoever deleted an item does not find it any more
        self._broken = False
        if not self._listener_behind:
            self.recovered()
        self.counted(len(group), sum(one.inserted + one.updated for one in written if not one.repeated))
        for (_, result), answer in zip(group, written, strict=True):
            result.set_result(answer)

    def _pass_on(self, change: WrittenChange) -> None:
        """Pass a transaction on to the listener; it is committed, whatever fails here."""
        failed: BaseException | None = change.failed
        try:
            self._committed(change)
        except BaseException as error:
            failed = error
        if failed is not None:
            self.failed(failed)
            self._try_to_follow(self._listener_catch_up)

    def _try_to_follow(self, step: Callable[[], None]) -> None:
        """Do what follows a commit; where that fails, have the listener catch up later."""
        try:
            step()
        except BaseException as error:
            self._listener_behind = True
            self.failed(error)

    def _examine(self, error: BaseException) -> None:
        """Find out whether a request failed by its own fault, or nothing can be written."""
        if isinstance(error, _FAULTS_OF_REQUESTS) or self._broken:
            return
        try:
            self._writer.check()
        except BaseException as fault:
            self._broken = True
            self.failed(fault)
