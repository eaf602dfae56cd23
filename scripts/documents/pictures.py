"""The pictures of docs/concepts.md, from the model and the evaluation report of a demo's home."""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from encoder.config import VIEWS
from encoder.dataset import Dataset, load_dataset
from encoder.model_files import METRICS_FILE
from encoder.runtime import EncodedUsers, Model
from encoder.text import TextCache, TextEncoder
from encoder.tower import dataset_views
from encoder.tower.fusion import ChosenTrust
from encoder.tower.spectral import spectrum
from encoder.views import unit_rows
from indexer.publish import current_index, load_index
from store.export import Export
from store.home import Home
from store.listing import list_artifacts
from store.reports import MOST_REPORTS, read_report

_NAMES = {"H": "history", "T": "text", "S": "social"}
_COLOURS = {"H": "#0072b2", "T": "#e69f00", "S": "#009e73"}  # of Okabe and Ito 2008
_TOPIC_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
_TOPICS = ("astronomy", "jazz", "cooking", "chess")
_SHOWN = 10  # items of a person

Floats = npt.NDArray[np.float32]


class NoReportError(LookupError):
    """A home has no evaluation report of the index that serves."""

    def __init__(self, reports: Path, index_id: str) -> None:
        super().__init__(f"{reports} has no report of index {index_id}: run triptych evaluate first")


@dataclass(frozen=True)
class _People:
    """Everybody of the data with all three views, encoded: rows in the data, and their vectors."""

    rows: npt.NDArray[np.int64]
    encoded: EncodedUsers


def draw(home_path: Path, folder: Path) -> None:
    """Write every picture as PNG into a folder.

    Raises:
        NoReportError: the home was not evaluated.
    """
    home = Home(home_path)
    pair = load_index(home, current_index(home).name)
    report = _report(home, pair.index.index_id)
    model, encoder = pair.model, TextEncoder.load(home.text_models / pair.model.text_model_id)
    with (
        Export.open(home.exports / model.export_id) as export,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        data = load_dataset(export, encoder, cache)
    people = _people(data, model)
    _aligned(data, people, folder / "aligned.png")
    _shares(data, model, people, folder / "shares.png")
    _spectrum(data, model, folder / "spectrum.png")
    _trust(home.models / model.model_id, folder / "trust.png")
    _by_history(report, folder / "by-history.png")
    _by_view(report, folder / "by-view.png")


def _report(home: Home, index_id: str) -> dict[str, Any]:
    """Return the newest report of an index on test.  Raises: NoReportError."""
    for one in list_artifacts(home.reports, MOST_REPORTS):
        if (one.facts.get("index_id"), one.facts.get("split")) == (index_id, "test"):
            report: dict[str, Any] = json.loads(read_report(home, one.artifact_id))
            return report
    raise NoReportError(home.reports, index_id)


def _people(data: Dataset, model: Model) -> _People:
    everybody = np.arange(len(data.users), dtype=np.int64)
    batch = dataset_views(data, data.events(model.config), model.table, model.widths, everybody)
    rows = np.flatnonzero(batch.present.all(axis=1)).astype(np.int64)
    return _People(rows, model.encode_users(batch.rows(rows)))


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _aligned(data: Dataset, people: _People, path: Path) -> None:
    """Draw the parts of each view in the main plane of the fused vectors, by favourite topic."""
    topics = np.array([one.partition("-")[0] for one in data.items.to_pylist()])
    events = data.history
    favourite = np.full(len(data.users), "", dtype=topics.dtype)
    for user in people.rows.tolist():
        names, counts = np.unique(topics[events.items[events.users == user]], return_counts=True)
        if counts.max() > 0.6 * counts.sum():
            favourite[user] = names[counts.argmax()]
    mine = favourite[people.rows]
    chosen = np.isin(mine, _TOPICS)
    fused = unit_rows(people.encoded.vectors[chosen])
    centre = fused.mean(axis=0)
    plane = np.linalg.svd(fused - centre, full_matrices=False)[2][:2]  # (2, D)
    figure = _figure(10, 3.6)
    for axes, (place, view) in zip(
        figure.subplots(1, 3, sharex=True, sharey=True), enumerate(VIEWS), strict=True
    ):
        points = (unit_rows(people.encoded.parts[chosen, place]) - centre) @ plane.T
        for topic, colour in zip(_TOPICS, _TOPIC_COLOURS, strict=True):
            axes.scatter(*points[mine[chosen] == topic].T, s=9, color=colour, alpha=0.7, label=topic)
        axes.set_title(f"part of {_NAMES[view]} ({view})", fontsize="medium")
        axes.set_xticks([])
        axes.set_yticks([])
    figure.axes[0].legend(fontsize="small", markerscale=1.5)
    figure.savefig(path, dpi=110)


def _shares(data: Dataset, model: Model, people: _People, path: Path) -> None:
    """Draw the best items of the person whose views share most evenly in them, split into shares."""
    scores = people.encoded.vectors @ model.id_vectors.T  # (P, N)
    seen = data.events(model.config)[people.rows].toarray() > 0
    scores[seen] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :_SHOWN]  # (P, 10)
    shares = np.einsum("pvd,pkd->pkv", people.encoded.parts, model.id_vectors[best])  # (P, 10, 3)
    person = int(shares.sum(axis=1).min(axis=1).argmax())
    figure = _figure(8, 3.8)
    axes: Axes = figure.subplots()
    left = np.zeros(_SHOWN)
    items = [data.items[int(row)].as_py() for row in best[person]]
    for place, view in enumerate(VIEWS):
        width = shares[person, :, place]
        axes.barh(items, width, left=left, color=_COLOURS[view], label=f"{_NAMES[view]} ({view})")
        left = left + width
    axes.plot(scores[person, best[person]], items, "k|", markersize=14, label="score")
    axes.invert_yaxis()
    axes.set_xlabel(f"score of {data.users[int(people.rows[person])].as_py()}")
    axes.legend(fontsize="small", loc="lower right")
    figure.savefig(path, dpi=110)


