"""An evaluation report as tables, on the terminal and as HTML."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

K = "20"


def write_tables(report: dict[str, Any], html: Path) -> None:
    """Print the tables of a report, and save the same as HTML."""
    console = Console(record=True)
    title = f"{report['dataset']}, split {report['split']}, {report['users']:,} users"
    console.print(f"[bold]{title}[/bold]  model {report['model_id']}  index {report['index_id']}")
    absent = [view for view, there in report["views_in_data"].items() if not there]
    if absent:
        console.print(f"absent from the data: {', '.join(absent)}")
    console.print(_models(report))
    console.print(_by_view(report))
    degrees = ", ".join(f"{v} {d:.3f}" for v, d in report["matching_degree"].items() if d is not None)
    console.print(f"matching degree: {degrees}")
    console.save_html(str(html))
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
        low, high = twenty["recall_ci95"]
        table.add_row(
            name,
            f"{ten['recall']:.4f}",
            f"{ten['ndcg']:.4f}",
            f"{twenty['recall']:.4f}",
            f"[{low:.4f}, {high:.4f}]",
            f"{twenty['ndcg']:.4f}",
            f"{twenty['mrr']:.4f}",
            f"{twenty['coverage']:.3f}",
        )
    return table


def _by_view(report: dict[str, Any]) -> Table:
    table = Table("views", "recall@20", "ndcg@20", title="by view")
    rows = report["by_view"] | {"history withheld (T and S)": report["cold_users"]}
    for name, figures in rows.items():
        if figures is None:
            table.add_row(name, "–", "–")
        else:
            table.add_row(name, f"{figures[K]['recall']:.4f}", f"{figures[K]['ndcg']:.4f}")
    return table
