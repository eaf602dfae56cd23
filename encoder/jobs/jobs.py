"""Work on many parts: in order, few at a time, and what a lost worker had is given to another."""

import logging
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

_AHEAD = 4  # parts per part at once that may be finished before an earlier one is

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")

log = logging.getLogger(__name__)


class NotByNameError(ValueError):
    """A function cannot be imported by its name, so another process cannot call it."""

    def __init__(self, function: object) -> None:
        super().__init__(f"{function!r} is no function of a module: workers import it by its name")


class PartFailedError(RuntimeError):
    """A part of some work raised an error; names the part, and says what the error was."""

    def __init__(self, label: str, number: int, reason: str) -> None:
        super().__init__(f"{label}: part {number} failed: {reason}")
        self.number = number


class PartLostError(RuntimeError):
    """The workers that had a part ended each time, by themselves or by somebody else."""

    def __init__(self, label: str, number: int, reason: str) -> None:
        super().__init__(
            f"{label}: whoever worked on part {number} was ended each time ({reason}): perhaps there is too "
            "little memory; what is finished is kept, so run this again with fewer jobs"
        )
        self.number = number


class WorkerLostError(RuntimeError):
    """A worker that worked at the same time as others ended before the work was over."""

    def __init__(self, label: str, number: int | None, reason: str) -> None:
        who = "a worker" if number is None else f"worker {number}"
        super().__init__(f"{label}: {who} is lost ({reason})")
        self.number = number
        self.reason = reason


@dataclass(frozen=True)
class PartFailure:
    """An error as text, because not every error survives the way from one process to another."""

    reason: str
    trace: str


@dataclass(frozen=True)
class PartOutcome(Generic[_Result]):
    """What a call returned, or how it failed."""

    result: _Result | None = None
    failure: PartFailure | None = None


def attempt(function: Callable[[_Part], _Result], part: _Part) -> PartOutcome[_Result]:
    """Call a function with a part; an error becomes part of the outcome."""
    try:
        return PartOutcome(function(part))
    except (
        Exception
    ) as error:  # the supervisor of the work on a part: the caller raises it as PartFailedError
        return PartOutcome(failure=PartFailure(f"{type(error).__name__}: {error}", traceback.format_exc()))


@dataclass(frozen=True)
class Room:
    """Processes that can work at the same time.

    Attributes:
        processes: how many, the one that gives out the work among them.
        threads: how many each should have.
        address: where the others reach the one that gives out the work.
        with_cards: whether each of them has a graphics card.
    """

    processes: int
    threads: int
    address: str = "127.0.0.1"
    with_cards: bool = False


class Crew(Generic[_Result]):
    """Workers that work at the same time as the caller, numbered from 1 on."""

    def __init__(self, jobs: "Jobs", futures: "list[Future[PartOutcome[_Result]]]", label: str) -> None:
        self._jobs, self._futures, self._label = jobs, futures, label

    @property
    def at_work(self) -> "list[Future[PartOutcome[_Result]]]":
        """The calls that have not ended."""
        return [future for future in self._futures if not future.done()]

    def wait_for_one(self, seconds: float) -> None:
        """Wait until some worker has ended, at most some seconds."""
        wait(self._futures, timeout=seconds, return_when=FIRST_COMPLETED)

    def wait_for_all(self, seconds: float) -> None:
        """Wait until all workers have ended, at most some seconds."""
        wait(self._futures, timeout=seconds)

    def results(self) -> dict[int, _Result]:
        """Return what the calls that have ended returned, by the number of the worker.

        Raises:
            WorkerLostError: a worker was ended by somebody else.
            PartFailedError: the function raised an error.
        """
        ended = {number: future for number, future in enumerate(self._futures, 1) if future.done()}
        for number, future in ended.items():  # first, because the others fail for want of a lost one
            error = future.exception()
            if error is not None:
                if not isinstance(error, self._jobs.lost):
                    raise error
                raise WorkerLostError(self._label, number, type(error).__name__) from error
        results = {}
        for number, future in ended.items():
            outcome = future.result()
            if outcome.failure is not None:
                log.debug("%s: worker %d: %s", self._label, number, outcome.failure.trace)
                raise PartFailedError(self._label, number, outcome.failure.reason)
            results[number] = outcome.result
        return results  # type: ignore[return-value]  # None only where the function returns it


