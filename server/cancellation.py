"""The call that a thread works for, and whether anybody still waits for its answer."""

import threading
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar
from typing import Any, TypeVar

import grpc

LONGEST_WAIT_SECONDS = 60.0  # for its turn, of a call without a deadline
_NO_DEADLINE_SECONDS = 1e9  # gRPC's time that remains where there is none is longer

_Result = TypeVar("_Result")
_current: ContextVar["Call | None"] = ContextVar("call", default=None)


class AbandonedError(RuntimeError):
    """The caller has cancelled or its deadline has passed, so the rest of the work is left undone."""

    def __init__(self) -> None:
        super().__init__("nobody waits for the answer of this call any more")


class NoTurnError(RuntimeError):
    """The work before a call takes so long that the call was not begun; it may be repeated."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the call was not begun within {seconds:g} s, because an import or a long write is before it"
        )


class TooManyCallsError(RuntimeError):
    """As many calls of one kind run and wait as may."""

    def __init__(self, kind: str, most: int) -> None:
        super().__init__(f"{most} {kind} are running or waiting, and no more may: try again in a second")
        self.kind = kind
        self.most = most


class TooManyStreamsError(RuntimeError):
    """As many streams of one kind run as may."""

    def __init__(self, kind: str, most: int) -> None:
        super().__init__(f"{most} {kind} are running, and no more may: wait for one to end")
        self.kind = kind
        self.most = most


class Call:
    """One call, and the results that it waits for: whatever has not begun is cancelled when the call ends."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._waiting: dict[Future[Any], None] = {}  # a set that keeps its order
        self._over = not context.add_callback(self._end)

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for the answer."""
        return self._context.is_active()

    @property
    def has_deadline(self) -> bool:
        """Whether the caller waits for a certain time only."""
        return self._context.time_remaining() < _NO_DEADLINE_SECONDS

    def watch(self, result: Future[Any]) -> None:
        """Cancel a result with the call, unless its work has begun; once for each result."""
        with self._lock:
            if result in self._waiting:  # its turn among the others is kept
                return
            self._waiting[result] = None
            over = self._over
        result.add_done_callback(self._forget)
        if over:
            result.cancel()

    def _forget(self, result: Future[Any]) -> None:
        with self._lock:
            self._waiting.pop(result, None)

    def _end(self) -> None:
        with self._lock:
            self._over = True
            waiting = list(self._waiting)
        for result in reversed(waiting):  # so that what a stream has written is always its beginning
            result.cancel()


def begin(context: grpc.ServicerContext) -> None:
    """Let this thread work for a call, until another one begins in its stead."""
    _current.set(Call(context))


def check_wanted() -> None:
    """Do nothing while somebody waits for the answer of this thread's call, or it works for no call.

    Raises:
        AbandonedError: the call was cancelled, or its deadline has passed.
    """
    call = _current.get()
    if call is not None and not call.wanted:
        raise AbandonedError


def watch(result: "Future[Any]") -> None:
    """Have a result of this thread's call cancelled when the call ends before the work has begun.

    To be called before anybody can begin the work, and in the order of the work: then what has begun of it
    when the call ends is always its beginning.
    """
    call = _current.get()
    if call is not None:
        call.watch(result)


def result_of(result: "Future[_Result]") -> _Result:
    """Return a result that this thread's call waits for, until its deadline or for `LONGEST_WAIT_SECONDS`.

    Without a call, for as long as it takes.

    Raises:
        AbandonedError: the call ended before the work began; it is not done.
        NoTurnError: the work has not begun in that time; it is not done.
        and what the work raises.
    """
    call = _current.get()
    if call is None:
        return result.result()
    call.watch(result)
    done = threading.Event()
    result.add_done_callback(lambda _: done.set())
    if not done.wait(None if call.has_deadline else LONGEST_WAIT_SECONDS) and result.cancel():
        raise NoTurnError(LONGEST_WAIT_SECONDS)
    try:
        return result.result()
    except CancelledError as error:
        raise AbandonedError from error
