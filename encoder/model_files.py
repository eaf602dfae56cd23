"""The files of a model's directory: names that more than one module knows, and how those describe it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.home import Home
from store.listing import ListedArtifact, list_artifacts

USER_GRAPH = "user_tower.onnx"
ITEM_GRAPH = "item_tower.onnx"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class ListedModel:
    """One model on disk.

    Attributes:
        artifact: its manifest, size and time.
        metrics: what training measured; empty where the manifest or metrics.json is damaged.
        damaged: whether one of them is.
    """

    artifact: ListedArtifact
    metrics: dict[str, Any]
    damaged: bool


def list_models(home: Home, limit: int) -> list[ListedModel]:
    """Return the newest models of a home, newest first, at most `limit`."""
    return [_listed(home.models, one) for one in list_artifacts(home.models, limit)]


def _listed(models: Path, artifact: ListedArtifact) -> ListedModel:
    if artifact.damaged:
        return ListedModel(artifact, {}, damaged=True)
    try:
        raw = (models / artifact.artifact_id / METRICS_FILE).read_bytes()
    except OSError:
        return ListedModel(artifact, {}, damaged=True)
    if hashlib.sha256(raw).hexdigest() != artifact.facts["files"].get(METRICS_FILE):
        return ListedModel(artifact, {}, damaged=True)
    return ListedModel(artifact, json.loads(raw), damaged=False)
