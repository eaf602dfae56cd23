"""The robustness block of an evaluation report as a table and as a plot."""

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

_ELEMENTS = {"H": "H, events", "T": "T, texts", "S": "S, friends"}
_METRICS = {"recall": "recall@20", "ndcg": "NDCG@20"}
# Colour, marker, its size, line: where the two lie on each other, the second leaves the first visible.
_STYLES = {"removed": ("#0072b2", "o", 9, "-"), "noise": ("#d55e00", "s", 4, "--")}


def robustness_table(block: dict[str, Any]) -> Table:
    """Return recall and NDCG with their 95 % intervals, a row per setting."""
    table = Table("view", "mode", "share", "recall@20", "[95 %]", "ndcg@20", "[95 %]", title="robustness")
    table.add_row("all", "unchanged", "0 %", *_cells(block["unchanged"]), end_section=True)
    for view, modes in block["by_view"].items():
        for mode, shares in modes.items():
            for percent, figures in shares.items():
                last = percent == list(shares)[-1]
                cells = _cells(figures)
                table.add_row(_ELEMENTS[view], mode, f"{percent} %", *cells, end_section=last)
    return table


def plot_robustness(report: dict[str, Any], path: Path) -> None:
    """Write a PNG of a report with one: a column of panels per view, recall above NDCG, 95 % bands."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    block = report["robustness"]
    views = block["by_view"]
    figure = Figure(figsize=(2 + 3.5 * len(views), 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(_METRICS), len(views), sharex=True, sharey="row", squeeze=False)
    for row, (metric, label) in enumerate(_METRICS.items()):
        for column, (view, modes) in enumerate(views.items()):
            axes = panels[row, column]
            for mode, shares in modes.items():
                _line(axes, metric, mode, {"0": block["unchanged"]} | shares)
            axes.axhline(_value(block["unchanged"][metric]), color="0.5", linewidth=1, label="unchanged")
            axes.grid(alpha=0.3)
            if row == 0:
                axes.set_title(_ELEMENTS[view])
        panels[row, 0].set_ylabel(label)
        panels[row, 0].set_ylim(bottom=0)
    for axes in panels[-1]:
        axes.set_xlabel("share removed or noise, %")
        axes.set_xticks([0, 10, 30, 50, 100])
    panels[0, 0].legend(loc="lower left")
    figure.suptitle(
        f"{report['dataset']}, split {report['split']}, {report['users']:,} users\n"
        f"views {report['views']}; one view is changed, the others are whole; bands: 95 %",
        fontsize="medium",
    )
    figure.align_ylabels()
    figure.savefig(path, dpi=110)


def _line(axes: Any, metric: str, mode: str, shares: dict[str, Any]) -> None:
    colour, marker, size, style = _STYLES[mode]
    x = [int(percent) for percent in shares]
    y = [_value(one[metric]) for one in shares.values()]
    low, high = ([_value(one[f"{metric}_ci95"][end]) for one in shares.values()] for end in (0, 1))
    axes.plot(x, y, color=colour, marker=marker, markersize=size, linestyle=style, label=mode)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _cells(figures: dict[str, Any]) -> list[str]:
    cells = []
    for metric in _METRICS:
        low, high = map(_cell, figures[f"{metric}_ci95"])
        cells += [_cell(figures[metric]), escape(f"[{low}, {high}]")]
    return cells


def _cell(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.4f}"


def _value(figure: float | None) -> float:
    """Return a figure as matplotlib has it: not a number, which it leaves out, where there was nobody."""
    return float("nan") if figure is None else figure
