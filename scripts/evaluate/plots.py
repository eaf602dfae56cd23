"""An evaluation report as charts: PNG files, and SVG that stands in a page."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.evaluate.amounts import BLOCKS, columns_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ELEMENTS = {"H": "H, events", "T": "T, texts", "S": "S, friends"}
CUT_ELEMENTS = {"H": "H, items", "T": "T, texts", "S": "S, friends"}
METRICS = {"recall": "recall@20", "ndcg": "NDCG@20"}
# Colour, marker, its size, line: where the two lie on each other, the second leaves the first visible.
_STYLES = {"removed": ("#0072b2", "o", 9, "-"), "noise": ("#d55e00", "s", 4, "--")}


# Colours of Okabe and Ito 2008, which people who do not tell red from green can tell apart.
_LINES = (("#e69f00", "^", ":"), ("#009e73", "s", "--"), ("#0072b2", "o", "-"))


def save_png(figure: "Figure", path: Path) -> None:
    """Write a chart as a PNG."""
    figure.savefig(path, dpi=110)


def svg_of(figure: "Figure") -> str:
    """Return a chart as an SVG element, its texts as text."""
    import matplotlib as mpl

    written = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    text = written.getvalue()
    return text[text.index("<svg") :]


def models_figure(report: dict[str, Any]) -> "Figure":
    """Draw recall@20 with its 95 % interval: ours above, and what was measured beside it."""
    ours = f"Triptych, {report['views']}"
    rows = {ours: report["k"]} | report["baselines"]
    if report["unseen_users"]:
        rows["users never trained on"] = report["unseen_users"]
    return _bars(
        {name: figures["20"] for name, figures in rows.items() if "20" in figures},
        "recall@20, all items ranked; bars: 95 %",
        ours,
    )


def by_view_figure(report: dict[str, Any]) -> "Figure":
    """Draw recall@20 of each combination of views that the data has, with its 95 % interval."""
    views = {views: figures["20"] for views, figures in report["by_view"].items() if figures is not None}
    if report["cold_users"] is not None:
        views["T and S, history withheld"] = report["cold_users"]["20"]
    return _bars(views, "recall@20 by the views used (H events, T texts, S friends); bars: 95 %", "HTS")


def new_items_figure(figures: dict[str, Any]) -> "Figure":
    """Draw recall@20 of items that training never saw, by what is known of them."""
    rows = {name: by_k["20"] for name, by_k in figures["by_content"].items()}
    return _bars(
        rows | {"chance": figures["chance"]["20"]}, "recall@20 of new items by what is known; bars: 95 %"
    )


def _bars(rows: dict[str, dict[str, Any]], title: str, ours: str = "") -> "Figure":
    """Draw a bar for each row, its recall beside it and its interval over it; that of `ours` stands out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.42 * len(rows)), layout="constrained")
    axes: Axes = figure.subplots()
    places = range(len(rows))
    recalls = [_value(one["recall"]) for one in rows.values()]
    axes.barh(places, recalls, color=["#0072b2" if name == ours else "#9fb8c8" for name in rows], height=0.62)
    for place, one in enumerate(rows.values()):
        low, high = one.get("recall_ci95") or (None, None)
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color="#1b1b1b", linewidth=1.6)
        end = _value(high if high is not None else one["recall"])
        axes.annotate(
            "–" if one["recall"] is None else f"{one['recall']:.3f}",
            (end, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(places, list(rows))
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize="medium", loc="left")
    return figure


def amounts_figure(report: dict[str, Any]) -> "Figure":
    """Draw recall and NDCG by amount: a column of panels per view that the data has, 95 % bands."""
    from matplotlib.figure import Figure

    views = [view for view in BLOCKS if report[BLOCKS[view]] is not None]
    figure = Figure(figsize=(2 + 3.5 * len(views), 7), layout="constrained")
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
    return figure


def robustness_figure(report: dict[str, Any]) -> "Figure":
    """Draw a report with one: a column of panels per view, recall above NDCG, 95 % bands."""
    from matplotlib.figure import Figure

    block = report["robustness"]
    views = block["by_view"]
    figure = Figure(figsize=(2 + 3.5 * len(views), 7), layout="constrained")
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
    return figure


def reliability_figure(heads: dict[str, Any]) -> "Figure":
    """Draw predicted against observed shares: a panel per calibrated head, a point per tenth."""
    from matplotlib.figure import Figure

    measured = {task: one for task, one in heads.items() if "calibration" in one}
    figure = Figure(figsize=(1 + 4 * len(measured), 4.5), layout="constrained")
    panels = figure.subplots(1, len(measured), squeeze=False)[0]
    for axes, (task, one) in zip(panels, measured.items(), strict=True):
        mean, rate = ([tenth[name] for tenth in one["calibration"]] for name in ("mean", "rate"))
        most = 1.05 * max([*mean, *rate])
        axes.plot([0, most], [0, most], color="0.5", linewidth=1, label="calibrated")
        axes.plot(mean, rate, color="#0072b2", marker="o", label="tenths of the examples")
        axes.set(xlabel="predicted", ylabel="observed", title=f"{task}, {one['quantity']}")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")
    return figure


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
