"""An evaluation report as tables on the terminal and in HTML."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scripts.evaluate.amounts import ALL, BLOCKS, WHOLE, columns_of
from scripts.evaluate.page import TABLES_FORMAT
from scripts.terminal import console

K = "20"
ELEMENTS = {"H": "H, events", "T": "T, texts", "S": "S, friends"}
CUT_ELEMENTS = {"H": "H, items", "T": "T, texts", "S": "S, friends"}
METRICS = ("recall", "ndcg")


def print_tables(report: dict[str, Any]) -> str:
    """Print the tables of a report; return them as HTML."""
    out = console(record=True)
    title = f"{escape(report['dataset'])}, split {report['split']}, {report['users']:,} users"
    out.print(f"[bold]{title}[/bold]  model {report['model_id']}  index {report['index_id']}")
    absent = [view for view, there in report["views_in_data"].items() if not there]
    if absent:
        out.print(f"absent from the data: {', '.join(absent)}")
    out.print(_models(report))
    out.print(_by_view(report))
    for view in BLOCKS:
        if report[BLOCKS[view]] is not None:
            out.print(amounts_table(report, view))
    if report["new_items"]:
        out.print(new_items_table(report["new_items"]))
    degrees = ", ".join(f"{v} {d:.3f}" for v, d in report["matching_degree"].items() if d is not None)
    out.print(f"matching degree: {degrees}")
    heads = report.get("heads", {})
    for one in heads.values():
        print_task_report(one, out)
    if "diversity" in report:
        out.print(_diversity(report["diversity"]))
    robustness = report.get("robustness")
    if robustness:
        out.print(robustness_table(robustness))
    return out.export_html(inline_styles=True, code_format=TABLES_FORMAT)


def new_items_table(figures: dict[str, Any]) -> Table:
    """Return the figures of items that training never saw, a row for each combination of what is known."""
    title = (
        f"new items: {figures['items']:,} that training never saw, {figures['users']:,} users with a target "
        "among them; found: how many of the first 20 are new; known: recall of the same users' other targets"
    )
    columns = ("R@20", "95 %", "gain", "N@20", "found", "among new", "gain", "known")
    table = Table("known of an item", *columns, title=title, box=SIMPLE_HEAD, collapse_padding=True)
    for name, by_k in figures["by_content"].items():
        one = by_k[K]
        low, high = one["recall_ci95"]
        table.add_row(
            escape(name),
            _cell(one["recall"]),
            f"{low:.3f}–{high:.3f}",
            _gain(by_k),
            _cell(one["ndcg"]),
            f"{one['found']:.2f}",
            _cell(one["recall_among_new"]),
            _gain(by_k, "recall_among_new"),
            _cell(one["recall_of_known"]),
        )
    chance = figures["chance"][K]
    table.add_row("chance", _cell(chance["recall"]), *[""] * 4, _cell(chance["recall_among_new"]), "", "")
    return table


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


def _gain(figures: dict[str, Any], metric: str = "recall") -> str:
    """Return the paired interval of a gain, as the report has it of one row."""
    low, high = figures["gain"][metric]["ci95"] if "gain" in figures else (None, None)
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


def amounts_table(report: dict[str, Any], view: str) -> Table:
    """Return recall and NDCG at 20 of each column, a row per amount of a view.

    A figure that all views beat by more than the paired 95 % interval is marked +, one that beats them −.
    """
    block, columns = report[BLOCKS[view]], columns_of(view)
    users = report["cut"]["users"]
    title = f"{CUT_ELEMENTS[view]} cut to n, {users:,} users"
    table = Table("n", title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.caption = f"paired 95 %: + {WHOLE} gains, − it loses"
    for name in ("R@20", "N@20"):
        for column in columns:
            table.add_column(f"{column} {name}", justify="right")
    for n, figures in block.items():
        cells = [_amount_cell(figures[column], metric) for metric in METRICS for column in columns]
        table.add_row("all" if n == ALL else n, *cells)
    return table


def _amount_cell(figures: dict[str, Any] | None, metric: str) -> str:
    """Return a figure, marked where the interval of what all views gain over it excludes 0."""
    if figures is None:
        return "–"
    mark = gain_mark(figures["gain"][metric]) if "gain" in figures else ""  # none over itself
    return _cell(figures[K][metric]) + mark


def gain_mark(gain: dict[str, Any]) -> str:
    """Return " +" or " −" for a paired gain whose 95 % interval excludes 0, else two spaces."""
    low, high = gain["ci95"]
    if low is None or low <= 0 <= high:
        return "  "
    return " +" if low > 0 else " −"


MOST_CLASSES = 20
_NAMES = {
    "auc": "AUC",
    "user_auc": "user AUC",
    "log_loss": "log loss",
    "brier": "Brier",
    "rmse": "RMSE",
    "mae": "MAE",
    "accuracy": "top 1",
    "top3_accuracy": "top 3",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
}


def print_task_report(report: dict[str, Any], out: Console) -> None:
    """Print what `encoder.heads.model.head_report` returned; of many classes the most frequent ones."""
    out.print(_metrics(report))
    if report["unlabelled_events"]:
        out.print(f"{report['unlabelled_events']:,} events are on items without {escape(report['label'])}")
    out.print(_head_gains(report["gains"]))
    if "calibration" in report:
        out.print(_reliability(report["calibration"]))
    if "classes" in report:
        out.print(_classes(report["classes"]))


def _head_gains(gains: dict[str, Any]) -> Table:
    """Return by how much the head is better than each baseline, with paired intervals."""
    metrics = list(dict.fromkeys(metric for one in gains.values() for metric in one))
    table = Table("gain over", title="mean over users, paired 95 %", box=SIMPLE_HEAD, pad_edge=False)
    for metric in metrics:
        table.add_column(_NAMES.get(metric, metric.replace("_", " ")), justify="right")
    for name, one in gains.items():
        cells = [f"{one[m]['ci95'][0]:+.4f} to {one[m]['ci95'][1]:+.4f}" for m in metrics]
        table.add_row(name, *cells)
    return table


def _reliability(bins: list[dict[str, Any]]) -> Table:
    """Return predictions beside what was observed, in tenths by prediction."""
    table = Table("predicted", "observed", "examples", title="reliability", box=SIMPLE_HEAD, pad_edge=False)
    for one in bins:
        table.add_row(_cell(one["mean"]), _cell(one["rate"]), f"{one['count']:,.0f}")
    return table


def _metrics(report: dict[str, Any]) -> Table:
    of_label = f" of {report['label']}" if report["label"] else ""
    title = f"{report['task']}{of_label}: {report['examples']:,} examples of split {report['split']}"
    columns = list(report["metrics"])
    table = Table(title=escape(title), box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(_NAMES.get(column, column), justify="right")
    for name, figures in {"Triptych": report["metrics"], **report["baselines"]}.items():
        table.add_row(name, *(_cell(figures[column]) for column in columns))
    return table


def _classes(classes: list[dict[str, Any]]) -> Table:
    occurring = sorted((one for one in classes if one["support"]), key=lambda one: -one["support"])
    table = Table(title="by class", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("class", overflow="fold")
    for column in ("precision", "recall", "F1", "events"):
        table.add_column(column, justify="right")
    for one in occurring[:MOST_CLASSES]:
        figures = (_cell(one[name]) for name in ("precision", "recall", "f1"))
        table.add_row(escape(one["class"]), *figures, f"{one['support']:,.1f}")
    left_out = len(occurring) - MOST_CLASSES
    absent = len(classes) - len(occurring)
    notes = [f"{left_out:,} less frequent classes are not shown"] if left_out > 0 else []
    notes += [f"{absent:,} classes have no event in this split"] if absent else []
    table.caption = "\n".join(notes) or None
    return table


def robustness_table(block: dict[str, Any]) -> Table:
    """Return recall and NDCG with their 95 % intervals, a row per setting."""
    table = Table("view", "mode", "share", "recall@20", "[95 %]", "ndcg@20", "[95 %]", title="robustness")
    table.add_row("all", "unchanged", "0 %", *_cells(block["unchanged"]), end_section=True)
    for view, modes in block["by_view"].items():
        for mode, shares in modes.items():
            for percent, figures in shares.items():
                last = percent == list(shares)[-1]
                cells = _cells(figures)
                table.add_row(ELEMENTS[view], mode, f"{percent} %", *cells, end_section=last)
    return table


def _cells(figures: dict[str, Any]) -> list[str]:
    cells = []
    for metric in METRICS:
        low, high = map(_cell, figures[f"{metric}_ci95"])
        cells += [_cell(figures[metric]), escape(f"[{low}, {high}]")]
    return cells


def _cell(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.4f}"
