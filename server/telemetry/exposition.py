"""What Prometheus scrapes: the numbers of all processes, added up, on an HTTP port of their own."""

import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from operator import add
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from server.addresses import CannotListenError, Listening
from server.telemetry.drift_metrics import drift_metrics
from server.telemetry.families import CELLS, FAMILIES, Family
from server.telemetry.figures import Figures, Reading, read_figures

_PREFIX = "triptych_"


@dataclass(frozen=True)
class FiguresSource:
    """The numbers of one process.

    Attributes:
        process: its name in labels, such as owner or query-0; "" for processes that have ended, of which
            only what was counted goes on counting.
        reading: its numbers.
    """

    process: str
    reading: Reading


class ProcessSum(Collector):
    """Adds up the numbers of the processes of a server, each time that it is asked."""

    def __init__(self, sources: Callable[[], Sequence[FiguresSource]]) -> None:
        """Take what reads the numbers of all processes."""
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        sources = self._sources()
        facts: dict[str, str] = {}
        for source in sources:
            facts |= source.reading.facts
        if facts:
            yield InfoMetricFamily(f"{_PREFIX}serving", "The version, and what serves.", facts)
        yield from drift_metrics([one.reading for one in sources if one.process])
        for family in FAMILIES:
            if family.hidden:
                continue
            if family.of_process:
                each = [one for one in sources if one.process]
                cells = [(one.process, one.reading.of(family.name)) for one in each]
                yield _metric(family, ("process",), [((name,), some) for name, some in cells])
            else:
                counted = [
                    one.reading.of(family.name) for one in sources if one.process or family.kind != "gauge"
                ]
                yield _metric(family, (), [((), [sum(some) for some in zip(*counted, strict=True)])])

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering does not ask for the numbers."""
        return []


def _metric(
    family: Family, more: tuple[str, ...], rows: Sequence[tuple[tuple[str, ...], Sequence[float]]]
) -> Metric:
    """Return a metric with all its series.

    Args:
        family: of the metric.
        more: names of labels ahead of those of the family.
        rows: the values of these labels, and the cells of all series.
    """
    name, labels = _PREFIX + family.name, (*more, *(label for label, _ in family.labels))
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.help, labels=labels)
        bounds = [*(f"{bound:g}" for bound in family.bounds), "+Inf"]
        for values, cells in _series(family, rows):
            histogram.add_metric(
                values, list(zip(bounds, accumulate(cells[:-1]), strict=True)), sum_value=cells[-1]
            )
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(name, family.help, labels=labels)
    for values, (cell,) in _series(family, rows):
        metric.add_metric(values, cell)
    return metric


def _series(
    family: Family, rows: Sequence[tuple[tuple[str, ...], Sequence[float]]]
) -> Iterator[tuple[tuple[str, ...], Sequence[float]]]:
    for ahead, cells in rows:
        for place, values in enumerate(family.series()):
            yield (*ahead, *values), cells[place * family.width : (place + 1) * family.width]


class ProcessFiles:
    """The numbers of processes that come and go, each in a file that it maps; threads may share it.

    What a process has counted goes on counting when it has ended, also where it was killed, so that no
    counter falls.
    """

    def __init__(self, folder: Path, own: Figures) -> None:
        """Begin without a process.

        Args:
            folder: in which each process has a file, named by its id.
            own: numbers of the process that watches the others.
        """
        self._folder = folder
        self._own = own
        self._lock = threading.Lock()
        self._running: dict[int, str] = {}  # names of processes, by id
        self._ended = array("d", [0.0] * CELLS)

    def started(self, pid: int, name: str) -> None:
        """Count a process as running under a name, which it has alone."""
        with self._lock:
            self._running[pid] = name

    def ended(self, pid: int) -> None:
        """Keep what a process has counted, and remove its file."""
        with self._lock:
            del self._running[pid]
            with suppress(FileNotFoundError):  # it ended before it counted anything
                cells = read_figures(self._folder / str(pid)).cells
                self._ended = array("d", map(add, self._ended, cells))
                (self._folder / str(pid)).unlink()

    def sources(self) -> list[FiguresSource]:
        """Read the numbers of all processes, of those that have ended, and of this one."""
        self._own.refresh()
        with self._lock:
            found = [FiguresSource("parent", self._own.read()), FiguresSource("", Reading(self._ended, {}))]
            for pid, name in self._running.items():
                with suppress(FileNotFoundError):  # it has just been started
                    found.append(FiguresSource(name, read_figures(self._folder / str(pid))))
            return found


@contextmanager
def exposed(sources: Callable[[], Sequence[FiguresSource]], host: str, port: int) -> Iterator[str]:
    """Answer scrapes while the block runs; yield the URL.

    Args:
        sources: reads the numbers of all processes.
        host: name or IP address to listen on.
        port: 0 takes a free one.

    Raises:
        BadAddressError, CannotListenError: nothing can listen there.
    """
    wanted = Listening.on(host, port)
    registry = CollectorRegistry()
    registry.register(ProcessSum(sources))
    try:
        server, thread = start_http_server(port, wanted.host, registry)
    except OSError as error:
        raise CannotListenError(wanted.bound, error.strerror or str(error)) from error
    try:
        yield f"http://{Listening(wanted.host, server.server_port).reached}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
