"""Progress of long stages: a bar on a terminal, elsewhere a line in the log every half minute."""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from threading import Event, Thread
from types import TracebackType
from typing import NoReturn, Self, TypeVar

from tqdm import tqdm

LINE_SECONDS = 30.0
_MINUTE, _HOUR = 60, 3_600

log = logging.getLogger(__name__)

_Part = TypeVar("_Part")
_running: list["LongStage"] = []  # the outermost stage first
_silent = False


def be_silent() -> None:
    """Show no stage in this process from now on: it works on a part of what another one shows."""
    global _silent  # noqa: PLW0603  of the process, as its terminal is
    _silent = True


class LongStage:
    """A long stage of work: shows how much is done, and how long the rest takes, while it is entered.

    On a terminal that is a bar. Elsewhere a thread logs a line every LINE_SECONDS, also while one part takes
    longer than that. A stage within another one logs nothing: the outer one speaks for both.

    Args:
        label: names the stage.
        total: how many parts there are.
        unit: of a part, in the singular.
        done: parts that were done before.
        leave: whether the bar stays on the terminal when the stage is over.
        clock: gives seconds.
        wait: waits for some seconds and returns whether the stage is over; by default it wakes up at the end.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        done: int = 0,
        *,
        leave: bool = True,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._before = self._done = done
        self._note = ""
        self._leave = leave
        self._clock = clock
        self._over = Event()
        self._wait = self._over.wait if wait is None else wait
        self._began = clock()
        self._bar: tqdm[NoReturn] | None = None
        self._lines: Thread | None = None

    def __enter__(self) -> Self:
        """Draw the bar, or start to log lines."""
        if _silent:  # nor is a bar made, whose lock would be left behind where the process is ended
            _running.append(self)
            return self
        bar: tqdm[NoReturn] = tqdm(
            total=self._total,
            initial=self._before,
            desc=self._label,
            unit=self._unit,
            leave=self._leave,
            disable=None,  # where there is no terminal
        )
        self._began = self._clock()
        _running.append(self)
        if not bar.disable:
            self._bar = bar
        elif _running[0] is self:
            self._lines = Thread(target=self._log_lines, name=f"progress of {self._label}", daemon=True)
            self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar, or stop logging: no line comes after this."""
        self._over.set()
        _running.remove(self)
        if self._bar is not None:
            self._bar.close()
        if self._lines is not None:
            self._lines.join()

    def advance(self, parts: int = 1, note: str | None = None) -> None:
        """Count some more parts as done; a note, such as a figure reached, stays until the next one."""
        self._done += parts
        if note is not None:
            self._note = note
        if self._bar is not None:
            if note is not None:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(parts)

    def line(self) -> str:
        """Return how far the stage is as a sentence."""
        seconds, done = self._clock() - self._began, self._done
        text = f"{self._label}: {done:,} of {self._total:,} {self._unit}s in {duration(seconds)}"
        if done > self._before:
            text += f", about {duration(seconds / (done - self._before) * (self._total - done))} left"
        return f"{text}, {self._note}" if self._note else text

    def _log_lines(self) -> None:
        while not self._wait(LINE_SECONDS):
            log.info("%s", self.line())


def watched(parts: Collection[_Part], label: str, unit: str, *, leave: bool = True) -> Iterator[_Part]:
    """Yield the parts of a stage and show its progress: one is done when the next is asked for."""
    with LongStage(label, len(parts), unit, leave=leave) as stage:
        for part in parts:
            yield part
            stage.advance()


def duration(seconds: float) -> str:
    """Return a length of time in the two units that tell it best, such as 1 min 20 s."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
