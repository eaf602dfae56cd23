"""What a chart shows, before it is drawn; and how it speaks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias


class Say(Protocol):
    """Says an English sentence in the reader's language, with its {places} filled in."""

    def __call__(self, english: str, **values: object) -> str:
        """Return the sentence."""


def in_english(english: str, **values: object) -> str:
    """Return an English sentence with its {places} filled in."""
    return english.format(**values) if values else english


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval, which some figures lack."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One row of an interval chart.

    Attributes:
        name: what was measured.
        marks: a figure for each series, None where it was not measured.
        ours: whether the row stands out.
    """

    name: str
    marks: tuple[Interval | None, ...]
    ours: bool = False


@dataclass(frozen=True)
class Point:
    """One point of a line, and its place on the x axis."""

    x: float
    y: Interval


@dataclass(frozen=True)
class Line:
    """One line with its band.

    Attributes:
        name: in the legend.
        colour: number of its colour and marker.
        dashed: whether it is of the second report.
        points: from left to right.
    """

    name: str
    colour: int
    dashed: bool
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """Lines over one x axis.

    Attributes:
        title: above it.
        x_label: below it.
        ticks: places on the x axis and what stands there.
        lines: that are drawn.
        diagonal: whether the line y = x is drawn, too.
    """

    title: str
    x_label: str
    ticks: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]
    diagonal: bool = False


@dataclass(frozen=True)
class FigureTable:
    """The figures of a chart as text; the first column names the rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class IntervalChart:
    """Figures below each other, each with its interval.

    Attributes:
        key: of its place in the page.
        heading: above it.
        note: how it is to be read.
        series: names of the reports or models side by side.
        rows: from top to bottom.
        tables: the same figures, and more.
    """

    key: str
    heading: str
    note: str
    series: tuple[str, ...]
    rows: tuple[Row, ...]
    tables: tuple[FigureTable, ...]


@dataclass(frozen=True)
class LineChart:
    """Panels beside each other; attributes as of IntervalChart."""

    key: str
    heading: str
    note: str
    series: tuple[str, ...]
    panels: tuple[Panel, ...]
    tables: tuple[FigureTable, ...]


Chart: TypeAlias = IntervalChart | LineChart


def number_text(value: float | None, digits: int = 3) -> str:
    """Return a figure as text, a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def counts_text(counts: Iterable[int]) -> str:
    """Return numbers of people as text, each once."""
    return ", ".join(dict.fromkeys(f"{count:,}" for count in counts))


def interval_text(mark: Interval | None) -> str:
    """Return the interval of a figure as text, a dash where there is none."""
    if mark is None or mark.low is None or mark.high is None:
        return "–"
    return f"{mark.low:.3f}–{mark.high:.3f}"


def signed_text(value: float) -> str:
    """Return a difference as text, with its sign."""
    return f"{value:+.3f}".replace("-", "−")


def figure_of(figures: Mapping[str, Any] | None, metric: str = "recall") -> Interval | None:
    """Return a figure of a report with its interval; None where nobody was measured."""
    if figures is None or figures.get(metric) is None:
        return None
    low, high = figures.get(f"{metric}_ci95") or (None, None)
    return Interval(figures[metric], low, high)


def views_text(views: str, say: Say) -> str:
    """Return the views of a name such as HT in words."""
    words = {"H": say("history"), "T": say("text"), "S": say("friends")}
    return " + ".join(words.get(view, view) for view in views)
