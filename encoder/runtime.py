"""A trained model, loaded from its directory and run by ONNX Runtime, without torch."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
from onnxruntime.capi import onnxruntime_pybind11_state as errors
from safetensors.numpy import load_file

from encoder.config import TowerConfig
from encoder.content import INPUTS, PARTS, ContentEncoder, ItemContent, patterns_of
from encoder.heads import Head, NoHeadError, Task, load_heads
from encoder.model_files import ITEM_GRAPH, USER_GRAPH
from encoder.views import FloatArray, ViewBatch
from store.artifact import DamagedArtifactError, read_manifest, verify

log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
ITEMS_FILE = "items.parquet"
TABLES_FILE = "item_tables.safetensors"
CONTENT_FILE = "content.json"
_LOAD_ERRORS = (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.NoModel, errors.NoSuchFile)


class NotFiniteModelError(ValueError):
    """A tensor of a model holds a number that is not finite, so its vectors are of no use."""

    def __init__(self, directory: Path, tensor: str) -> None:
        super().__init__(
            f"model {directory.name} is of no use: {tensor} holds a number that is not finite; "
            "run `triptych train` for another"
        )
        self.tensor = tensor


@dataclass(frozen=True)
class EncodedUsers:
    """User vectors and the part of each view in them.

    Shapes:
        vectors: (B, D) float32, V_u; zero for a user without any view.
        parts: (B, 3, D) float32 in the order H, T, S; they sum to `vectors`.
    """

    vectors: FloatArray
    parts: FloatArray

    @property
    def used(self) -> npt.NDArray[np.bool_]:
        """(B, 3) bool: which views have a part in the vector."""
        return np.asarray(self.parts.any(axis=2))


class Model:
    """One immutable directory below models/: the towers, the item table and its vocabulary.

    Attributes:
        directory: what it was loaded from.
        model_id: the directory's name; vectors of different models do not compare.
        text_model_id: the language model whose vectors the T view and the item tower take.
        export_id: what it was trained on.
        dim, text_dim: D and D_T.
        content_parts: which parts of their content encode items that have no id vector.
        content_encoder: turns what was written of items into numbers.
        item_ids: (N,) sorted string array, the rows of `table` and `id_vectors`.
        popularity: (N,) float32, number of users with a visible event on the item.
        table: (N, D_H) float32, what a history is pooled with.
        widths: of the table's blocks, each of which the pooled views are unit in.
        id_vectors: (N, D) float32, zero for items without events.
        heads: by task; each graph has been run once.
    """

    def __init__(
        self, directory: Path, model_id: str, manifest: dict[str, Any], threads: int | None = None
    ) -> None:
        self.model_id = model_id
        self.manifest = manifest
        self.directory = directory
        self._warned = False
        self.text_model_id: str = manifest["text_model_id"]
        self.export_id: str = manifest["export_id"]
        self.config = TowerConfig.from_json(json.loads((directory / CONFIG_FILE).read_text("utf-8")))
        items = pq.read_table(directory / ITEMS_FILE)
        self.item_ids: pa.StringArray = items.column("item_id").combine_chunks()
        self.popularity: FloatArray = items.column("popularity").to_numpy().astype(np.float32)
        tables = load_file(directory / TABLES_FILE)
        self.table: FloatArray = tables["table"]
        self.widths: tuple[int, ...] = tuple(int(width) for width in tables["widths"])
        self.id_vectors: FloatArray = tables["id_vectors"]
        self.dim = self.id_vectors.shape[1]
        self._user = _session(directory / USER_GRAPH, self.model_id, threads)
        self._item = _session(directory / ITEM_GRAPH, self.model_id, threads)
        self.text_dim: int = next(one.shape[1] for one in self._user.get_inputs() if one.name == "text")
        inputs = {one.name: one.shape[-1] for one in self._item.get_inputs()}
        self._content_widths = {name: inputs[name] for name in INPUTS if name in inputs}
        self.content_parts = tuple(part for part in PARTS if part in inputs)
        self._has_patterns = "pattern" in inputs  # not in models of earlier versions
        self.content_encoder = ContentEncoder()
        if (directory / CONTENT_FILE).exists():
            facts = json.loads((directory / CONTENT_FILE).read_text("utf-8"))
            self.content_encoder = ContentEncoder.from_json(facts)
        self.heads = load_heads(directory)
        for task, head in self.heads.items():
            if head.dim != self.dim:
                raise DamagedArtifactError(
                    directory, f"has a head of {task} for dim {head.dim}, but its vectors have {self.dim}"
                )

    @classmethod
    def load(cls, directory: Path, *, threads: int | None = None, check: bool = True) -> "Model":
        """Load the model of a directory.

        Args:
            directory: below models/.
            threads: of ONNX Runtime per call; None lets it choose.
            check: read and compare every file's checksum first.

        Raises:
            DamagedArtifactError: a file is missing, damaged or of another model; names the file.
        """
        manifest = verify(directory) if check else read_manifest(directory)
        if manifest.get("kind") != "model":
            raise DamagedArtifactError(directory, f"is a {manifest.get('kind')!r}, not a model")
        return cls(directory, directory.name, manifest, threads)

    def encode_users(self, batch: ViewBatch) -> EncodedUsers:
        """Encode a batch of users.

        A vector that is not finite is replaced by zeros, as if the user had no view, and an error is logged.
        """
        vectors, parts = self._user.run(
            ["vectors", "parts"],
            {"history": batch.history, "text": batch.text, "social": batch.social, "amounts": batch.amounts},
        )
        if not np.isfinite(vectors).all():
            broken = self._not_finite(vectors, "people")
            vectors, parts = np.where(broken[:, None], 0, vectors), np.where(broken[:, None, None], 0, parts)
        return EncodedUsers(vectors, parts)

    def head(self, task: Task) -> Head:
        """Return the head for a task.  Raises: NoHeadError."""
        if task not in self.heads:
            raise NoHeadError(task, self.model_id)
        return self.heads[task]

    def encode_items(self, id_vectors: FloatArray, content: ItemContent) -> FloatArray:
        """Encode items: (B, D) float32, the id vector, or of an item without one the vector from its content.

        A vector that is not finite is replaced by zeros, and an error is logged.

        Args:
            id_vectors: (B, D) float32, zero for an item without one.
            content: of the same items; parts that the model does not know count as none.
        """
        vectors = id_vectors.astype(np.float32)
        known = [part in self.content_parts for part in PARTS]
        patterns = patterns_of(content.present & known)
        patterns[vectors.any(axis=1)] = 0  # the id vector is all that counts
        for pattern in np.unique(patterns[patterns > 0]).tolist():
            rows = np.flatnonzero(patterns == pattern)
            some = content.take(rows).inputs()
            feeds = {
                name: some[name] if some[name].shape[1] == width else np.zeros((len(rows), width), np.float32)
                for name, width in self._content_widths.items()
            } | {"id_vector": vectors[rows]}
            if self._has_patterns:
                feeds["pattern"] = np.array([pattern])
            vectors[rows] = self._item.run(["vectors"], feeds)[0]
        if not np.isfinite(vectors).all():
            vectors = np.where(self._not_finite(vectors, "items")[:, None], 0, vectors)
        return vectors

    def check_finite(self) -> None:
        """Check that the tables hold finite numbers only.  Raises: NotFiniteModelError."""
        for name, values in (("table", self.table), ("id_vectors", self.id_vectors)):
            if not np.isfinite(values).all():
                raise NotFiniteModelError(self.directory, f"{TABLES_FILE}: {name}")

    def _not_finite(self, vectors: FloatArray, whose: str) -> npt.NDArray[np.bool_]:
        """Return which rows (B,) are not finite, and log an error the first time that there is one."""
        broken = np.asarray(~np.isfinite(vectors).all(axis=1))
        if not self._warned:
            self._warned = True
            log.error(
                "model %s gives vectors that are not finite, of %d of %d %s at first: they count as nothing; "
                "run `triptych train` for another",
                self.model_id, broken.sum(), len(broken), whose,
            )  # fmt: skip
        return broken


def _session(path: Path, model_id: str, threads: int | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except _LOAD_ERRORS as error:
        raise DamagedArtifactError(path, f"cannot be loaded: {error}") from error
    named = session.get_modelmeta().custom_metadata_map.get("model_id")
    if named != model_id:
        raise DamagedArtifactError(path, f"belongs to model {named!r}, not {model_id!r}")
    return session
