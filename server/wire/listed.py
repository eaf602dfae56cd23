"""Artifacts of the home as messages: indexes, models and reports, as their own files describe them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from encoder.model_files import ListedModel
from server.live import ListedIndex, Location
from server.status import InvalidRequestError
from store.listing import ListedArtifact
from store.reports import KIND
from triptych_client.pb.v1 import triptych_pb2 as pb

LISTED, MOST_LISTED = 50, 1_000  # that one call lists, where it does not say how many, and at most
_LONGEST = 1_000  # characters of a setting
_LOCATIONS = {
    Location.DISK: pb.INDEX_LOCATION_DISK,
    Location.BUCKET: pb.INDEX_LOCATION_BUCKET,
    Location.BOTH: pb.INDEX_LOCATION_BOTH,
    Location.UNKNOWN: pb.INDEX_LOCATION_UNKNOWN,
}


def listed_at_most(limit: int) -> int:
    """Return how many a call lists.  Raises: InvalidRequestError."""
    if limit > MOST_LISTED:
        raise InvalidRequestError(f"limit is {limit}, more than {MOST_LISTED}", "limit")
    return limit or LISTED


def index_list(listed: Sequence[ListedIndex], serving: str) -> pb.ListIndexesResponse:
    """Return indexes as a reply; `serving` is the id of the one that serves."""
    return pb.ListIndexesResponse(indexes=[_index_summary(one, serving) for one in listed])


def _index_summary(one: ListedIndex, serving: str) -> pb.IndexSummary:
    """Return what a manifest says of an index, and where it is."""
    listed, facts = one.artifact, one.artifact.facts
    summary = pb.IndexSummary(
        index_id=listed.artifact_id,
        model_id=facts.get("model_id", ""),
        factory=facts.get("factory", ""),
        items=facts.get("items", 0),
        changes=facts.get("changes", 0),
        dim=facts.get("dim", 0),
        ann_recall=facts.get("ann_recall@100"),
        bytes=listed.nbytes,
        serving=listed.artifact_id == serving,
        damaged=listed.damaged,
        location=_LOCATIONS[one.location],
    )
    _date(summary, listed)
    return summary


def model_summary(listed: ListedModel, serving: str) -> pb.ModelSummary:
    """Return what a model's manifest and metrics.json say of it."""
    facts, metrics = listed.artifact.facts, listed.metrics
    summary = pb.ModelSummary(
        model_id=listed.artifact.artifact_id,
        serving=listed.artifact.artifact_id == serving,
        damaged=listed.damaged,
        bytes=listed.artifact.nbytes,
    )
    _date(summary, listed.artifact)
    if listed.damaged:
        return summary
    summary.text_model_id = facts["text_model_id"]
    summary.export_id = facts["export_id"]
    summary.users, summary.items, summary.dim = facts["users"], facts["items"], facts["dim"]
    summary.started_from = metrics.get("started_from") or ""
    summary.training_seconds = metrics.get("seconds", {}).get("fit", 0.0)
    summary.settings.update(_settings(facts["settings"], metrics))
    if metrics.get("held_out"):
        summary.held_out.CopyFrom(_held_out(metrics["held_out"]))
    summary.heads.extend(_head(task, one) for task, one in metrics.get("heads", {}).items())
    return summary


def report_summary(listed: ListedArtifact) -> pb.ReportSummary:
    """Return what a manifest says of an evaluation report."""
    facts = listed.facts
    summary = pb.ReportSummary(report_id=listed.artifact_id, damaged=facts.get("kind") != KIND)
    _date(summary, listed)
    if summary.damaged:
        return summary
    for name in ("dataset", "split", "model_id", "index_id", "views", "users"):
        setattr(summary, name, facts[name])
    figures = zip(
        ("recall", "recall_low", "recall_high", "ndcg"),
        (facts["recall@20"], *facts["recall@20_ci95"], facts["ndcg@20"]),
        strict=True,
    )
    for name, figure in figures:
        if figure is not None:  # there was somebody to measure
            setattr(summary, name, figure)
    summary.baselines.extend(facts["baselines"])
    summary.robustness = facts["robustness"]
    return summary


def _date(summary: pb.IndexSummary | pb.ModelSummary | pb.ReportSummary, listed: ListedArtifact) -> None:
    if listed.created is not None:
        summary.created.FromDatetime(listed.created)


def _held_out(figures: Mapping[str, Any]) -> pb.HeldOutFigures:
    by_view = [
        pb.ViewFigures(
            views=views,
            recall=one["recall"],
            recall_low=one["recall_ci95"][0],
            recall_high=one["recall_ci95"][1],
            ndcg=one["ndcg"],
            ndcg_low=one["ndcg_ci95"][0],
            ndcg_high=one["ndcg_ci95"][1],
        )
        for views, one in figures["by_view"].items()
    ]
    return pb.HeldOutFigures(rows=figures["rows"], users=figures["users"], by_view=by_view)


def _head(task: str, figures: Mapping[str, Any]) -> pb.HeadFigures:
    metrics = {name: float(one) for name, one in figures.get("metrics", {}).items() if one is not None}
    label, examples = figures.get("label") or "", figures.get("examples", 0)
    return pb.HeadFigures(task=task, label=label, examples=examples, metrics=metrics)


def _settings(tower: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a tower and of its training, as text by name."""
    return {name: text[:_LONGEST] for name, text in _named_settings(tower, metrics)}


def _named_settings(tower: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    learned, trust = metrics.get("learned"), metrics.get("trust")
    yield from ((name, _text(value)) for name, value in tower.items() if value not in ({}, None))
    if learned:
        yield "learned weight", _text(learned["weight"])
    if learned and learned["weight"]:  # without one the blocks are no part of the model
        yield "learned best epochs", _text(learned["best_epochs"])
        yield from ((f"learned {name}", _text(value)) for name, value in learned["settings"].items())
    if trust:
        yield from ((f"trust {name}", _text(three)) for name, three in trust["trust"].items())
        yield "trust scale of H", _text(trust["scale"])


def _text(value: object) -> str:
    """Return a setting as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(one)}" for name, one in value.items())
    return str(value)
