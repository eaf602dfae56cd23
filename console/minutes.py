"""The last hour as charts: a line or bars over minutes, drawn as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT, _FOOT, _HEAD = 600, 120, 16, 6


@dataclass(frozen=True)
class MinuteSeries:
    """One value a minute.

    Attributes:
        name: of the series.
        colour: a class of style.py, such as t-history.
        values: the oldest first; None where there is none.
    """

    name: str
    colour: str
    values: Sequence[float | None]


def minutes_html(title: str, series: Sequence[MinuteSeries], unit: str, *, bars: bool = False) -> str:
    """Return a chart of some series over the same minutes, with the greatest value and the last ones.

    Args:
        title: of the chart.
        series: drawn above one another.
        unit: stands behind the greatest value, "" for none.
        bars: whether each minute is a bar and not a point of a line.
    """
    known = [value for one in series for value in one.values if value is not None]
    greatest = max([*known, 0.0]) or 1.0
    most = _number(max([*known, 0.0]), unit)
    drawn = "".join((_bars if bars else _lines)(one, greatest) for one in series)
    keys = "".join(f'<span class="t-key {one.colour}">{escape(one.name)}</span>' for one in series)
    said = ", ".join(f"{one.name}: {_number(_last(one.values), unit)}" for one in series)
    count = max((len(one.values) for one in series), default=0)
    label = escape(f"{title}. {said}")
    return (
        f'<figure class="t-minutes"><figcaption>{escape(title)} <b>{escape(said)}</b></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + _FOOT + _HEAD}" role="img" aria-label="{label}">'
        f'<line class="t-axis" x1="0" x2="{_WIDTH}" y1="{_HEIGHT + _HEAD}" y2="{_HEIGHT + _HEAD}"/>{drawn}'
        f'<text x="0" y="{_HEAD + 8}">{escape(most)}</text>'
        f'<text x="0" y="{_HEIGHT + _FOOT + _HEAD - 3}">−{count} min</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + _FOOT + _HEAD - 3}" text-anchor="end">0</text>'
        f'</svg><div class="t-legend">{keys if len(series) > 1 else ""}</div></figure>'
    )


def _lines(one: MinuteSeries, greatest: float) -> str:
    """Return a line with a gap where there is no value; one minute alone is a point."""
    step, parts, run = _WIDTH / max(len(one.values) - 1, 1), list[str](), list[str]()
    for place, value in enumerate([*one.values, None]):
        if value is not None:
            run.append(f"{place * step:.1f},{_HEAD + _HEIGHT * (1 - value / greatest):.1f}")
        elif run:
            if len(run) == 1:
                x, y = run[0].split(",")
                parts.append(f'<circle class="{one.colour}" cx="{x}" cy="{y}" r="3"/>')
            parts.append(f'<polyline class="{one.colour}" points="{" ".join(run)}"/>')
            run = []
    return "".join(parts)


def _bars(one: MinuteSeries, greatest: float) -> str:
    step = _WIDTH / max(len(one.values), 1)
    return "".join(
        f'<rect class="{one.colour}" x="{place * step:.1f}" width="{max(step - 1, 1):.1f}" '
        f'y="{_HEAD + _HEIGHT * (1 - value / greatest):.1f}" height="{_HEIGHT * value / greatest:.1f}"/>'
        for place, value in enumerate(one.values)
        if value
    )


def _last(values: Sequence[float | None]) -> float | None:
    """Return the last value of a minute that is over, else of the one that is not."""
    before = [value for value in values[:-1] if value is not None]
    return before[-1] if before else next((value for value in values[-1:] if value is not None), None)


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    written = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    return f"{written} {unit}".strip()
