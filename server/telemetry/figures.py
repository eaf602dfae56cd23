"""The numbers of one process, in a row of cells that other processes may map."""

import json
import mmap
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from server.telemetry.families import BY_NAME, CELLS, OFFSETS

_CELL_BYTES = 8
_FACTS_BYTES = 1024  # ahead of the cells: a JSON object, and zeros
_TENANT = "tenant"  # among the facts
Cells: TypeAlias = "memoryview[float]"


class UnknownSeriesError(LookupError):
    """No metric has such a name, or none of its series such labels."""

    def __init__(self, name: str, labels: tuple[str, ...]) -> None:
        super().__init__(f"there is no series {name}{list(labels)}")
        self.name = name
        self.labels = labels


class Figures:
    """The cells of all metrics of one process or, of one process, of one home; threads may share it.

    A cell is a float64, which is read and written whole, so that another process may read it at any time.
    Who adds to cells holds `lock`; who alone sets a cell need not.

    Attributes:
        tenant: whose home the numbers are about, "" for the only one; None for a process.
        lock: held by who adds to cells.
    """

    def __init__(self, path: Path | None = None, tenant: str | None = None) -> None:
        """Begin with zeros.

        Args:
            path: of a new file that others may map; None for memory of this process.
            tenant: whose home the numbers are about, "" for the only one; None for a process.
        """
        self.tenant = tenant
        size = _FACTS_BYTES + CELLS * _CELL_BYTES
        if path is None:
            self._map = mmap.mmap(-1, size)
        else:
            draft = path.with_name(f"{path.name}.new")  # nobody reads a file that is half as long
            with draft.open("xb+") as file:
                file.truncate(size)
                self._map = mmap.mmap(file.fileno(), size)
        self._cells: Cells = memoryview(self._map)[_FACTS_BYTES:].cast("d")
        self.lock = threading.Lock()
        self._refreshing = threading.Lock()
        self.tell()
        if path is not None:
            draft.rename(path)
        self._samples: list[Callable[[], None]] = []

    def cells(self, name: str, *labels: str) -> Cells:
        """Return the cells of a metric; with labels, of those series that begin with these.

        Raises:
            UnknownSeriesError: there is none.
        """
        if name not in BY_NAME:
            raise UnknownSeriesError(name, labels)
        family = BY_NAME[name]
        places = [place for place, one in enumerate(family.series()) if one[: len(labels)] == labels]
        if not places:
            raise UnknownSeriesError(name, labels)
        start = OFFSETS[name]
        return self._cells[start + places[0] * family.width : start + (places[-1] + 1) * family.width]

    def counter(self, name: str, *labels: str) -> Callable[[float], None]:
        """Return a function that adds to one series of a counter.  Raises: UnknownSeriesError."""
        cells, lock = self.cells(name, *labels), self.lock

        def add(number: float) -> None:
            with lock:
                cells[0] += number

        return add

    def histogram(self, name: str, *labels: str) -> Callable[[float], None]:
        """Return a function that counts a value in one series of a histogram.  Raises: UnknownSeriesError."""
        cells, bounds, lock = self.cells(name, *labels), BY_NAME[name].bounds, self.lock

        def observe(value: float) -> None:
            with lock:
                cells[bisect_left(bounds, value)] += 1.0
                cells[-1] += value

        return observe

    def tell(self, **facts: str) -> None:
        """Keep some facts beside the numbers, in the place of those that were there."""
        about = facts if self.tenant is None else facts | {_TENANT: self.tenant}
        raw = json.dumps(about).encode()
        if len(raw) > _FACTS_BYTES:
            raise ValueError(f"facts of {len(raw)} bytes, more than {_FACTS_BYTES}")
        self._map[:_FACTS_BYTES] = raw.ljust(_FACTS_BYTES, b"\0")

    def sample(self, look: Callable[[], None]) -> None:
        """Have a function called whenever the numbers are wanted, which sets what changes without a call."""
        self._samples.append(look)

    def sample_no_more(self) -> None:
        """Forget the functions of `sample`, because what they look at ends; none runs when this returns."""
        with self._refreshing:
            self._samples.clear()

    def refresh(self) -> None:
        """Call the functions of `sample`."""
        with self._refreshing:
            for look in self._samples:
                look()

    def read(self) -> "Reading":
        """Return a copy of all cells and facts."""
        return _reading(self._map)


class Reading:
    """The numbers and facts at one moment.

    Attributes:
        cells: of all metrics.
        tenant: as Figures has it.
        facts: what was told beside the numbers.
    """

    def __init__(self, cells: Sequence[float], tenant: str | None, facts: dict[str, str]) -> None:
        self.cells = cells
        self.tenant = tenant
        self.facts = facts

    def of(self, name: str) -> Sequence[float]:
        """Return the cells of one metric."""
        start = OFFSETS[name]
        return self.cells[start : start + BY_NAME[name].size]


def read_figures(path: Path) -> Reading:
    """Read the numbers of a process from its file."""
    return _reading(path.read_bytes())


def quantile(cells: Sequence[float], bounds: Sequence[float], wanted: float) -> float | None:
    """Estimate a quantile of what a histogram counted; None where it counted nothing.

    Within a bucket it is interpolated, and beyond the last bound it is that bound, as Prometheus does.

    Args:
        cells: numbers by bucket, that of +Inf among them; a sum of the values that follows is not read.
        bounds: upper ones of the buckets but for +Inf.
        wanted: 0 to 1.
    """
    counts = cells[: len(bounds) + 1]
    reached, rank = 0.0, wanted * sum(counts)
    if not rank:
        return None
    for place, count in enumerate(counts[:-1]):
        if reached + count >= rank:
            low = bounds[place - 1] if place else 0.0
            return low + (bounds[place] - low) * (rank - reached) / count
        reached += count
    return bounds[-1]


def _reading(raw: "bytes | mmap.mmap") -> Reading:
    facts: dict[str, str] = json.loads(bytes(raw[:_FACTS_BYTES]).rstrip(b"\0"))
    return Reading(array("d", bytes(raw[_FACTS_BYTES:])), facts.pop(_TENANT, None), facts)
