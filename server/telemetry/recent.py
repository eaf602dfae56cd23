"""The last hour of a server's numbers, of all its processes, in memory: what it tells over its own API."""

import os
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from server.telemetry.alerts import HeldAlert, HomeFigures, MemoryOf, alerts_that_hold, rules_of
from server.telemetry.families import BY_NAME, CELLS, FAMILIES, OFFSETS
from server.telemetry.figures import Reading, read_figures

MINUTES = 60  # that are told; one more is kept, which ends while they begin
LOOK_SECONDS = 5.0
_MEMORY_SECONDS, _MEMORY_KEPT = 300.0, 6 * 3_600.0
_RESIDENT = "process_resident_memory_bytes"
_COUNTING = [
    cell
    for family in FAMILIES
    if family.kind != "gauge"
    for cell in range(OFFSETS[family.name], OFFSETS[family.name] + family.size)
]


@dataclass(frozen=True)
class ProcessReading:
    """The numbers of one process at one moment.

    Attributes:
        pid: of the process.
        role: server, owner, query or parent.
        tenant: whose home they are about, "" for the only one; None for those of the process itself.
        reading: the numbers.
    """

    pid: int
    role: str
    tenant: str | None
    reading: Reading


@dataclass
class _Minute:
    """What was counted in one minute, by cell; cells that did not change are left out.

    Attributes:
        begin: seconds since 1970.
        increase: by tenant and cell.
    """

    begin: float
    increase: dict[str | None, dict[int, float]] = field(default_factory=dict)


class RecentFigures:
    """Looks at the numbers every few seconds, and keeps what was counted in each of the last minutes.

    What a process counts between the last look and its end is lost. Memory is bounded: a minute holds at most
    a number for each cell, and there are 61 of them.

    Attributes:
        since: when it began, in seconds since 1970; what was counted before is not told.
    """

    def __init__(
        self, read: Callable[[], Sequence[ProcessReading]], clock: Callable[[], float] = time.time
    ) -> None:
        """Take what reads the numbers of all processes, and the clock."""
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._before: dict[tuple[int, str | None], Sequence[float]] = {}
        self._minutes: deque[_Minute] = deque(maxlen=MINUTES + 1)
        self._memory: dict[int, deque[tuple[float, float]]] = {}
        self._now: Sequence[ProcessReading] = ()
        self._held: dict[tuple[str | None, str, tuple[tuple[str, str], ...]], float] = {}
        self._alerts: list[tuple[str | None, HeldAlert]] = []
        self.since = 0.0

    def look(self) -> None:
        """Count what was added since the last look, and note which alerts hold."""
        readings = self._read()
        with self._lock:
            now = self._clock()
            first, before = not self._minutes, self._before
            if first:
                self.since = now
            if not self._minutes or now >= self._minutes[-1].begin + 60.0:
                self._minutes.append(_Minute(now - now % 60.0))
            for one in readings:
                cells = before.get((one.pid, one.tenant))
                if cells is None and first:
                    cells = one.reading.cells  # what it counted before is nobody's minute
                self._count(one, cells)
            self._before = {(one.pid, one.tenant): one.reading.cells for one in readings}
            self._remember_memory(readings, now)
            self._now = readings
            self._note_alerts(now)

    def minutes(self, tenant: str, wanted: int) -> "list[HomeMinute]":
        """Return what was counted about a home in each of the last minutes, the oldest first."""
        with self._lock:
            found = {one.begin: one.increase.get(tenant, {}) for one in self._minutes}
            end = self._clock() // 60.0 * 60.0
            begins = [end - 60.0 * back for back in range(wanted - 1, -1, -1)]
            return [HomeMinute(begin, found.get(begin, {})) for begin in begins if begin > self.since - 60.0]

    def present(self, tenant: str | None) -> list[ProcessReading]:
        """Return the numbers of each process about a home, or about itself, at the last look."""
        with self._lock:
            return [one for one in self._now if one.tenant == tenant]

    def alerts(self, tenant: str) -> list[HeldAlert]:
        """Return the alerts that hold about a home; about the server, too, where it has one home alone."""
        with self._lock:
            return [alert for of, alert in self._alerts if of == tenant or (of is None and not tenant)]

    @staticmethod
    def conditions(tenant: str) -> int:
        """Return how many conditions are looked at for a home."""
        return len(rules_of(tenant)) + (0 if tenant else len(rules_of(None)))

    def _count(self, one: ProcessReading, before: Sequence[float] | None) -> None:
        cells, increase = one.reading.cells, self._minutes[-1].increase.setdefault(one.tenant, {})
        if before is cells:
            return
        for cell in _COUNTING:
            more = cells[cell] - (0.0 if before is None else before[cell])
            if more < 0.0:  # another process has the id by now
                more = cells[cell]
            if more:
                increase[cell] = increase.get(cell, 0.0) + more

    def _remember_memory(self, readings: Iterable[ProcessReading], now: float) -> None:
        """Keep how much memory each process had, every five minutes for six hours."""
        kept: dict[int, deque[tuple[float, float]]] = {}
        for one in readings:
            if one.tenant is not None:
                continue
            history = self._memory.get(one.pid, deque())
            while history and history[0][0] < now - _MEMORY_KEPT:
                history.popleft()
            if not history or now - history[-1][0] >= _MEMORY_SECONDS:
                history.append((now, one.reading.of(_RESIDENT)[0]))
            kept[one.pid] = history
        self._memory = kept

    def _note_alerts(self, now: float) -> None:
        tenants = {one.tenant for one in self._now}
        held: dict[tuple[str | None, str, tuple[tuple[str, str], ...]], float] = {}
        self._alerts = []
        for tenant in tenants:
            for alert in alerts_that_hold(self._view(tenant, now), rules_of(tenant)):
                key = tenant, alert.rule.name, tuple(sorted(alert.labels.items()))
                since = held[key] = self._held.get(key, now)
                if now - since >= alert.rule.held_seconds:
                    self._alerts.append((tenant, replace(alert, since=since)))
        self._held = held

    def _view(self, tenant: str | None, now: float) -> HomeFigures:
        here = [one for one in self._now if one.tenant == tenant]

        def increase(name: str, minutes: int) -> list[float]:
            start, size = OFFSETS[name], BY_NAME[name].size
            found = [0.0] * size
            for minute in self._minutes:
                if minute.begin > now - 60.0 * minutes:
                    for cell, more in minute.increase.get(tenant, {}).items():
                        if start <= cell < start + size:
                            found[cell - start] += more
            return found

        memory = [
            MemoryOf(
                one.role, one.reading.of("process_resident_memory_bytes")[0], self._memory[one.pid][0][1]
            )
            for one in here
            if tenant is None
        ]
        return HomeFigures(now, increase, [(one.role, one.reading) for one in here], memory)


