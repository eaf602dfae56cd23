"""Charts as SVG elements 360 units wide: at that width in pixels, the narrowest screen, 12 units are read.

Colours are those of classes (`charts.section.chart_style`), so a page decides what they are in the dark.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

from charts.chart import Interval, IntervalChart, Line, Panel, Row, number_text

WIDTH = 360.0
COLOURS = 6  # that can be told apart; more lines begin again
_LEFT, _RIGHT = 10.0, 298.0  # of the axis of an interval chart; values stand right of it
_NAME, _MARK, _GAP = 15.0, 14.0, 7.0  # heights within a row of an interval chart
_LONGEST = 52  # characters of a name
_PANEL_HEIGHT = 236.0
_BOX = (44.0, 12.0, 348.0, 190.0)  # left, top, right and bottom of the axes of a panel
_At = Callable[[float, float], tuple[float, float]]


def interval_svg(chart: IntervalChart) -> str:
    """Draw an interval chart: a row for each name, in it a dot and a bar for each series."""
    ends = [end for row in chart.rows for mark in row.marks if mark for end in _ends(mark)]
    ticks = axis_ticks(max([*ends, 0.0]))
    most = ticks[-1] or 1.0
    parts, y = list[str](), 4.0
    body = list[str]()
    for row in chart.rows:
        body.append(_row_svg(row, y, most))
        y += _NAME + _MARK * max(1, sum(mark is not None for mark in row.marks)) + _GAP
    for tick in ticks:
        x = _LEFT + (_RIGHT - _LEFT) * tick / most
        parts.append(f'<line class="c-grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{y:.1f}"/>')
        parts.append(_text(x, y + 15, f"{tick:g}", "c-soft", "middle" if tick else "start"))
    return _svg(chart.heading, y + 22, "".join([*parts, *body]))


def panel_svg(panel: Panel) -> str:
    """Draw one panel of a line chart: its axes, the bands of the intervals, and the lines over them."""
    left, top, right, bottom = _BOX
    shown = [point for line in panel.lines for point in line.points]
    ticks = axis_ticks(max([end for point in shown for end in _ends(point.y)] + [0.0]))
    places = [place for place, _ in panel.ticks]
    low, most = min(places, default=0.0), ticks[-1] or 1.0
    span = max(places, default=1.0) - low or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * (x - low) / span, bottom - (bottom - top) * min(
            max(y, 0.0), most
        ) / most

    parts = list[str]()
    for tick in ticks:
        y = at(low, tick)[1]
        parts.append(f'<line class="c-grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(left - 5, y + 4, f"{tick:g}", "c-soft", "end"))
    for place, name in panel.ticks:
        last = panel.diagonal and place == places[-1]  # its label is long, and the frame ends there
        parts.append(_text(at(place, 0)[0], bottom + 16, name, "c-soft", "end" if last else "middle"))
    parts.append(_text((left + right) / 2, bottom + 36, panel.x_label, "c-soft", "middle"))
    if panel.diagonal:
        (x1, y1), (x2, y2) = at(low, low), at(low + span, min(low + span, most))
        parts.append(f'<line class="c-diagonal" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    for line in panel.lines:
        parts.append(_band(line, at))
    for line in panel.lines:
        places_of = [at(point.x, point.y.value) for point in line.points]
        parts.append(_line_svg(line, places_of))
    return _svg(panel.title, _PANEL_HEIGHT, "".join(parts))


def key_svg(colour: int, *, dashed: bool, lines: bool) -> str:
    """Draw what stands in a legend: a marker, on a piece of its line where `lines` says so."""
    line = f'<line class="{_line_class(dashed)}" x1="1" x2="27" y1="7" y2="7"/>' if lines else ""
    shape = _marker(14, 7, colour, hollow=dashed)
    return (
        f'<svg class="{_colour(colour)}" viewBox="0 0 28 14" width="28" height="14" aria-hidden="true">'
        f"{line}{shape}</svg>"
    )


def axis_ticks(most: float, wanted: int = 4) -> list[float]:
    """Return round numbers from 0 to at least `most`, about `wanted` steps; 0 and 1 where that is 0."""
    if not most > 0:
        return [0.0, 1.0]
    rough = most / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(one * power for one in (1, 2, 2.5, 5, 10) if one * power >= rough)
    return [round(step * place, 12) for place in range(math.ceil(most / step - 1e-9) + 1)]


def _row_svg(row: Row, y: float, most: float) -> str:
    name = row.name if len(row.name) <= _LONGEST else row.name[: _LONGEST - 1] + "…"
    parts = [_text(_LEFT, y + 12, name, "c-ours" if row.ours else "c-name", "start")]
    there = [(place, mark) for place, mark in enumerate(row.marks) if mark is not None]
    if not there:
        parts.append(_text(WIDTH - 6, y + _NAME + _MARK / 2 + 4, "–", "c-soft", "end"))
    for line, (place, mark) in enumerate(there):
        middle = y + _NAME + _MARK * (line + 0.5)
        track = f'x1="{_LEFT}" x2="{_RIGHT}" y1="{middle:.1f}" y2="{middle:.1f}"'
        low, high = (_x(end, most) for end in _both_ends(mark))
        bar = f'x1="{low:.1f}" x2="{high:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"'
        marker = _marker(_x(mark.value, most), middle, place, hollow=False)
        parts.append(f'<line class="c-track" {track}/>')
        parts.append(f'<g class="{_colour(place)}"><line class="c-bar" {bar}/>{marker}</g>')
        parts.append(_text(WIDTH - 6, middle + 4, number_text(mark.value), "c-value", "end"))
    return "".join(parts)


def _x(value: float, most: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * min(max(value, 0.0), most) / most


def _both_ends(mark: Interval) -> tuple[float, float]:
    return mark.value if mark.low is None else mark.low, mark.value if mark.high is None else mark.high


def _ends(mark: Interval) -> Iterator[float]:
    yield from (mark.value, *_both_ends(mark))


def _band(line: Line, at: _At) -> str:
    """Draw the band of a line's intervals, where it has them."""
    banded = [point for point in line.points if point.y.low is not None and point.y.high is not None]
    if len(banded) < 2:
        return ""
    upper = [at(point.x, _both_ends(point.y)[1]) for point in banded]
    lower = [at(point.x, _both_ends(point.y)[0]) for point in reversed(banded)]
    return f'<polygon class="c-band {_colour(line.colour)}" points="{_points([*upper, *lower])}"/>'


