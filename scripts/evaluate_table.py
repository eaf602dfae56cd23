"""An evaluation report as tables, on the terminal and as HTML."""

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from scripts.session import console

K = "20"


def write_tables(report: dict[str, Any], html: Path) -> None:
    """Print the tables of a report, and save the same as HTML."""
    out = console(record=True)
    title = f"{escape(report['dataset'])}, split {report['split']}, {report['users']:,} users"
    out.print(f"[bold]{title}[/bold]  model {report['model_id']}  index {report['index_id']}")
    absent = [view for view, there in report["views_in_data"].items() if not there]
    if absent:
        out.print(f"absent from the data: {', '.join(absent)}")
    out.print(_models(report))
    out.print(_by_view(report))
    degrees = ", ".join(f"{v} {d:.3f}" for v, d in report["matching_degree"].items() if d is not None)
    out.print(f"matching degree: {degrees}")
    out.save_html(str(html))
    print(f"report: {html.with_suffix('.json')} and .html")


def _models(report: dict[str, Any]) -> Table:
    table = Table(
        "", "recall@10", "ndcg@10", "recall@20", "[95 %]", "ndcg@20", "mrr@20", "coverage@20", title="models"
    )
    rows = {f"Triptych, {report['views']}": report["k"]} | report["baselines"]
    if report["unseen_users"]:
        users = report["unseen_users"]["users"]
        rows |= {f"Triptych, {users} users left out of training": report["unseen_users"]}
    for name, figures in rows.items():
        if "left_out" in figures:
            table.add_row(name, *["–"] * 7)
            table.caption = f"{name}: {figures['left_out']}"
            continue
        ten, twenty = figures["10"], figures[K]
        low, high = map(_cell, twenty["recall_ci95"])
        table.add_row(
            name,
            _cell(ten["recall"]),
            _cell(ten["ndcg"]),
            _cell(twenty["recall"]),
            escape(f"[{low}, {high}]"),
            _cell(twenty["ndcg"]),
            _cell(twenty["mrr"]),
            f"{twenty['coverage']:.3f}",
        )
    return table


def _cell(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.4f}"


def _by_view(report: dict[str, Any]) -> Table:
    table = Table("views", "recall@20", "ndcg@20", title="by view")
    rows = report["by_view"] | {"history withheld (T and S)": report["cold_users"]}
    for name, figures in rows.items():
        if figures is None:
            table.add_row(name, "–", "–")
        else:
            table.add_row(name, _cell(figures[K]["recall"]), _cell(figures[K]["ndcg"]))
    return table
