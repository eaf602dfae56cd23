"""What reports show as charts: one alone, two side by side, and every block that may be missing."""

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charts import Interval, IntervalChart, LineChart, chart_html, chart_style, in_english, report_charts
from charts.svg import axis_ticks, interval_svg, panel_svg
from tests.charts.reports import FIGURES, NOBODY, report_with, whole_report


def keys(*reports: Mapping[str, Any]) -> list[str]:
    return [chart.key for chart in report_charts(reports, in_english, ("A", "B")[: len(reports)])]


def chart_of(key: str, *reports: Mapping[str, Any]) -> Any:
    charts = report_charts(reports, in_english, ("A", "B")[: len(reports)])
    return next(chart for chart in charts if chart.key == key)


def test_there_is_a_chart_for_each_block_that_is_there() -> None:
    always = ["others", "views", "by-history"]
    assert keys(report_with()) == always
    every = [*always, "by-texts", "by-friends", "new-items", "robustness", "calibration"]
    assert keys(whole_report()) == every
    assert keys(report_with(), whole_report()) == every


def test_rows_have_the_figures_of_the_report_and_ours_stands_out() -> None:
    chart = chart_of("others", report_with())
    assert [row.name for row in chart.rows] == ["Triptych", "EASE", "iALS"]
    assert [row.ours for row in chart.rows] == [True, False, False]
    assert chart.rows[0].marks == (Interval(0.5, 0.4, 0.6),)
    assert chart.rows[2].marks == (None,)
    assert "iALS: not installed" in chart.note
    table = chart.tables[0]
    assert table.columns == ("", "recall@20", "95 %", "NDCG@20", "gain over it, paired 95 %")
    assert table.rows[1] == ("EASE", "0.500", "0.400–0.600", "0.300", "−0.010 … +0.030")
    assert table.rows[2] == ("iALS", "–", "–", "–", "")


def test_two_reports_share_rows_and_tell_the_difference() -> None:
    better = FIGURES | {"recall": 0.75, "recall_ci95": [0.7, 0.8]}
    chart = chart_of("others", report_with(), report_with(k={"20": better}, baselines={}))
    assert chart.series == ("A", "B")
    assert chart.rows[0].marks == (Interval(0.5, 0.4, 0.6), Interval(0.75, 0.7, 0.8))
    assert chart.rows[1].marks == (Interval(0.5, 0.4, 0.6), None)
    table = chart.tables[0]
    assert table.columns[-1] == "B less A"
    assert (table.rows[0][-1], table.rows[1][-1]) == ("+0.250", "–")


def test_curves_are_by_amount_with_all_last_and_the_second_report_is_dashed() -> None:
    block = {amount: report_with()["by_history"]["0"] for amount in ("all", "10", "0", "2")}
    recall, ndcg = chart_of("by-history", report_with(by_history=block), report_with()).panels
    assert [name for _, name in recall.ticks] == ["0", "2", "10", "all"]
    assert [(line.name, line.dashed) for line in recall.lines] == [
        ("history, A", False),
        ("text + friends, A", False),
        ("history + text + friends, A", False),
        ("history, B", True),
        ("text + friends, B", True),
        ("history + text + friends, B", True),
    ]
    assert [point.x for point in recall.lines[3].points] == [0.0, 3.0]
    assert (recall.lines[0].points[0].y, ndcg.lines[0].points[0].y) == (
        Interval(0.5, 0.4, 0.6),
        Interval(0.3, 0.2, 0.4),
    )


def test_robustness_begins_with_what_is_unchanged() -> None:
    panel = chart_of("robustness", whole_report()).panels[0]
    assert [name for _, name in panel.ticks] == ["0", "50", "100"]
    assert [line.name for line in panel.lines] == ["removed", "noise"]
    assert [point.y.value for point in panel.lines[0].points] == [0.5, 0.4, 0.1]


def test_calibration_has_a_diagonal_and_a_row_for_each_tenth() -> None:
    chart = chart_of("calibration", whole_report())
    assert chart.panels[0].diagonal
    assert [row[:2] for row in chart.tables[0].rows] == [("0.1000", "0.2000"), ("0.3000", "0.2500")]


def test_figures_of_nobody_leave_gaps() -> None:
    nobody = report_with(k={"20": NOBODY}, by_view={"HTS": {"20": NOBODY}}, baselines={})
    for chart in report_charts([nobody], in_english):
        assert "<svg" in chart_html(chart, in_english)
    assert chart_of("others", nobody).rows[0].marks == (None,)


def test_drawings_are_well_formed_and_within_their_frame() -> None:
    for chart in report_charts([whole_report(), report_with()], in_english, ("<A>", 'B"')):
        page = ElementTree.fromstring(f"<div>{chart_html(chart, in_english)}</div>".replace(" open>", ">"))  # noqa: S314
        for drawing in page.iter("svg"):
            width, height = map(float, drawing.attrib["viewBox"].split()[2:])
            for part in drawing.iter():
                for name, most in (("x", width), ("x1", width), ("x2", width), ("cx", width), ("y2", height)):
                    assert 0 <= float(part.attrib.get(name, 0)) <= most
                for x, y in (map(float, pair.split(",")) for pair in part.attrib.get("points", "").split()):
                    assert 0 <= x <= width
                    assert 0 <= y <= height


def test_every_drawing_has_a_name_and_a_table() -> None:
    for chart in report_charts([whole_report()], in_english):
        page = chart_html(chart, in_english)
        assert page.count('role="img" aria-label="') == (
            1 if isinstance(chart, IntervalChart) else len(chart.panels)
        )
        assert page.count("<table") == len(chart.tables) >= 1
        assert isinstance(chart, IntervalChart | LineChart)


def test_what_a_report_says_is_escaped() -> None:
    page = "".join(
        chart_html(chart, in_english)
        for chart in report_charts([report_with(baselines={"<script>": {"20": FIGURES}})], in_english)
    )
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 2


def test_a_long_name_is_cut_in_the_drawing_and_whole_in_the_table() -> None:
    chart = chart_of("others", report_with(baselines={"x" * 90: {"20": FIGURES}}))
    assert "x" * 60 not in interval_svg(chart)
    assert "x" * 90 in chart_html(chart, in_english)


def test_every_sentence_goes_through_say() -> None:
    def shouted(english: str, **values: object) -> str:
        return in_english(english, **values).upper()

    for chart in report_charts([whole_report()], shouted):
        assert chart.heading.isupper()
        assert chart.note.isupper() or "%" in chart.note
        for panel in getattr(chart, "panels", ()):
            assert panel.x_label == panel.x_label.upper()
            assert "<svg" in panel_svg(panel)


@given(st.floats(1e-6, 1e6))
def test_ticks_are_round_and_reach_the_greatest(most: float) -> None:
    ticks = axis_ticks(most)
    assert ticks[0] == 0
    assert ticks[-1] >= most * (1 - 1e-6)
    assert ticks[-2] < most
    assert 3 <= len(ticks) <= 6
    digits = re.sub(r"e.*", "", f"{ticks[1]:.6e}").rstrip("0").rstrip(".")
    assert digits in {"1", "2", "2.5", "5"}


def test_without_a_figure_above_0_the_axis_ends_at_1() -> None:
    assert axis_ticks(0.0) == [0.0, 1.0]


@pytest.mark.parametrize("dark", [".dark .c-chart {{ {} }}", "@media (x) {{ .c-chart {{ {} }} }}"])
def test_the_style_has_the_colours_of_light_and_dark(dark: str) -> None:
    style = chart_style(dark)
    assert style.count("--c-ink: ") == 2
    assert style.count("{") == style.count("}")
