"""A fitted task head: saved, loaded and run by ONNX Runtime, without torch."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from encoder.arrays import IntArray
from encoder.heads.options import HEAD_TASKS, HeadOptions, Task
from encoder.views import FloatArray
from store.artifact import DamagedArtifactError, sha256

HEAD_GRAPH = "head.onnx"
HEAD_FILE = "head.json"
_BATCH = 16_384


class NoHeadError(LookupError):
    """A model has no task head."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"{directory} has no task head: train one with --task {', '.join(HEAD_TASKS)}")
        self.directory = directory


class HeadInputError(ValueError):
    """The vectors or rows given to a head do not fit it."""


@dataclass(frozen=True)
class Head:
    """A small model on frozen user vectors (and item vectors).

    Attributes:
        task: click, rating or category.
        graph: the ONNX model, serialised; see `encoder.heads.graph`.
        dim: D of the vectors that it takes.
        options: what it was fitted with, `label` among it.
        classes: of category, their names in the order of the probabilities; else empty.
        metrics: the figures that `train_head` measured on valid.
    """

    task: Task
    graph: bytes
    dim: int
    options: HeadOptions
    classes: tuple[str, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)

    def predict(
        self, users: FloatArray, items: FloatArray | None = None, rows: IntArray | None = None
    ) -> FloatArray:
        """Predict probabilities of clicks (B,), ratings (B,) or probabilities of the classes (B, C), float32.

        Args:
            users: (B, D) float32, V_u.
            items: (B, D) float32, x_j, of click and rating.
            rows: (B,) int64, rows of these items in the model; −1, or none at all, for new items.

        Raises:
            HeadInputError: shapes or types differ, items are missing, or are given to a head of category.
        """
        feeds: dict[str, Any] = {"users": users}
        if (items is None) != (self.task == "category") or (rows is not None and items is None):
            wanted = "user vectors alone" if self.task == "category" else "user and item vectors"
            raise HeadInputError(f"a head of {self.task} takes {wanted}")
        if items is not None:
            feeds["items"] = items
            feeds["rows"] = np.full(len(users), -1, dtype=np.int64) if rows is None else rows
        for name, array in feeds.items():
            wanted_shape = (len(users),) if name == "rows" else (len(users), self.dim)
            wanted_type = np.int64 if name == "rows" else np.float32
            if array.shape != wanted_shape or array.dtype != wanted_type:
                raise HeadInputError(
                    f"{name} are {array.dtype} {array.shape}, not {np.dtype(wanted_type)} {wanted_shape}"
                )
        if rows is not None and len(rows) and not (rows.min() >= -1 and rows.max() < self._n_items):
            raise HeadInputError(f"rows {rows.min()}..{rows.max()} are not in -1..{self._n_items - 1}")
        parts = [
            self._session.run(None, {name: array[start : start + _BATCH] for name, array in feeds.items()})[0]
            for start in range(0, max(1, len(users)), _BATCH)
        ]
        return np.concatenate(parts)

    @cached_property
    def _session(self) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        return ort.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])

    @cached_property
    def _n_items(self) -> int:
        return int(self._session.get_modelmeta().custom_metadata_map["n_items"])


def save_head(head: Head, directory: Path) -> None:
    """Write head.onnx and head.json into a directory that is being built."""
    (directory / HEAD_GRAPH).write_bytes(head.graph)
    facts = {
        "task": head.task,
        "dim": head.dim,
        "options": head.options.as_json(),
        "classes": list(head.classes),
        "metrics": head.metrics,
        "sha256": sha256(directory / HEAD_GRAPH),
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
    (directory / HEAD_FILE).write_text(text + "\n", encoding="utf-8")


def load_head(directory: Path) -> Head:
    """Load the head of a model's directory.

    Raises:
        NoHeadError: it has none.
        DamagedArtifactError: a file of it is missing, damaged or not the one written with the other.
    """
    graph, about = directory / HEAD_GRAPH, directory / HEAD_FILE
    if not graph.exists() and not about.exists():
        raise NoHeadError(directory)
    for path in (graph, about):
        if not path.exists():
            raise DamagedArtifactError(path, "is missing")
    try:
        facts = json.loads(about.read_bytes())
        digest, options = facts.pop("sha256"), HeadOptions(**facts.pop("options"))
        head = Head(
            graph=graph.read_bytes(), options=options, **(facts | {"classes": tuple(facts["classes"])})
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedArtifactError(about, f"is damaged: {error}") from error
    if digest != sha256(graph):
        raise DamagedArtifactError(graph, f"is damaged, or is not the graph that {HEAD_FILE} names")
    return head
