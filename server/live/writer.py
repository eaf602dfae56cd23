"""One thread that writes: requests which wait together share a transaction and one wait for the disk."""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Self, TypeVar

from server.cancellation import result_of, watch
from server.supervisor import Supervisor, Worker
from store.writes.idempotency import RequestIdReusedError
from store.writes.request import Request, WriteResult, WrittenChange
from store.writes.writer import Writer

_NICENESS = 5  # queries first, where there are fewer processors than work
MOST_ROWS = 20_000  # of one transaction, so that nobody waits long for the others'
log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_Waiting = tuple[Request, Future[WriteResult]]


class StoppingError(RuntimeError):
    """The server takes no more writes because it stops."""

    def __init__(self) -> None:
        super().__init__("the server is stopping and takes no more writes")


class GroupCommit:
    """Writes requests in the order in which they come; a result is there once the request is durable.

    Whatever happens, every caller gets an answer, and later requests are written. What is committed is told
    as written; where something that follows a commit fails, it is caught up with afterwards. A request or job
    whose result is cancelled before its turn comes is neither written nor run.
    """

    def __init__(
        self,
        writer: Writer,
        changed: Callable[[WrittenChange], None],
        catch_up: Callable[[], None] = lambda: None,
        supervisor: Supervisor | None = None,
    ) -> None:
        """Take who writes, who is told after each transaction, and what makes up for that.

        `changed` must be quick; `catch_up`, called on the same thread, brings all that follows a commit up to
        the store, whatever was missed.
        """
        self._writer = writer
        self._changed = changed
        self._catch_up = catch_up
        self._queue: deque[_Waiting | Callable[[], None]] = deque()
        self._broken = False  # not even an empty transaction can be written
        self._behind = False  # what follows a commit has missed one
        self._worker = Worker(
            "writer",
            waiting=lambda: bool(self._queue),
            work=self._next,
            again=self._make_up,
            niceness=_NICENESS,
            drains=True,
            supervisor=supervisor,
        )

    def __enter__(self) -> Self:
        self._worker.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Write what waits, then stop."""
        self._worker.__exit__()

    def submit(self, request: Request) -> Future[WriteResult]:
        """Return what will become of a request, which is cancelled with this thread's call.

        Raises:
            StoppingError: nothing is written any more.
        """
        result: Future[WriteResult] = Future()
        watch(result)
        self._enqueue((request, result))
        return result

    def alone(self, job: Callable[[], _Result], follow: Callable[[], None] = lambda: None) -> _Result:
        """Return what a job returns that runs between transactions, when nothing else writes.

        `follow` runs after a job that succeeds; where it fails, all that follows a commit is caught up with.

        Raises:
            StoppingError, AbandonedError, NoTurnError, and what the job raises.
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
            self._follow(follow)
            result.set_result(done)

        self._enqueue(run)
        return result_of(result)

    def _enqueue(self, one: _Waiting | Callable[[], None]) -> None:
        with self._worker.wake:
            if self._worker.stopping:
                raise StoppingError
            self._queue.append(one)
            self._worker.wake.notify_all()

    def _next(self) -> None:
        with self._worker.wake:
            first = self._queue.popleft()
            group = [] if callable(first) else self._group(first)
        if callable(first):
            first()
        elif wanted := [one for one in group if one[1].set_running_or_notify_cancel()]:
            self._answer(wanted)

    def _group(self, first: _Waiting) -> list[_Waiting]:
        """Return a request with those behind it, up to a job or to what one transaction may hold."""
        group, rows = [first], first[0].rows
        while self._queue and rows < MOST_ROWS and not callable(one := self._queue[0]):
            group.append(one)
            rows += one[0].rows
            self._queue.popleft()
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
                for one in group:
                    self._write([one])
                return
            self._examine(error)
            for _, result in group:
                result.set_exception(error)
            return
        self._tell(change)  # first: whoever deleted an item does not find it any more
        self._broken = False
        if not self._behind:
            self._worker.recovered()
        for (_, result), told in zip(group, written, strict=True):
            result.set_result(told)

    def _tell(self, change: WrittenChange) -> None:
        """Tell those who keep something beside the store; the transaction is committed, whatever they do."""
        failed: BaseException | None = change.failed
        try:
            self._changed(change)
        except BaseException as error:
            failed = error
        if failed is not None:
            self._worker.failed(failed)
            self._follow(self._catch_up)

    def _follow(self, step: Callable[[], None]) -> None:
        """Do what follows a commit; where that fails, have all of it caught up with later."""
        try:
            step()
        except BaseException as error:
            self._behind = True
            self._worker.failed(error)

    def _examine(self, error: BaseException) -> None:
        """Find out whether a request failed by its own fault, or nothing can be written."""
        if isinstance(error, RequestIdReusedError) or self._broken:
            return
        try:
            self._writer.check()
        except BaseException as found:
            self._broken = True
            self._worker.failed(found)

    def _make_up(self) -> bool:
        if self._broken:
            self._writer.check()
            self._broken = False
        if self._behind:
            self._catch_up()
            self._behind = False
        return True
