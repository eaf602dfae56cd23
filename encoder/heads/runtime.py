"""A fitted task head: saved, loaded and run by ONNX Runtime, without torch."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from encoder.arrays import IntArray
from encoder.heads.options import HEAD_TASKS, HeadOptions, Quantity, Task
from encoder.heads.places import places_of
from encoder.heads.subjects import Subjects
from encoder.views import FloatArray
from store.artifact import DamagedArtifactError, sha256

HEADS_FOLDER = "heads"
OLD_FILES = ("head.onnx", "head.json")  # of a model of before, which had one head at most
_SUBJECTS = 4_096  # at a time
_PAIRS = 65_536  # at a time


class NoHeadError(LookupError):
    """A model has no head for a task."""

    def __init__(self, task: str, model_id: str) -> None:
        label = " --label attributes.genre" if task == "category" else ""
        super().__init__(
            f"model {model_id} has no head for {task}: fit one by `triptych train --heads-of {model_id} "
            f"--task {task}{label}`, then `triptych reindex`"
        )
        self.task = task


class HeadInputError(ValueError):
    """The vectors or rows given to a head do not fit it."""


_RUN_ERRORS = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf,
               errors.NotImplemented, errors.RuntimeException, HeadInputError, ValueError)  # fmt: skip


@dataclass(frozen=True)
class Pairs:
    """Items that a head is asked about.

    Shapes:
        subject: (B,) int64, ascending, positions among the subjects.
        items: (B, D) float32, x_j.
        rows: (B,) int64, rows of these items in the model; −1 for new ones.
        positions: (B,) int64, from 0, where in a list they are shown; −1 for an unknown place.
    """

    subject: IntArray
    items: FloatArray
    rows: IntArray
    positions: IntArray

    def __len__(self) -> int:
        return len(self.subject)

    def part(self, chosen: slice, first: int = 0) -> "Pairs":
        """Return some of the pairs, with subjects counted from `first`."""
        return Pairs(
            self.subject[chosen] - first, self.items[chosen], self.rows[chosen], self.positions[chosen]
        )


@dataclass(frozen=True)
class Head:
    """A small model on frozen user vectors (and item vectors).

    Attributes:
        task: click, rating or category.
        graph: the ONNX model, serialised; see `encoder.heads.graph`.
        dim: D of the vectors that it takes.
        options: what it was fitted with, `label` among it.
        quantity: what its numbers are.
        actions: the actions that the histories it is given consist of; all where none is named.
        classes: of category, their names in the order of the probabilities; else empty.
        metrics: the figures that `train_head` measured on valid.
    """

    task: Task
    graph: bytes
    dim: int
    options: HeadOptions
    quantity: Quantity
    actions: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)

    def predict(self, subjects: Subjects, pairs: Pairs | None = None) -> FloatArray:
        """Predict clicks (B,) or ratings (B,) of pairs, or probabilities of the classes (S, C), float32.

        Args:
            subjects: S people; of one who has no view at all what holds of everybody is predicted.
            pairs: B of them, of click and rating; None for category.

        Raises:
            HeadInputError: shapes or types differ, pairs are missing, or are given to a head of category.
        """
        if (pairs is None) != (self.task == "category"):
            wanted = "subjects alone" if self.task == "category" else "subjects and pairs"
            raise HeadInputError(f"a head of {self.task} takes {wanted}")
        self._check("vectors", subjects.vectors, (len(subjects), self.dim), np.float32)
        self._check("owners", subjects.owners, (len(subjects.rows),), np.int64)
        self._check("ratings", subjects.ratings, (len(subjects.rows),), np.float32)
        self._check_rows("rows of histories", subjects.rows, 0)
        if pairs is not None:
            for name, array in (
                ("subject", pairs.subject),
                ("rows", pairs.rows),
                ("positions", pairs.positions),
            ):
                self._check(name, array, (len(pairs),), np.int64)
            self._check("items", pairs.items, (len(pairs), self.dim), np.float32)
            self._check_rows("rows", pairs.rows, -1)
        return np.concatenate([self._run(*part) for part in _parts(subjects, pairs)])

    def check(self) -> None:
        """Run the graph on one person and item.  Raises: an error of ONNX Runtime, or HeadInputError."""
        none = np.zeros(0, dtype=np.int64)
        nobody = Subjects(np.zeros((1, self.dim), np.float32), none, none, np.zeros(0, np.float32))
        first = np.zeros(1, dtype=np.int64)
        pairs = None if self.task == "category" else Pairs(first, nobody.vectors, first - 1, first)
        shape = self.predict(nobody, pairs).shape
        if shape != ((1, len(self.classes)) if pairs is None else (1,)):
            raise HeadInputError(f"its predictions have shape {shape}")

    def _run(self, subjects: Subjects, pairs: Pairs | None) -> FloatArray:
        arrays: dict[str, Any] = {
            "vectors": subjects.vectors,
            "owners": subjects.owners,
            "rated": subjects.rows,
            "ratings": subjects.ratings,
            "users": subjects.vectors,  # of graphs that take each pair's own vector, from before
        }
        if pairs is not None:
            arrays |= {
                "subject": pairs.subject,
                "items": pairs.items,
                "rows": pairs.rows,
                "places": places_of(pairs.positions),
            }
            if "users" in self._inputs:
                arrays["users"] = subjects.vectors[pairs.subject]
        (predictions,) = self._session.run(None, {name: arrays[name] for name in self._inputs})
        return np.asarray(predictions, dtype=np.float32)

    @staticmethod
    def _check(name: str, array: Any, shape: tuple[int, ...], kind: type[np.generic]) -> None:
        if array.shape != shape or array.dtype != kind:
            raise HeadInputError(f"{name} are {array.dtype} {array.shape}, not {np.dtype(kind)} {shape}")

    def _check_rows(self, name: str, rows: IntArray, least: int) -> None:
        if (
            len(rows)
            and self._n_items is not None
            and not (rows.min() >= least and rows.max() < self._n_items)
        ):
            raise HeadInputError(f"{name} {rows.min()}..{rows.max()} are not in {least}..{self._n_items - 1}")

    @cached_property
    def _inputs(self) -> tuple[str, ...]:
        return tuple(one.name for one in self._session.get_inputs())

    @cached_property
    def _session(self) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # small products: a second thread waits more than it works
        return ort.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])

    @cached_property
    def _n_items(self) -> int | None:
        number = self._session.get_modelmeta().custom_metadata_map.get("n_items")
        return None if number is None else int(number)


def save_head(head: Head, directory: Path) -> None:
    """Write heads/<task>.onnx and .json into the directory of a model that is being built."""
    folder = directory / HEADS_FOLDER
    folder.mkdir(exist_ok=True)
    graph = folder / f"{head.task}.onnx"
    graph.write_bytes(head.graph)
    facts = {
        "task": head.task,
        "dim": head.dim,
        "quantity": head.quantity,
        "actions": list(head.actions),
        "options": head.options.as_json(),
        "classes": list(head.classes),
        "metrics": head.metrics,
        "sha256": sha256(graph),
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
    graph.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def load_heads(directory: Path) -> dict[Task, Head]:
    """Load the heads of a model's directory by task, in the order of the tasks; those of before, too.

    Raises:
        DamagedArtifactError: a file of one is missing, damaged or not the one written with the other.
    """
    files = {task: directory / HEADS_FOLDER / f"{task}.onnx" for task in HEAD_TASKS}
    found = [path for path in (*files.values(), directory / OLD_FILES[0]) if _there(path)]
    heads = [_load_head(path) for path in found]
    return {head.task: head for head in heads}


def _there(graph: Path) -> bool:
    return graph.exists() or graph.with_suffix(".json").exists()


def _load_head(graph: Path) -> Head:
    about = graph.with_suffix(".json")
    for path in (graph, about):
        if not path.exists():
            raise DamagedArtifactError(path, "is missing")
    try:
        facts = json.loads(about.read_bytes())
        digest, options = facts.pop("sha256"), HeadOptions.from_json(facts.pop("options"))
        tuples: dict[str, Any] = {name: tuple(facts.pop(name, ())) for name in ("classes", "actions")}
        of_before: Mapping[str, Quantity] = {"click": "score", "rating": "rating"}
        quantity = facts.pop("quantity", of_before.get(facts["task"], "probability"))
        head = Head(graph=graph.read_bytes(), options=options, quantity=quantity, **tuples, **facts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedArtifactError(about, f"is damaged: {error}") from error
    if digest != sha256(graph):
        raise DamagedArtifactError(graph, f"is damaged, or is not the graph that {about.name} names")
    try:
        head.check()
    except _RUN_ERRORS as error:
        raise DamagedArtifactError(graph, f"cannot be run as a head: {error}") from error
    return head


def _parts(subjects: Subjects, pairs: Pairs | None) -> Iterator[tuple[Subjects, Pairs | None]]:
    """Yield some subjects at a time with some of their pairs: what is computed at once stays small."""
    for start in range(0, max(1, len(subjects)), _SUBJECTS):
        some = np.arange(start, min(start + _SUBJECTS, len(subjects)))
        people = subjects.take(some) if len(subjects) > _SUBJECTS else subjects
        if pairs is None:
            yield people, None
            continue
        first, end = np.searchsorted(pairs.subject, [start, start + _SUBJECTS]).tolist()
        for at in range(first, max(end, first + 1), _PAIRS):
            yield people, pairs.part(slice(at, min(at + _PAIRS, end)), start)
