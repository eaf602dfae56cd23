"""The report of a task head as tables on the terminal: metrics beside baselines, and class by class."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

MOST_CLASSES = 20
_NAMES = {
    "auc": "AUC",
    "user_auc": "user AUC",
    "log_loss": "log loss",
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
    if "classes" in report:
        out.print(_classes(report["classes"]))


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


def _cell(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.4f}"
