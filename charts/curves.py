"""The curves of reports: by how much there is of a view, by how much of it is wrong, and calibration."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from charts.chart import (
    FigureTable,
    Interval,
    Line,
    LineChart,
    Panel,
    Point,
    Say,
    counts_text,
    figure_of,
    interval_text,
    number_text,
    views_text,
)

_K = "20"
_ALL = "all"
_BLOCKS = {"H": "by_history", "T": "by_texts", "S": "by_friends"}
_METRICS = {"recall": "recall@20", "ndcg": "NDCG@20"}
_MODES = ("removed", "noise")
_Json = Mapping[str, Any]


def amount_charts(reports: Sequence[_Json], say: Say, names: Sequence[str]) -> Iterator[LineChart]:
    """Yield a chart for each view that was cut: history, texts, friends."""
    headings = {
        "H": say("By history length"),
        "T": say("By number of texts"),
        "S": say("By number of friends"),
    }
    elements = {"H": say("items left of the history"), "T": say("texts left"), "S": say("friends left")}
    for view, block in _BLOCKS.items():
        measured = [report for report in reports if report.get(block)]
        if not measured:
            continue
        note = say(
            "One view is cut to so many elements, drawn at random, as in a person's first days; the others "
            "are whole. Bands: 95 %, over {count} people.",
            count=counts_text(report["cut"]["users"] for report in measured),
        )
        panels = _amount_panels(reports, names, view, elements[view], say)
        yield LineChart(block.replace("_", "-"), headings[view], note, tuple(names), panels, _tables(panels))


def _amount_panels(
    reports: Sequence[_Json], names: Sequence[str], view: str, x_label: str, say: Say
) -> tuple[Panel, ...]:
    blocks = [report.get(_BLOCKS[view]) or {} for report in reports]
    amounts = sorted(dict.fromkeys(amount for block in blocks for amount in block), key=_order)
    ticks = tuple((float(x), say("all") if one == _ALL else one) for x, one in enumerate(amounts))
    columns = (view, "HTS".replace(view, ""), "HTS")

    def lines(metric: str) -> Iterator[Line]:
        for place, block in enumerate(blocks):
            for colour, column in enumerate(columns):
                marks = [
                    (float(x), figure_of(_at(block, amount, column, _K), metric))
                    for x, amount in enumerate(amounts)
                ]
                yield from _line(views_text(column, say), names, place, colour, marks)

    return tuple(Panel(label, x_label, ticks, tuple(lines(metric))) for metric, label in _METRICS.items())


def robustness_chart(reports: Sequence[_Json], say: Say, names: Sequence[str]) -> Iterator[LineChart]:
    """Yield a chart of parts of each view removed or replaced by noise, where a report has that."""
    blocks = [report.get("robustness") or {} for report in reports]
    views = dict.fromkeys(view for block in blocks for view in block.get("by_view", {}))
    if not views:
        return
    panels = tuple(
        _robustness_panel(blocks, names, view, metric, say) for view in views for metric in _METRICS
    )
    note = say(
        "A share of one view is removed, or replaced by what is not theirs; the others are whole. "
        "Bands: 95 %."
    )
    yield LineChart("robustness", say("Robustness"), note, tuple(names), panels, _tables(panels))


def _robustness_panel(
    blocks: Sequence[_Json], names: Sequence[str], view: str, metric: str, say: Say
) -> Panel:
    words = {"removed": say("removed"), "noise": say("noise")}
    shares: set[int] = {0}
    lines: list[Line] = []
    for place, block in enumerate(blocks):
        for colour, mode in enumerate(_MODES):
            by_share = _at(block, "by_view", view, mode) or {}
            shares |= set(map(int, by_share))
            marks = [(0.0, figure_of(block.get("unchanged"), metric))]
            marks += [(float(share), figure_of(figures, metric)) for share, figures in by_share.items()]
            if by_share:
                lines += _line(words[mode], names, place, colour, marks)
    ticks = tuple((float(share), str(share)) for share in sorted(shares))
    title = f"{views_text(view, say)}, {_METRICS[metric]}"
    return Panel(title, say("share of it that is changed, %"), ticks, tuple(lines))


def calibration_chart(reports: Sequence[_Json], say: Say, names: Sequence[str]) -> Iterator[LineChart]:
    """Yield a chart of predicted beside observed shares, where a report has a head that predicts them."""
    heads = [report.get("heads") or {} for report in reports]
    tasks = dict.fromkeys(task for each in heads for task, head in each.items() if "calibration" in head)
    if not tasks:
        return
    panels = tuple(_calibration_panel(heads, names, task, say) for task in tasks)
    note = say("Tenths of the examples by prediction; on the dotted line what is predicted is what happens.")
    yield LineChart("calibration", say("Calibration"), note, tuple(names), panels, _tables(panels, digits=4))


def _calibration_panel(heads: Sequence[_Json], names: Sequence[str], task: str, say: Say) -> Panel:
    lines: list[Line] = []
    for place, each in enumerate(heads):
        tenths = _at(each, task, "calibration") or ()
        marks = [(one["mean"], Interval(one["rate"])) for one in tenths]
        lines += _line(say("tenths"), names, place, 0, marks)
    most = max((point.x for line in lines for point in line.points), default=1.0)
    ticks = tuple((most * part / 4, f"{most * part / 4:.2g}") for part in range(5))
    words = {"click": say("clicks"), "category": say("categories")}
    return Panel(words.get(task, task), say("predicted"), ticks, tuple(lines), diagonal=True)


def _line(
    name: str, names: Sequence[str], place: int, colour: int, marks: Sequence[tuple[float, Interval | None]]
) -> list[Line]:
    """Return the line of a report through its figures, with the name of the report where there are two."""
    points = tuple(Point(x, mark) for x, mark in sorted(marks, key=lambda pair: pair[0]) if mark is not None)
    whose = f"{name}, {names[place]}" if len(names) > 1 else name
    return [Line(whose, colour, place > 0, points)] if points else []


def _tables(panels: Sequence[Panel], digits: int = 3) -> tuple[FigureTable, ...]:
    return tuple(_table(panel, digits) for panel in panels)


def _table(panel: Panel, digits: int) -> FigureTable:
    """Return the figures of a panel: a row for each place on the x axis, a column for each line."""
    names = {} if panel.diagonal else dict(panel.ticks)  # those of numbers are round
    places = sorted({point.x for line in panel.lines for point in line.points})
    by_place = [{point.x: point.y for point in line.points} for line in panel.lines]
    rows = tuple(
        (names.get(x, number_text(x, digits)), *(_cell(line.get(x), digits) for line in by_place))
        for x in places
    )
    return FigureTable((panel.x_label, *(line.name for line in panel.lines)), rows, panel.title)


def _cell(mark: Interval | None, digits: int) -> str:
    if mark is None:
        return "–"
    value = number_text(mark.value, digits)
    return value if mark.low is None else f"{value} ({interval_text(mark)})"


def _order(amount: str) -> tuple[bool, int]:
    return (False, int(amount)) if amount.isdigit() else (True, 0)


def _at(block: Any, *names: str) -> Any:
    """Return what is inside nested blocks, None where one of them is not there."""
    for name in names:
        block = None if block is None else block.get(name)
    return block
