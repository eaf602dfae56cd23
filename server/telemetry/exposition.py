"""What Prometheus scrapes: the numbers of all processes, added up, on an HTTP port of their own."""

import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain
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
    """Numbers of one process.

    Attributes:
        process: its name in labels, such as owner or query-0; "" for processes that have ended, of which
            only what was counted goes on counting.
        tenant: whose home they are about, "" for the only one; None for those of the process itself.
        reading: the numbers.
    """

    process: str
    tenant: str | None
    reading: Reading


_Rows = list[tuple[tuple[str, ...], Sequence[float]]]


class ProcessSum(Collector):
    """Adds up the numbers of the processes of a server, each time that it is asked.

    Where homes have tenants, what is about a home has a label `tenant`.
    """

    def __init__(self, sources: Callable[[], Sequence[FiguresSource]]) -> None:
        """Take what reads the numbers of all processes."""
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        sources = self._sources()
        homes: dict[str, list[FiguresSource]] = {}
        for one in sources:
            if one.tenant is not None:
                homes.setdefault(one.tenant, []).append(one)
        tenant = ("tenant",) if any(homes) else ()
        serving = InfoMetricFamily(f"{_PREFIX}serving", "The version, and what serves.", labels=tenant)
        for name, some in homes.items():
            for one in some:
                if one.reading.facts:
                    serving.add_metric((name,) * len(tenant), one.reading.facts)
        yield serving
        yield from drift_metrics(
            tenant,
            [
                ((name,) * len(tenant), [one.reading for one in some if one.process])
                for name, some in homes.items()
            ],
        )
        of_processes = [one for one in sources if one.tenant is None]
        for family in FAMILIES:
            if family.hidden:
                continue
            if family.scope in ("process", "server"):
                yield _metric(family, (), _rows(family, (), of_processes))
            else:
                rows = [_rows(family, (name,) * len(tenant), some) for name, some in homes.items()]
                yield _metric(family, tenant, list(chain.from_iterable(rows)))

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering does not ask for the numbers."""
        return []


def _rows(family: Family, ahead: tuple[str, ...], sources: Sequence[FiguresSource]) -> _Rows:
    """Return the cells of a family of one home, or of the processes, with the values of labels ahead."""
    if family.each_process:
        return [((*ahead, one.process), one.reading.of(family.name)) for one in sources if one.process]
    # Processes that have ended have no present state.
    some = [one.reading.of(family.name) for one in sources if one.process or family.kind != "gauge"]
    return [(ahead, [sum(cells) for cells in zip(*some, strict=True)])] if some else []


def _metric(family: Family, more: tuple[str, ...], rows: _Rows) -> Metric:
    """Return a metric with all its series.

    Args:
        family: of the metric.
        more: names of labels ahead of those of the family, and of `process`.
        rows: the values of all of these, and the cells of all series.
    """
    each = ("process",) if family.each_process else ()
    name, labels = _PREFIX + family.name, (*more, *each, *(label for label, _ in family.labels))
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


def _series(family: Family, rows: _Rows) -> Iterator[tuple[tuple[str, ...], Sequence[float]]]:
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
            folder: in which each process has files, named by its id, a hyphen and a number.
            own: numbers of the process that watches the others.
        """
        self._folder = folder
        self._own = own
        self._lock = threading.Lock()
        self._running: dict[int, str] = {}  # names of processes, by id
        self._ended: dict[str | None, array[float]] = {}  # cells, by tenant

    def started(self, pid: int, name: str) -> None:
        """Count a process as running under a name, which it has alone."""
        with self._lock:
            self._running[pid] = name

    def ended(self, pid: int) -> None:
        """Keep what a process has counted, and remove its files."""
        with self._lock:
            del self._running[pid]
            for file in self._files_of(pid):
                reading = read_figures(file)
                before = self._ended.get(reading.tenant, array("d", bytes(8 * CELLS)))
                self._ended[reading.tenant] = array("d", map(add, before, reading.cells))
                file.unlink()

    def sources(self) -> list[FiguresSource]:
        """Read the numbers of all processes, of those that have ended, and of this one."""
        self._own.refresh()
        with self._lock:
            found = [FiguresSource("parent", None, self._own.read())]
            for tenant, cells in self._ended.items():
                found.append(FiguresSource("", tenant, Reading(cells, tenant, {})))
            for pid, name in self._running.items():
                for file in self._files_of(pid):
                    reading = read_figures(file)
                    found.append(FiguresSource(name, reading.tenant, reading))
            return found

    def _files_of(self, pid: int) -> list[Path]:
        return sorted(self._folder.glob(f"{pid}-[0-9]*[0-9]")) + sorted(self._folder.glob(f"{pid}-[0-9]"))


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
