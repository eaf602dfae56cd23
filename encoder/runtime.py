"""A trained model at work: ONNX Runtime, no torch."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from encoder.config import TowerConfig
from encoder.views import FloatArray, ViewBatch
from store.artifact import DamagedArtifactError, read_manifest, verify

log = logging.getLogger(__name__)

USER_GRAPH = "user_tower.onnx"
ITEM_GRAPH = "item_tower.onnx"
CONFIG_FILE = "config.json"
ITEMS_FILE = "items.parquet"
LEFT_OUT_FILE = "left_out_users.parquet"
TABLES_FILE = "item_tables.safetensors"


@dataclass(frozen=True)
class EncodedUsers:
    """User vectors and what each view brings to them.

    Shapes:
        vectors: (B, D) float32, V_u; zero where no view is there.
        parts: (B, 3, D) float32 in the order H, T, S; they sum to `vectors`.
    """

    vectors: FloatArray
    parts: FloatArray

    @property
    def used(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(B, 3) bool: which views have a part in the vector."""
        return np.asarray(self.parts.any(axis=2))


class Model:
    """One immutable directory below models/: the towers, the item table and its vocabulary.

    Attributes:
        model_id: the directory's name; vectors of different models do not compare.
        text_model_id: the language model whose vectors the T view and the item tower take.
        export_id: what it was trained on.
        dim, text_dim: D and D_T.
        item_ids: (N,) sorted string array, the rows of `table` and `id_vectors`.
        popularity: (N,) float32, number of users with a visible event on the item.
        table: (N, D_H) float32, what a history is pooled with.
        widths: of the table's blocks, each of which the pooled views are unit in.
        id_vectors: (N, D) float32, zero for items without events.
    """

    def __init__(
        self, directory: Path, model_id: str, manifest: dict[str, Any], threads: int | None = None
    ) -> None:
        self.model_id = model_id
        self.manifest = manifest
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
        self.text_dim: int = self._item.get_inputs()[1].shape[1]

    @classmethod
    def load(cls, directory: Path, *, threads: int | None = None, check: bool = True) -> "Model":
        """Return the model in a directory.

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
        """Return the vectors and parts of a batch of users."""
        vectors, parts = self._user.run(
            ["vectors", "parts"],
            {"history": batch.history, "text": batch.text, "social": batch.social, "amounts": batch.amounts},
        )
        return EncodedUsers(vectors, parts)

    def encode_items(self, id_vectors: FloatArray, text: FloatArray) -> FloatArray:
        """Return item vectors (B, D) float32 from id vectors (B, D) and text vectors (B, D_T)."""
        vectors: FloatArray = self._item.run(["vectors"], {"id_vector": id_vectors, "text": text})[0]
        return vectors


def _session(path: Path, model_id: str, threads: int | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    named = session.get_modelmeta().custom_metadata_map.get("model_id")
    if named != model_id:
        raise DamagedArtifactError(path, f"belongs to model {named!r}, not {model_id!r}")
    return session
