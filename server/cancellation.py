"""Cancellation: the call that a thread works for, and whether its caller still waits for the answer."""

import threading
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar
from typing import Any, TypeVar

import grpc

LONGEST_WAIT_SECONDS = 60.0  # of a call without a deadline, until its work begins
_NO_DEADLINE_SECONDS = 1e9  # gRPC gives more than this as the remaining time without a deadline

_Result = TypeVar("_Result")
_current: ContextVar["Call | None"] = ContextVar("call", default=None)


class AbandonedError(RuntimeError):
    """The caller has cancelled or its deadline has passed, so the rest of the work is left undone."""

    def __init__(self) -> None:
        super().__init__("nobody waits for the answer of this call any more")


class NoTurnError(RuntimeError):
    """The writes queued before a call take so long that its own was not begun; it may be repeated."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the call was not begun within {seconds:g} s, because an import or a long write is before it"
        )


class Call:
    """One call and the results that it waits for; when it ends, work that has not begun is cancelled."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._waiting: dict[Future[Any], None] = {}  # a set that keeps its order
        self._ended = not context.add_callback(self._end)

    @property
    def wanted(self) -> bool:
        """Whether the caller still waits for the answer."""
        return self._context.is_active()

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; very many where the caller has set none."""
        left = self._context.time_remaining()
        return _NO_DEADLINE_SECONDS if left is None else max(0.0, left)

    @property
    def has_deadline(self) -> bool:
        """Whether the caller has set a deadline."""
        return self._context.time_remaining() < _NO_DEADLINE_SECONDS

    def watch(self, result: Future[Any]) -> None:
        """Cancel a result when the call ends, unless its work has begun; a second time changes nothing."""
        with self._lock:
            if result in self._waiting:  # its place in the order stays
                return
            self._waiting[result] = None
            ended = self._ended
        result.add_done_callback(self._forget)
        if ended:
            result.cancel()

    def _forget(self, result: Future[Any]) -> None:
        with self._lock:
            self._waiting.pop(result, None)

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            waiting = list(self._waiting)
        for result in reversed(waiting):  # last first, so that a stream is written up to some message
            result.cancel()


def begin(context: grpc.ServicerContext) -> None:
    """Make this thread work for a call, until another call begins on it."""
    _current.set(Call(context))


def check_wanted() -> None:
    """Check that the caller of this thread's call still waits; a thread without a call passes.

    Raises:
        AbandonedError: the call was cancelled, or its deadline has passed.
    """
    call = _current.get()
    if call is not None and not call.wanted:
        raise AbandonedError


def seconds_left() -> float:
    """Return the seconds until the deadline of this thread's call; very many where it has none."""
    call = _current.get()
    return _NO_DEADLINE_SECONDS if call is None else call.seconds_left


def watch(result: "Future[Any]") -> None:
    """Cancel a result when this thread's call ends, unless its work has begun.

    To be called before any thread can begin the work, and in the order of the work: then a call that ends
    has had some of its first results, and none behind a cancelled one.
    """
    call = _current.get()
    if call is not None:
        call.watch(result)


def result_of(result: "Future[_Result]") -> _Result:
    """Wait for a result until the deadline of this thread's call, or `LONGEST_WAIT_SECONDS`; return it.

    A thread without a call waits for as long as it takes.

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