@dataclass(frozen=True)
class HomeMinute:
    """What was counted about a home in one minute.

    Attributes:
        begin: seconds since 1970.
        increase: by cell; cells that did not change are left out.
    """

    begin: float
    increase: dict[int, float]


def summed(minutes: Iterable[HomeMinute]) -> "array[float]":
    """Return what was counted in all of some minutes, cell by cell."""
    total = array("d", bytes(8 * CELLS))
    for minute in minutes:
        for cell, more in minute.increase.items():
            total[cell] += more
    return total


def series_of(total: Sequence[float], name: str) -> Iterator[tuple[tuple[str, ...], Sequence[float]]]:
    """Yield the labels and the cells of each series of a metric."""
    family, start = BY_NAME[name], OFFSETS[name]
    for place, labels in enumerate(family.series()):
        yield labels, total[start + place * family.width : start + (place + 1) * family.width]


def readings_of(folder: Path, parent: int) -> list[ProcessReading]:
    """Read the numbers of all processes from the folder in which each has its files."""
    found = []
    for file in sorted(folder.glob("[0-9]*-[0-9]*")):
        pid = file.name.partition("-")[0]
        if not pid.isdigit() or not file.name[len(pid) + 1 :].isdigit():
            continue
        try:
            reading = read_figures(file)
        except FileNotFoundError:  # the process has just ended
            continue
        role = {os.getpid(): "owner", parent: "parent"}.get(int(pid), "query")
        found.append(ProcessReading(int(pid), role, reading.tenant, reading))
    return found
