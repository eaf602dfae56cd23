"""What a report of `triptych evaluate` shows, or two of them side by side; the curves are in `curves`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from charts.chart import (
    Chart,
    FigureTable,
    Interval,
    IntervalChart,
    Row,
    Say,
    counts_text,
    figure_of,
    interval_text,
    number_text,
    signed_text,
    views_text,
)
from charts.curves import amount_charts, calibration_chart, robustness_chart

_K = "20"
_Json = Mapping[str, Any]
# The row of one report: its figures at 20, None where they were not measured; and the whole block of the row.
_Rows = dict[str, tuple[_Json | None, _Json]]


def report_charts(reports: Sequence[_Json], say: Say, names: Sequence[str] = ("",)) -> Iterator[Chart]:
    """Yield the charts that any of the reports has figures for.

    Args:
        reports: one or two, as `triptych evaluate --json` writes it.
        say: the reader's language.
        names: of the reports, short.
    """
    yield _beside_others(reports, say, names)
    yield _by_view(reports, say, names)
    yield from amount_charts(reports, say, names)
    yield from _new_items(reports, say, names)
    yield from robustness_chart(reports, say, names)
    yield from calibration_chart(reports, say, names)


def _beside_others(reports: Sequence[_Json], say: Say, names: Sequence[str]) -> Chart:
    def rows(report: _Json) -> _Rows:
        found: _Rows = {ours: (report["k"][_K], report["k"])}
        for name, one in report["baselines"].items():
            found[say("popularity") if name == "popularity" else name] = one.get(_K), one
        if report.get("unseen_users"):
            found[say("people whom training never saw")] = report["unseen_users"][_K], report["unseen_users"]
        return found

    ours = "Triptych"
    left_out = {
        f"{name}: {one['left_out']}"
        for report in reports
        for name, one in report["baselines"].items()
        if "left_out" in one
    }
    note = say("Recall@20 over all items, with the 95 % interval over people.")
    if left_out:
        note += " " + say("Left out: {what}.", what="; ".join(sorted(left_out)))
    return _intervals("others", say("Recall beside others"), note, reports, names, rows, {ours}, say)


def _by_view(reports: Sequence[_Json], say: Say, names: Sequence[str]) -> Chart:
    def rows(report: _Json) -> _Rows:
        found: _Rows = {
            views_text(views, say): (figures[_K], figures)
            for views, figures in report["by_view"].items()
            if figures is not None
        }
        if report.get("cold_users"):
            found[say("history withheld")] = report["cold_users"][_K], report["cold_users"]
        return found

    note = say("Recall@20 where people are ranked by some of their views alone.")
    return _intervals("views", say("By view"), note, reports, names, rows, {views_text("HTS", say)}, say)


def _new_items(reports: Sequence[_Json], say: Say, names: Sequence[str]) -> Iterator[Chart]:
    measured = [report for report in reports if report.get("new_items")]
    if not measured:
        return
    words = {"text": say("text"), "attributes": say("attributes"), "vector": say("vector")}

    def rows(report: _Json) -> _Rows:
        if not report.get("new_items"):
            return {}
        found: _Rows = {
            " + ".join(words.get(part, part) for part in name.split("+")): (one[_K], one)
            for name, one in report["new_items"]["by_content"].items()
        }
        chance = report["new_items"]["chance"]
        return found | {say("chance"): (chance[_K], chance)}

    note = say(
        "Recall@20 of items that training never saw, by what is known of them; people with such a "
        "target: {count}.",
        count=counts_text(report["new_items"]["users"] for report in measured),
    )
    yield _intervals("new-items", say("New items"), note, reports, names, rows, set(), say)


def _intervals(
    key: str,
    heading: str,
    note: str,
    reports: Sequence[_Json],
    names: Sequence[str],
    rows_of: Callable[[_Json], _Rows],
    ours: set[str],
    say: Say,
) -> IntervalChart:
    """Return a chart with the rows of all reports, and its table."""
    found = [rows_of(report) for report in reports]
    nothing: tuple[_Json | None, _Json] = (None, {})
    rows = {name: [rows.get(name, nothing) for rows in found] for rows in found for name in rows}
    drawn = tuple(
        Row(name, tuple(figure_of(figures) for figures, _ in each), name in ours)
        for name, each in rows.items()
    )
    table = _table_of_one(rows, ours, say) if len(reports) == 1 else _table_side_by_side(drawn, names, say)
    return IntervalChart(key, heading, note, tuple(names), drawn, (table,))


def _table_of_one(
    rows: Mapping[str, Sequence[tuple[_Json | None, _Json]]], ours: set[str], say: Say
) -> FigureTable:
    gains = any("gain" in whole for ((_, whole),) in rows.values())
    columns = ("", "recall@20", "95 %", "NDCG@20")
    cells = [
        (
            name,
            number_text((figures or {}).get("recall")),
            interval_text(figure_of(figures)),
            number_text((figures or {}).get("ndcg")),
            *([_gain_text(whole) if name not in ours else ""] if gains else []),
        )
        for name, ((figures, whole),) in rows.items()
    ]
    return FigureTable((*columns, *([say("gain over it, paired 95 %")] if gains else [])), tuple(cells))


def _gain_text(whole: _Json) -> str:
    """Return by how much the first row is better, as the report has it."""
    if "gain" not in whole:
        return ""
    low, high = whole["gain"]["recall"]["ci95"]
    return "" if low is None or high is None else f"{signed_text(low)} … {signed_text(high)}"


def _table_side_by_side(rows: Sequence[Row], names: Sequence[str], say: Say) -> FigureTable:
    columns = [""]
    for name in names:
        columns += [f"{name} recall@20", f"{name} 95 %"]
    cells = []
    for row in rows:
        line = [row.name]
        for mark in row.marks:
            line += [number_text(mark.value if mark else None), interval_text(mark)]
        cells.append((*line, *_difference(row.marks)))
    if len(names) == 2:
        columns.append(say("{b} less {a}", b=names[1], a=names[0]))
    return FigureTable(tuple(columns), tuple(cells))


def _difference(marks: Sequence[Interval | None]) -> tuple[str, ...]:
    """Return the second of two figures less the first; nothing where there are not two series."""
    if len(marks) != 2:
        return ()
    first, second = marks
    return ("–",) if first is None or second is None else (signed_text(second.value - first.value),)
