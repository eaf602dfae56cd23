"""An evaluation report as plots."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.evaluate.amounts import BLOCKS, columns_of

ELEMENTS = {"H": "H, events", "T": "T, texts", "S": "S, friends"}
CUT_ELEMENTS = {"H": "H, items", "T": "T, texts", "S": "S, friends"}
METRICS = {"recall": "recall@20", "ndcg": "NDCG@20"}
# Colour, marker, its size, line: where the two lie on each other, the second leaves the first visible.
_STYLES = {"removed": ("#0072b2", "o", 9, "-"), "noise": ("#d55e00", "s", 4, "--")}


# Colours of Okabe and Ito 2008, which people who do not tell red from green can tell apart.
_LINES = (("#e69f00", "^", ":"), ("#009e73", "s", "--"), ("#0072b2", "o", "-"))


def plot_amounts(report: dict[str, Any], path: Path) -> None:
    """Write a PNG of recall and NDCG by amount: a column of panels per view that the data has, 95 % bands."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    views = [view for view in BLOCKS if report[BLOCKS[view]] is not None]
    figure = Figure(figsize=(2 + 3.5 * len(views), 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(METRICS), len(views), sharex=True, sharey="row", squeeze=False)
    for row, (metric, label) in enumerate(METRICS.items()):
        for place, view in enumerate(views):
            axes, block = panels[row, place], report[BLOCKS[view]]
            for column, (colour, marker, style) in zip(columns_of(view), _LINES, strict=True):
                figures = [one[column]["20"] for one in block.values() if one[column] is not None]
                if figures:
                    _line(axes, metric, column, (range(len(block)), figures), (colour, marker, 5, style))
            axes.set_xticks(range(len(block)), list(block))
            axes.grid(alpha=0.3)
            axes.legend(loc="lower right")
            if row == 0:
                axes.set_title(CUT_ELEMENTS[view])
        panels[row, 0].set_ylabel(label)
        panels[row, 0].set_ylim(bottom=0)
    for axes in panels[-1]:
        axes.set_xlabel("elements left of the view")
    figure.suptitle(
        f"{report['dataset']}, split {report['split']}, {report['cut']['users']:,} users\n"
        "one view is cut to n elements, the others are whole; bands: 95 %",
        fontsize="medium",
    )
    figure.align_ylabels()
    figure.savefig(path, dpi=110)


def plot_robustness(report: dict[str, Any], path: Path) -> None:
    """Write a PNG of a report with one: a column of panels per view, recall above NDCG, 95 % bands."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    block = report["robustness"]
    views = block["by_view"]
    figure = Figure(figsize=(2 + 3.5 * len(views), 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(METRICS), len(views), sharex=True, sharey="row", squeeze=False)
    for row, (metric, label) in enumerate(METRICS.items()):
        for column, (view, modes) in enumerate(views.items()):
            axes = panels[row, column]
            for mode, shares in modes.items():
                figures = [block["unchanged"], *shares.values()]
                _line(axes, metric, mode, ([0, *map(int, shares)], figures), _STYLES[mode])
            axes.axhline(_value(block["unchanged"][metric]), color="0.5", linewidth=1, label="unchanged")
            axes.grid(alpha=0.3)
            if row == 0:
                axes.set_title(ELEMENTS[view])
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


def plot_reliability(heads: dict[str, Any], path: Path) -> None:
    """Write a PNG of predicted against observed shares: a panel per calibrated head, a point per tenth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = {task: one for task, one in heads.items() if "calibration" in one}
    figure = Figure(figsize=(1 + 4 * len(measured), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(measured), squeeze=False)[0]
    for axes, (task, one) in zip(panels, measured.items(), strict=True):
        mean, rate = ([tenth[name] for tenth in one["calibration"]] for name in ("mean", "rate"))
        most = 1.05 * max([*mean, *rate])
        axes.plot([0, most], [0, most], color="0.5", linewidth=1, label="calibrated")
        axes.plot(mean, rate, color="#0072b2", marker="o", label="tenths of the examples")
        axes.set(xlabel="predicted", ylabel="observed", title=f"{task}, {one['quantity']}")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")
    figure.savefig(path, dpi=110)


def _line(
    axes: Any,
    metric: str,
    label: str,
    points: tuple[Sequence[int], list[dict[str, Any]]],
    looks: tuple[str, str, int, str],
) -> None:
    """Draw one line with its 95 % band: x and the figures at each; colour, marker, its size and line."""
    x, figures = points
    colour, marker, size, style = looks
    y = [_value(one[metric]) for one in figures]
    low, high = ([_value(one[f"{metric}_ci95"][end]) for one in figures] for end in (0, 1))
    axes.plot(x, y, color=colour, marker=marker, markersize=size, linestyle=style, label=label)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _value(figure: float | None) -> float:
    """Return a figure as matplotlib has it: not a number, which it leaves out, where there was nobody."""
    return float("nan") if figure is None else figure