class Jobs(ABC):
    """A way to work on parts.

    Attributes:
        workers: how many there are.
        at_once: how many parts are given out at once.
        tries: how often a part is begun whose worker was lost.
        lost: the errors by which a future tells that its worker was lost.
    """

    workers: int = 1
    at_once: int = 1
    tries: int = 1
    lost: tuple[type[BaseException], ...] = ()

    @property
    def in_this_process(self) -> bool:
        """Whether the work is done in this process, so that files between the steps are of no use."""
        return False

    def map(
        self, function: Callable[[_Part], _Result], parts: Iterable[_Part], label: str
    ) -> Iterator[_Result]:
        """Work on parts and yield what the function returns for each, in the order of the parts.

        Parts are asked for as workers become free; at most a few for each worker are begun and not yet
        yielded, so memory does not grow with their number. Whoever stops early, or is interrupted, ends the
        parts that are being worked on: what a part leaves behind must be whole or nothing.

        Args:
            function: of a module, or a `partial` of one; it may be called twice with a part.
            parts: small values: what is large is in files.
            label: names the work in errors.

        Raises:
            NotByNameError: the function is none of a module.
            PartFailedError: the function raised an error.
            PartLostError: the worker of a part was lost each time.
        """
        _check_name(function)
        return self._yield_in_order(function, enumerate(parts), label)

    def _yield_in_order(
        self, function: Callable[[Any], _Result], numbered: Iterator[tuple[int, Any]], label: str
    ) -> Iterator[_Result]:
        run = _Run(self, function, label)
        try:
            while True:
                while not run.is_full and (more := next(numbered, None)) is not None:
                    run.begin(*more)
                if run.is_over:
                    return
                yield from run.next_results()
        finally:
            run.end()

    @contextmanager
    def beside(
        self, function: Callable[[int], _Result], room: "Room", label: str
    ) -> Iterator["Crew[_Result]"]:
        """Have workers call a function at the same time as the caller works, and end them with the block.

        Args:
            function: of a module, or a `partial` of one; called with the numbers from 1 to the last.
            room: as `room` returned it.
            label: names the work in errors.

        Raises:
            NotByNameError: the function is none of a module.
            WorkerLostError: there is less room than when it was asked for.
        """
        _check_name(function)
        begun = self.begin_together(function, room)
        crew = Crew(self, begun, label)
        try:
            if len(begun) < room.processes - 1:
                raise WorkerLostError(label, len(begun) + 1, "its machine is gone")
            yield crew
        finally:
            self.abandon(crew.at_work)

    def room(self, cards: int = 0) -> "Room":  # noqa: ARG002  for those who have workers
        """Return how many processes can work at the same time now, this one among them.

        Args:
            cards: graphics cards that this process sees; where it sees any, each process is to have one.
        """
        return Room(1, 1)

    def begin_together(
        self, function: Callable[[int], _Result], room: "Room"
    ) -> "list[Future[PartOutcome[_Result]]]":
        """Begin a call for each process of a room beside this one, at once, with its number from 1 on."""
        return [self.submit(function, number) for number in range(1, room.processes)]

    @abstractmethod
    def submit(self, function: Callable[[_Part], _Result], part: _Part) -> "Future[PartOutcome[_Result]]":
        """Begin to work on a part; called while fewer than `at_once` are worked on."""

    @abstractmethod
    def abandon(self, futures: "Collection[Future[Any]]") -> None:
        """End the work on some parts, whose results nobody wants any more."""

    @abstractmethod
    def close(self) -> None:
        """End the workers."""


class _Run(Generic[_Result]):
    """One call of `Jobs.map`: parts that are at work, and outcomes that wait for those before them."""

    def __init__(self, jobs: Jobs, function: Callable[[Any], _Result], label: str) -> None:
        self._jobs, self._function, self._label = jobs, function, label
        self._at_work: dict[
            Future[PartOutcome[_Result]], tuple[int, Any, int]
        ] = {}  # number, part, times begun
        self._done: dict[int, PartOutcome[_Result]] = {}
        self._next = 0

    @property
    def is_full(self) -> bool:
        """Whether no further part may be begun now."""
        most = self._jobs.at_once
        return len(self._at_work) >= most or len(self._at_work) + len(self._done) >= _AHEAD * most

    @property
    def is_over(self) -> bool:
        """Whether every part that was begun has been yielded."""
        return not self._at_work and not self._done

    def begin(self, number: int, part: Any, times: int = 1) -> None:
        """Give a part to a worker."""
        self._at_work[self._jobs.submit(self._function, part)] = number, part, times

    def next_results(self) -> Iterator[_Result]:
        """Wait until a part is finished, and yield the results that are next."""
        for future in wait(self._at_work, return_when=FIRST_COMPLETED).done:
            number, part, times = self._at_work.pop(future)
            error = future.exception()
            if error is None:
                self._done[number] = future.result()
            elif not isinstance(error, self._jobs.lost):
                raise error
            elif times == self._jobs.tries:
                raise PartLostError(self._label, number, type(error).__name__) from error
            else:
                log.warning("%s: the worker of part %d is lost: it is begun again", self._label, number)
                self.begin(number, part, times + 1)
        while self._next in self._done:
            outcome = self._done.pop(self._next)
            if outcome.failure is not None:
                log.debug("%s: part %d: %s", self._label, self._next, outcome.failure.trace)
                raise PartFailedError(self._label, self._next, outcome.failure.reason)
            self._next += 1
            yield outcome.result  # type: ignore[misc]  # None only where the function returns it

    def end(self) -> None:
        """Abandon what is at work."""
        if self._at_work:
            self._jobs.abandon(self._at_work)


class InProcess(Jobs):
    """Works in this process, one part after the other, with all the threads that a library takes."""

    @property
    def in_this_process(self) -> bool:
        """True."""
        return True

    def submit(self, function: Callable[[_Part], _Result], part: _Part) -> "Future[PartOutcome[_Result]]":
        """Work on a part; it is finished when this returns."""
        future: Future[PartOutcome[_Result]] = Future()
        future.set_result(attempt(function, part))
        return future

    def abandon(self, futures: "Collection[Future[Any]]") -> None:
        """Do nothing: nothing is at work."""

    def close(self) -> None:
        """Do nothing: there is no worker."""


IN_PROCESS = InProcess()


def _check_name(function: Callable[..., object]) -> None:
    """Check that workers can import a function.  Raises: NotByNameError."""
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", "<")
    if "<" in name or getattr(function, "__module__", "__main__") == "__main__":
        raise NotByNameError(function)