def _spectrum(data: Dataset, model: Model, path: Path) -> None:
    """Draw the singular values of the behaviour matrix and what damping keeps of each direction."""
    config = model.config
    found = spectrum(data.events(config), 256, config.user_exponent, config.item_exponent)
    power = found.singular**2
    figure = _figure(8, 3.4)
    left, right = figure.subplots(1, 2)
    left.plot(found.singular / found.singular[0], color=_COLOURS["H"])
    left.set_ylabel("singular value, of the first")
    for damping, line in ((0.03, ":"), (0.1, "--"), (0.3, "-"), (1.0, "-.")):
        right.plot(
            power / (power + damping * power[0]), line, color=_COLOURS["H"], label=f"damping {damping}"
        )
    right.set_ylabel("kept of the direction")
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.set_xlabel("direction")
        axes.set_ylim(0)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _trust(model: Path, path: Path) -> None:
    """Draw what the gate of the history is multiplied by, by its length and by how far other views agree."""
    said = json.loads((model / METRICS_FILE).read_text("utf-8"))["trust"]
    trust = ChosenTrust.from_json(said).trust
    count = np.geomspace(1, 100, 200)
    shrunk = count / (count + trust.pseudo_counts[0])
    figure = _figure(6.5, 3.6)
    axes: Axes = figure.subplots()
    for agreement, line in ((0.7, "-"), (0.4, "--"), (0.1, "-."), (-0.2, ":")):
        expected = trust.expected[0] * np.sqrt(shrunk)
        credit = 1 / (1 + np.exp(-trust.sharpness[0] * (agreement - expected)))
        axes.plot(count, shrunk * credit, line, color=_COLOURS["H"], label=f"agreement {agreement}")
    axes.plot(count, shrunk, color="0.6", linewidth=1, label="amount alone, n / (n + c)")
    axes.set_xscale("log")
    axes.set_xlabel("items of the history")
    axes.set_ylabel("factor of its gate")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def _by_history(report: dict[str, Any], path: Path) -> None:
    """Draw Recall@20 by how many items of the history are left."""
    block = report["by_history"]
    figure = _figure(6.5, 3.6)
    axes: Axes = figure.subplots()
    lines = {"H": ("history alone", ":"), "TS": ("text and social", "--"), "HTS": ("all views", "-")}
    for column, (name, line) in lines.items():
        axes.plot(
            [one[column]["20"]["recall"] for one in block.values()],
            line,
            marker="o",
            markersize=4,
            label=name,
        )
    axes.set_xticks(range(len(block)), list(block))
    axes.set_xlabel("items of the history that are left")
    axes.set_ylabel("Recall@20")
    axes.set_ylim(0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def _by_view(report: dict[str, Any], path: Path) -> None:
    """Draw Recall@20 by which views are used."""
    named = {views: one["20"]["recall"] for views, one in report["by_view"].items() if one is not None}
    figure = _figure(6.5, 3.0)
    axes: Axes = figure.subplots()
    bars = axes.bar(list(named), list(named.values()), color=_COLOURS["H"])
    axes.bar_label(bars, fmt="%.3f", fontsize="small")
    axes.set_ylabel("Recall@20")
    axes.set_xlabel("views that are used")
    axes.margins(y=0.15)
    figure.savefig(path, dpi=110)
