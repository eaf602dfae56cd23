"""An evaluation report as tables, on the terminal and as HTML, and its plot."""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from scripts.evaluate.heads_table import print_task_report
from scripts.evaluate.robustness_table import plot_robustness, robustness_table
from scripts.home_access import console

K = "20"


def write_tables(report: dict[str, Any], html: Path) -> None:
    """Print the tables of a report, and save the same as HTML; robustness also as a PNG beside it."""
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
    if "head" in report:
        print_task_report(report["head"], out)
    if "diversity" in report:
        out.print(_diversity(report["diversity"]))
    robustness = report.get("robustness")
    if robustness:
        out.print(robustness_table(robustness))
    out.save_html(str(html))
    print(f"report: {html.with_suffix('.json')} and .html")
    if robustness and robustness["by_view"]:  # none where the data has no view asked for
        plot = html.with_name(f"{html.stem}-robustness.png")
        plot_robustness(report, plot)
        print(f"plot: {plot}")


def _models(report: dict[str, Any]) -> Table:
    columns = ("R@10", "N@10", "R@20", "95 %", "N@20", "MRR", "cov.", "gain")
    title = "models: recall, NDCG, MRR@20, coverage@20; gain: of row 1 in R@20, paired 95 %"
    table = Table("", *columns, title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    rows = {f"Triptych, {report['views']}": report["k"]} | report["baselines"]
    if report["unseen_users"]:
        users = report["unseen_users"]["users"]
        rows |= {f"{users:,} users never trained on": report["unseen_users"]}
    left_out: list[str] = []
    for name, figures in rows.items():
        if "left_out" in figures:
            table.add_row(name, *["–"] * 8)
            left_out.append(f"{name}: {figures['left_out']}")
            table.caption = "\n".join(left_out)
            continue
        ten, twenty = figures["10"], figures[K]
        low, high = twenty["recall_ci95"]
        table.add_row(
            name,
            _cell(ten["recall"]),
            _cell(ten["ndcg"]),
            _cell(twenty["recall"]),
            "–" if low is None else f"{low:.3f}–{high:.3f}",
            _cell(twenty["ndcg"]),
            _cell(twenty["mrr"]),
            f"{twenty['coverage']:.2f}",
            _gain(figures),
        )
    return table


def _cell(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.4f}"


def _gain(figures: dict[str, Any]) -> str:
    """Return the paired interval of what the first row gains in recall over this one."""
    low, high = figures["gain"]["recall"]["ci95"] if "gain" in figures else (None, None)
    return "" if low is None else f"{low:+.3f} to {high:+.3f}"


def _diversity(figures: dict[str, Any]) -> Table:
    columns = ("", "R@20", "N@20", "cov.", "intra-list div.", "of texts")
    title = f"maximal marginal relevance, λ = {figures['lambda']:g}, at 20"
    table = Table(*columns, title=title, box=SIMPLE_HEAD)
    for name in ("plain", "diversified"):
        at = figures[name][K]
        keys = ("recall", "ndcg", "coverage", "intra_list_diversity", "intra_list_diversity_texts")
        table.add_row(name, *(_cell(at[key]) for key in keys))
    return table


def _by_view(report: dict[str, Any]) -> Table:
    table = Table("views", "R@20", "N@20", "gain", title="by view", box=SIMPLE_HEAD)
    rows = report["by_view"] | {"history withheld (T and S)": report["cold_users"]}
    for name, figures in rows.items():
        if figures is None:
            table.add_row(name, "–", "–", "")
        else:
            table.add_row(name, _cell(figures[K]["recall"]), _cell(figures[K]["ndcg"]), _gain(figures))
    return table