def _line_svg(line: Line, places: Sequence[tuple[float, float]]) -> str:
    markers = "".join(_marker(x, y, line.colour, hollow=line.dashed) for x, y in places)
    path = f'<polyline class="{_line_class(line.dashed)}" points="{_points(places)}"/>'
    return f'<g class="{_colour(line.colour)}">{path}{markers}</g>'


def _line_class(dashed: bool) -> str:
    return "c-line c-dashed" if dashed else "c-line"


def _marker(x: float, y: float, colour: int, *, hollow: bool) -> str:
    """Draw a marker, whose shape tells colours apart that somebody cannot see."""
    look = "c-hollow" if hollow else "c-full"
    shape = colour % 3
    if shape == 0:
        return f'<circle class="{look}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    if shape == 1:
        corners = [(x, y - 5), (x + 5, y), (x, y + 5), (x - 5, y)]
    else:
        corners = [(x, y - 5), (x + 4.6, y + 3.6), (x - 4.6, y + 3.6)]
    return f'<polygon class="{look}" points="{_points(corners)}"/>'


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _colour(number: int) -> str:
    return f"c-{number % COLOURS}"


def _text(x: float, y: float, text: str, look: str, anchor: str) -> str:
    return f'<text class="{look}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, height: float, inside: str) -> str:
    return (
        f'<svg class="c-svg" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{inside}</svg>"
    )
