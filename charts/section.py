"""A chart as a section of a page: its heading, how it is read, a legend, the drawing and the table."""

from html import escape

from charts.chart import Chart, FigureTable, IntervalChart, Panel, Say
from charts.svg import interval_svg, key_svg, panel_svg

# Okabe and Ito 2008, which people who do not tell red from green can tell apart.
_LIGHT = ("#0072b2", "#c05000", "#007a59", "#a8588a", "#8a6100", "#555")
_DARK = ("#56b4e9", "#ff9a55", "#2fcf9f", "#e59ac4", "#e6c029", "#bbb")
_STYLE = """
.c-chart { min-width: 0; }
.c-note { color: var(--c-soft); margin: .2rem 0 .5rem; font-size: .9rem; overflow-wrap: anywhere; }
.c-pair { display: grid; grid-template-columns: minmax(0, 1fr); gap: .5rem 2rem; align-items: start; }
.c-panels {
  display: grid; gap: 1rem 1.5rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr));
}
.c-panel { min-width: 0; max-width: 27rem; }
.c-panel h3 { font-size: .95rem; font-weight: 600; margin: 0 0 .2rem; line-height: 1.3; }
.c-svg { display: block; width: 100%; max-width: 27rem; height: auto; font-size: 12px; font-family: inherit; }
.c-svg text { fill: var(--c-ink); } .c-svg .c-soft { fill: var(--c-soft); }
.c-ours { font-weight: 700; } .c-value { font-variant-numeric: tabular-nums; }
.c-grid { stroke: var(--c-grid); stroke-width: 1; }
.c-track { stroke: var(--c-grid); stroke-width: 1; stroke-dasharray: 1 3; }
.c-diagonal { stroke: var(--c-soft); stroke-width: 1; stroke-dasharray: 2 3; }
.c-bar { stroke: currentColor; stroke-width: 2.5; }
.c-line { fill: none; stroke: currentColor; stroke-width: 2; }
.c-dashed { stroke-dasharray: 6 4; } .c-band { fill: currentColor; opacity: .14; }
.c-full { fill: currentColor; } .c-hollow { fill: var(--c-paper); stroke: currentColor; stroke-width: 1.6; }
.c-keys { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .85rem; margin: .1rem 0 .3rem; }
.c-key { display: inline-flex; align-items: center; gap: .3rem; overflow-wrap: anywhere; }
.c-scroll { overflow-x: auto; }
.c-table {
  border-collapse: collapse; font-size: .85rem; margin: .3rem 0; font-variant-numeric: tabular-nums;
}
.c-table caption { text-align: left; font-weight: 600; padding: .3rem 0; }
.c-table th, .c-table td {
  text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--c-grid); white-space: nowrap;
}
.c-table thead th { color: var(--c-soft); }
.c-tables summary { cursor: pointer; }
@media (min-width: 960px) { .c-pair { grid-template-columns: minmax(0, 27rem) minmax(0, 1fr); } }
"""


def chart_style(dark: str) -> str:
    """Return the style sheet of charts.

    Args:
        dark: where they are dark: a rule with {} for what holds there, such as ".dark .c-chart {{ {} }}".
    """
    light = _colours(_LIGHT, "#1b1b1b", "#5c5c5c", "#dddddd", "#ffffff")
    night = _colours(_DARK, "#ececec", "#a9a9a9", "#3a3d40", "#1d1f21")
    numbers = "".join(f".c-{place} {{ color: var(--c{place}); }}" for place in range(len(_LIGHT)))
    return f".c-chart {{ {light} }}\n{dark.format(night)}\n{numbers}\n{_STYLE}"


def chart_html(chart: Chart, say: Say) -> str:
    """Return a chart as a section; whatever stands in it is escaped."""
    tables = "".join(map(_table_html, chart.tables))
    note = f'<p class="c-note">{escape(chart.note)}</p>' if chart.note else ""
    if isinstance(chart, IntervalChart):
        keys = _keys([(name, place, False) for place, name in enumerate(chart.series)], lines=False)
        drawn = f"{keys if len(chart.series) > 1 else ''}{interval_svg(chart)}"
        inside = f'<div class="c-pair"><div>{drawn}</div>{_details(tables, say, shown=True)}</div>'
    else:
        panels = "".join(map(_panel_html, chart.panels))
        inside = f'<div class="c-panels">{panels}</div>{_details(tables, say, shown=False)}'
    heading = f"<h2>{escape(chart.heading)}</h2>"
    return f'<section class="c-chart" id="{escape(chart.key)}">{heading}{note}{inside}</section>'


def _panel_html(panel: Panel) -> str:
    keys = _keys([(line.name, line.colour, line.dashed) for line in panel.lines], lines=True)
    return f'<div class="c-panel"><h3>{escape(panel.title)}</h3>{keys}{panel_svg(panel)}</div>'


def _keys(keys: list[tuple[str, int, bool]], *, lines: bool) -> str:
    parts = (
        f'<span class="c-key">{key_svg(colour, dashed=dashed, lines=lines)}{escape(name)}</span>'
        for name, colour, dashed in keys
    )
    return f'<div class="c-keys">{"".join(parts)}</div>'


def _details(tables: str, say: Say, *, shown: bool) -> str:
    """Return the tables behind a line that opens them: open where they stand beside the drawing."""
    summary = escape(say("The same as a table"))
    return (
        f'<details class="c-tables"{" open" if shown else ""}><summary>{summary}</summary>{tables}</details>'
    )


def _table_html(table: FigureTable) -> str:
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in table.rows
    )
    html = f'<table class="c-table">{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="c-scroll" tabindex="0" role="group">{html}</div>'


def _colours(series: tuple[str, ...], ink: str, soft: str, grid: str, paper: str) -> str:
    numbered = "".join(f"--c{place}: {colour}; " for place, colour in enumerate(series))
    return f"{numbered}--c-ink: {ink}; --c-soft: {soft}; --c-grid: {grid}; --c-paper: {paper};"
