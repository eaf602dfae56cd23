"""What a process notes of itself while it serves: figures, traces, both or nothing."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from server.config import ServerConfig
from server.telemetry.exposition import FiguresSource
from server.telemetry.figures import Figures
from server.telemetry.process import watch_process
from server.telemetry.recent import LOOK_SECONDS, ProcessReading, RecentFigures, readings_of

if TYPE_CHECKING:
    from server.telemetry.traces import CallTracer


_EVERY_SECONDS = 1.0
log = logging.getLogger(__name__)


class TracesNotInstalledError(ValueError):
    """Traces are wanted, and OpenTelemetry is not installed."""

    def __init__(self, missing: str) -> None:
        super().__init__(
            f"traces need OpenTelemetry ({missing} is missing): pip install 'triptych[traces]', or leave out "
            "the address of a collector"
        )
        self.missing = missing


@dataclass(frozen=True)
class Telemetry:
    """What is noted of the calls about one home.

    Attributes:
        figures: counts; None for none.
        tracer: of calls; None for none.
        counts_passed_on: whether calls are counted that a query process has passed on; it counts them itself.
        recent: the last hour of all processes; None where this process does not tell of it.
    """

    figures: Figures | None = None
    tracer: "CallTracer | None" = None
    counts_passed_on: bool = True
    recent: RecentFigures | None = None

    @property
    def wanted(self) -> bool:
        """Whether anything is noted."""
        return self.figures is not None or self.tracer is not None


class ProcessTelemetry:
    """What a process notes of itself and of each home that it answers about.

    Attributes:
        own: numbers of the process; None for none.
        recent: the last hour of all processes; None where this process does not tell of it.
    """

    def __init__(self, name: str, make: Callable[[str | None], Figures] | None) -> None:
        """Begin without a home.

        Args:
            name: of the process.
            make: makes the numbers of a home, by its tenant, and of the process; None for none.
        """
        self._name = name
        self._make = make
        self._homes: list[Figures] = []
        self._tracer: CallTracer | None = None
        self._counts_passed_on = True
        self.own = None if make is None else make(None)
        if self.own is not None:
            watch_process(self.own)
        self.recent: RecentFigures | None = None

    def with_tracer(self, tracer: "CallTracer | None", *, counts_passed_on: bool) -> None:
        """Trace calls from now on; say whether calls are counted that a query process has passed on."""
        self._tracer, self._counts_passed_on = tracer, counts_passed_on

    def of_home(self, tenant: str) -> Telemetry:
        """Return what is noted of the calls about another home, of a tenant or, "", the only one."""
        figures = None if self._make is None else self._make(tenant)
        if figures is not None:
            self._homes.append(figures)
        return Telemetry(figures, self._tracer, self._counts_passed_on, self.recent)

    def refresh(self) -> None:
        """Bring all numbers up to now."""
        for figures in self._each():
            figures.refresh()

    def sources(self) -> list[FiguresSource]:
        """Read all numbers."""
        self.refresh()
        return [FiguresSource(self._name, one.tenant, one.read()) for one in self._each()]

    def readings(self) -> list[ProcessReading]:
        """Read all numbers of this process, which is the only one of its server."""
        return [ProcessReading(os.getpid(), self._name, one.tenant, one.read()) for one in self._each()]

    def _each(self) -> list[Figures]:
        return [*([] if self.own is None else [self.own]), *self._homes]


@contextmanager
def noting(
    config: ServerConfig,
    folder: Path | None = None,
    *,
    counts_passed_on: bool = True,
    tells_recent: bool = True,
    parent: int = 0,
) -> Iterator[ProcessTelemetry]:
    """Yield what a process notes while the block runs.

    Args:
        config: of the server: whether there are metrics, where traces go, and of how many calls.
        folder: where numbers lie that another process reads; None where this one is asked for them.
        counts_passed_on: as `Telemetry` says.
        tells_recent: whether it keeps the last hour of all processes.
        parent: id of the process that watches the others, which has a file in the folder, too.

    Raises:
        TracesNotInstalledError: there is no OpenTelemetry.
    """
    numbers = count()

    def make(tenant: str | None) -> Figures:
        path = None if folder is None else folder / f"{os.getpid()}-{next(numbers)}"
        return Figures(path, tenant)

    telemetry = ProcessTelemetry("server", make if config.counts else None)
    if config.counts and tells_recent:
        read = telemetry.readings if folder is None else partial(readings_of, folder, parent)
        telemetry.recent = RecentFigures(read)
    with _tracing(config) as tracer, _every_second(telemetry):
        telemetry.with_tracer(tracer, counts_passed_on=counts_passed_on)
        yield telemetry


@contextmanager
def _tracing(config: ServerConfig) -> "Iterator[CallTracer | None]":
    if not config.traces_endpoint:
        yield None
        return
    try:
        from server.telemetry.traces import CallTracer  # noqa: PLC0415  # needs an extra
    except ImportError as error:
        raise TracesNotInstalledError(error.name or "it") from error
    tracer = CallTracer(config.traces_endpoint, config.traces_ratio)
    try:
        yield tracer
    finally:
        tracer.shutdown()


@contextmanager
def _every_second(telemetry: ProcessTelemetry) -> Iterator[None]:
    """Bring the numbers up to now every second while the block runs."""
    if telemetry.own is None:
        yield
        return
    over = threading.Event()
    if telemetry.recent is not None:
        telemetry.recent.look()  # what is counted from now on is told

    def work() -> None:
        failing, next_look = False, 0.0
        while not over.wait(_EVERY_SECONDS):
            try:
                telemetry.refresh()
                if telemetry.recent is not None and time.monotonic() >= next_look:
                    telemetry.recent.look()
                    next_look = time.monotonic() + LOOK_SECONDS
                failing = False
            except Exception:  # a supervisor: without it the numbers would stand still
                if not failing and not over.is_set():
                    log.exception("some figures could not be read")
                failing = True

    thread = threading.Thread(target=work, name="figures", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
