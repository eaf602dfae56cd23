"""The output of a benchmark: tables on the terminal, JSON, and a plot beside it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.terminal import write_json

Row = Mapping[str, Any]
_PIPE_WIDTH = 140


def print_rows(title: str, rows: Sequence[Row]) -> None:
    """Print rows as a table; the first one names the columns."""
    names = list(rows[0]) if rows else []
    table = Table(*names, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(_shown(row[name]) for name in names))
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def print_ratios(ratios: Mapping[str, float]) -> None:
    """Print what ours is over the bare thing."""
    print_rows("ratios", [{"name": name, "value": value} for name, value in ratios.items()])


def plot(path: Path, rows: Sequence[Row], x: str, line: Sequence[str], panels: Mapping[str, str]) -> None:
    """Write a PNG with one panel per figure.

    Args:
        path: the PNG.
        rows: the results.
        x: the column along the horizontal axis.
        line: the columns whose values together name a line.
        panels: column to draw → what its vertical axis is called.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(panels), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(" ".join(str(row[column]) for column in line) for row in rows))
    for place, (column, label) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for name in names:
            mine = [row for row in rows if " ".join(str(row[part]) for part in line) == name]
            axes.plot([row[x] for row in mine], [row[column] for row in mine], marker="o", label=name)
        axes.set(xlabel=x, ylabel=label, xscale="log", yscale="log")
        axes.set_xticks(sorted({row[x] for row in rows}), [str(v) for v in sorted({row[x] for row in rows})])
        axes.grid(alpha=0.3)
    figure.axes[-1].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def _shown(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,.3f}" if isinstance(value, float) else str(value)


def print_and_save(
    title: str, report: dict[str, Any], json_path: Path | None, x: str, line: tuple[str, ...]
) -> None:
    """Print a report, and write it with its plot where a file is named."""
    results, ratios = report["results"], report["ratios"]
    print_rows(title, results)
    print_ratios(ratios)
    if json_path is not None:
        write_json(json_path, report)
        panels = {"throughput": "per second", "p50_ms": "p50, ms"}
        plot(json_path.with_suffix(".png"), results, x, line, panels)
