"""The tables of docs/results.md, of the files that the steps leave."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder.config import VIEWS
from encoder.model_files import METRICS_FILE
from encoder.runtime import CONFIG_FILE
from scripts.evaluate.amounts import BLOCKS, MOST_USERS, columns_of
from scripts.evaluate.tables import gain_mark
from scripts.results.plan import DataSet, ResultStep
from scripts.results.run import read_marker

_K = "20"
_NO = "–"
_AMOUNTS = {"H": "history", "T": "texts", "S": "friends"}
_ELEMENTS = {"H": "items of the history", "T": "texts", "S": "friends"}
_SUBSETS = ("H", "T", "S", "HT", "HS", "TS", "HTS")


@dataclass(frozen=True)
class Outcome:
    """What the steps of one data set left.

    Attributes:
        name: of the data set.
        report: of `triptych evaluate`.
        config: config.json of the model.
        metrics: metrics.json of the model.
        markers: what the marker of each step says, by the step's name.
        commands: of the steps, with DATA and RESULTS in place of the folders.
    """

    name: str
    report: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, Any]
    markers: dict[str, dict[str, Any]]
    commands: tuple[str, ...]


def read_outcome(data_set: DataSet, results: Path, steps: Sequence[ResultStep], folder: Path) -> Outcome:
    """Read what the steps of a data set left; `folder` has their markers."""
    report = _json(data_set.report(results))
    model = data_set.home(results) / "models" / report["model_id"]
    markers = {step.name: read_marker(folder / f"{step.name}.json") or {} for step in steps}
    folders = {str(results): "RESULTS", str(data_set.folder.parent): "DATA"}
    commands = []
    for step in steps:
        command = step.command
        for path in sorted(folders, key=len, reverse=True):  # one may lie in the other
            command = command.replace(path, folders[path])
        commands.append(command)
    config, metrics = _json(model / CONFIG_FILE), _json(model / METRICS_FILE)
    return Outcome(data_set.name, report, config, metrics, markers, tuple(commands))


def results_markdown(made: Sequence[Outcome]) -> str:
    """Return all tables as Markdown: a column or some rows per data set."""
    parts = [
        "# Results",
        _introduction(made),
        "## Against the baselines of the same run (test)",
        "Recall@20 / NDCG@20; in brackets the bootstrap 95 % interval of Recall@20 over users.",
        _baselines(made),
        "## By view (test, Recall@20 / NDCG@20)",
        _by_view(made),
    ]
    for view, block in BLOCKS.items():
        if any(one.report[block] is not None for one in made):
            parts += [
                f"## By amount of {_AMOUNTS[view]} (test, Recall@20 / NDCG@20)",
                f"Each person's {_AMOUNTS[view]} cut to n {_ELEMENTS[view]}, at random and nested, the rest "
                f"whole; over at most {MOST_USERS:,} users. By the paired 95 %: + all views gain over "
                "this, − they lose.",
                _by_amount(made, view),
            ]
    parts += ["## What was chosen, and how long it took", _chosen(made)]
    parts += ["## Robustness (test, Recall@20 / NDCG@20)", _robustness(made)]
    return "\n\n".join(parts) + "\n"


def _introduction(made: Sequence[Outcome]) -> str:
    markers = [marker for one in made for marker in one.markers.values()]
    commits = ", ".join(sorted({marker["commit"] for marker in markers}))
    days = sorted({marker["finished"][:10] for marker in markers})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    commands = "\n".join(f"    {command}" for command in made[0].commands)
    machine = f"{os.cpu_count()} {platform.machine()} cores, Python {platform.python_version()}"
    return (
        "`make results DATA=… RESULTS=…` makes all tables of this page. "
        f"By full ranking over all items, through the exported graphs and the index, at commit {commits}, on "
        f"{when}, {machine}.\n\n{commands}"
    )


def _baselines(made: Sequence[Outcome]) -> str:
    names = list(dict.fromkeys(name for one in made for name in one.report["baselines"]))
    rows = [["**Triptych**", *(f"**{_pair(one.report['k'])}** {_interval(one)}" for one in made)]]
    rows += [[name, *(_baseline(one.report["baselines"].get(name)) for one in made)] for name in names]
    rows.append(["users ranked", *(f"{one.report['users']:,}" for one in made)])
    return _table(["", *(one.name for one in made)], rows)


def _by_view(made: Sequence[Outcome]) -> str:
    rows = [
        [
            one.name,
            *(_pair(one.report["by_view"][views]) for views in _SUBSETS),
            _pair(one.report["cold_users"]),
        ]
        for one in made
    ]
    header = ["data", *("+".join(views) for views in _SUBSETS[:-1]), "all", "history withheld"]
    return _table(header, rows)


def _by_amount(made: Sequence[Outcome], view: str) -> str:
    block = BLOCKS[view]
    there = [one for one in made if one.report[block] is not None]
    rows = []
    for one in there:
        amounts = one.report[block]
        for column in columns_of(view):
            cells = [_amount(figures[column]) for figures in amounts.values()]
            rows.append([one.name, "all" if column == "".join(VIEWS) else "+".join(column), *cells])
    return _table(["data", "views", *there[0].report[block]], rows)


def _chosen(made: Sequence[Outcome]) -> str:
    rows = []
    for one in made:
        learned = one.metrics.get("learned")
        fit = one.metrics["seconds"]
        rows.append(
            [
                one.name,
                _settings(one.config),
                f"{learned['weight']:g}" if learned else _NO,
                ", ".join(map(str, learned["best_epochs"])) if learned else _NO,
                one.metrics["chosen_on"] or "nothing",
                _duration(fit["encode"]),
                _duration(fit["fit"]),
                _duration(one.markers["train"]["seconds"]),
            ]
        )
    header = ["data", "settings", "weight of the learned block", "best epoch", "chosen on", "texts", "fit"]
    return _table([*header, "`train` in all"], rows)


def _settings(config: dict[str, Any]) -> str:
    """Return the settings of the closed form in words; those that are off are left out."""
    said = [
        f"dim {config['dim']}",
        f"{config['weighting']} counts",
        f"exponents {config['user_exponent']:g} and {config['item_exponent']:g}",
        f"damping {config['damping']:g}" if config["damping"] else "no damping",
        f"ridge {config['ridge']:g}",
        "gates " + ", ".join(f"{gate:g}" for gate in config["gates"]),
    ]
    named = {"dim", "weighting", "user_exponent", "item_exponent", "damping", "ridge", "gates", "fusion"}
    others = {name: value for name, value in config.items() if name not in named and value}
    return ", ".join([*said, *(f"{name.replace('_', ' ')} {value}" for name, value in others.items())])


def _robustness(made: Sequence[Outcome]) -> str:
    rows, shares = [], ["10", "30", "50", "100"]
    for one in made:
        block = one.report["robustness"]
        rows.append([one.name, "unchanged", *([_pair({_K: block["unchanged"]})] * len(shares))])
        for view, modes in block["by_view"].items():
            for mode, by_share in modes.items():
                cells = [_pair({_K: by_share[share]}) for share in shares]
                rows.append([one.name, f"{view} {mode}", *cells])
    return _table(["data", "view, mode", *(f"{share} %" for share in shares)], rows)


def _baseline(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "not run"
    return "left out" if "left_out" in figures else _pair(figures)


def _interval(one: Outcome) -> str:
    low, high = one.report["k"][_K]["recall_ci95"]
    return f"[{_figure(low, 3)}–{_figure(high, 3)}]"


def _pair(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return _NO
    return f"{_figure(figures[_K]['recall'])} / {_figure(figures[_K]['ndcg'])}"


def _amount(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return _NO
    gains = figures.get("gain")
    marks = {name: gain_mark(gains[name]).strip() if gains else "" for name in ("recall", "ndcg")}
    return " / ".join(f"{_figure(figures[_K][name])}{mark}" for name, mark in marks.items())


def _figure(value: float | None, digits: int = 4) -> str:
    return _NO if value is None else f"{value:.{digits}f}".removeprefix("0")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content
