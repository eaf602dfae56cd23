"""Evaluation reports as charts: SVG that follows light and dark and stays legible on a narrow screen.

`report_charts` reads what one report or several side by side show, `chart_html` draws a chart with its table
below it. `triptych evaluate` puts them into its page and `triptych console` into its own, in two languages;
nothing but the standard library is needed, and none of ours.
"""

from charts.chart import (
    Chart,
    FigureTable,
    Interval,
    IntervalChart,
    Line,
    LineChart,
    Panel,
    Point,
    Row,
    Say,
    in_english,
    interval_text,
    views_text,
)
from charts.report import report_charts
from charts.section import chart_html, chart_style

__all__ = [
    "Chart",
    "FigureTable",
    "Interval",
    "IntervalChart",
    "Line",
    "LineChart",
    "Panel",
    "Point",
    "Row",
    "Say",
    "chart_html",
    "chart_style",
    "in_english",
    "interval_text",
    "report_charts",
    "views_text",
]
