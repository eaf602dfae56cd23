"""Training, from an export to a published model directory."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from encoder.dataset import Dataset, load_dataset
from encoder.export import export_towers
from encoder.fit import TrainOptions, fit
from encoder.heads_runtime import Head, save_head
from encoder.learn_config import CHECKPOINT_FILE
from encoder.runtime import CONFIG_FILE, ITEMS_FILE, LEFT_OUT_FILE, TABLES_FILE, Model
from encoder.text import TextEncoder
from encoder.text_cache import TextCache
from encoder.tower import Tower
from encoder.views import FloatArray
from store.artifact import build, new_id, point
from store.export import Export
from store.home import Home

if TYPE_CHECKING:
    from encoder.learn import Report

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
HeadOf = Callable[[Dataset, FloatArray, FloatArray], tuple[Head, dict[str, Any]]]
PARITY = 1e-5


class NothingToLearnError(ValueError):
    """The export has no visible behaviour to learn item vectors from."""


class ParityError(RuntimeError):
    """An exported graph disagrees with the float64 reference."""

    def __init__(self, difference: float) -> None:
        super().__init__(
            f"the exported user tower differs from its float64 reference by {difference:.2e} > {PARITY}"
        )
        self.difference = difference


def train(
    home: Home,
    export: Export,
    encoder: TextEncoder,
    cache: TextCache,
    options: TrainOptions,
    report: "Report | None" = None,
    head: HeadOf | None = None,
) -> Path:
    """Return the directory of a new model, trained on an export and named by models/LATEST.

    Settings are chosen on the valid split; without one, on a tenth of train, and everything is then fitted
    once more on the whole of train.

    Args:
        home: where models lie.
        export: the data.
        encoder: the language model.
        cache: the vectors that it gave so far.
        options: what is asked for.
        report: takes the figures of each epoch of a learned block.
        head: gives the task head of (data, user vectors, item vectors), if one is asked for.

    Raises:
        NothingToLearnError: the export has no visible behaviour.
        ParityError: the exported graph does not compute what was fitted.
    """
    start = time.perf_counter()
    data = load_dataset(export, encoder, cache)
    encoded = time.perf_counter()
    left_out = left_out_users(len(data.users), options)
    data = data.without_users(left_out)
    if not len(data.history.users):
        raise NothingToLearnError(f"export {export.export_id} has no visible behaviour to learn from")
    fitted = fit(data, options, home.training, report)
    seconds = {"encode": encoded - start, "fit": time.perf_counter() - encoded}
    metrics = fitted.facts | {"seconds": seconds}
    tower = fitted.tower
    made = None
    if head is not None:
        users = tower.vectors(tower.views(data)).astype(np.float32)
        made, metrics["head"] = head(data, users, tower.item_vectors(data.item_text))
    directory = save_model(home.models, tower, data, left_out, export.export_id, encoder, metrics, made)
    point(home.latest_model, directory.name)
    for checkpoint in home.training.glob(f"*/{CHECKPOINT_FILE}"):
        checkpoint.unlink()  # the model is there; TensorBoard's files stay
    return directory


def save_model(
    models: Path,
    tower: Tower,
    data: Dataset,
    left_out: npt.NDArray[np.bool_],
    export_id: str,
    encoder: TextEncoder,
    metrics: dict[str, Any],
    head: Head | None = None,
) -> Path:
    """Return the directory of a new model, checked against its reference before it was renamed into place."""
    model_id = new_id()
    facts = {"kind": "model", "export_id": export_id, "text_model_id": encoder.text_model_id}
    popularity = np.asarray(data.seen.sum(axis=0), dtype=np.float32)
    with build(models, model_id) as draft:
        draft.facts = facts | {
            "dim": tower.id_vectors.shape[1],
            "users": len(data.users),
            "items": len(data.items),
            "settings": tower.config.as_json(),
        }
        export_towers(tower, draft.path, facts | {"model_id": model_id})
        widths = np.array(tower.widths, dtype=np.int64)
        tables: dict[str, npt.NDArray[Any]] = {
            "table": tower.table,
            "widths": widths,
            "id_vectors": tower.id_vectors,
        }
        save_file(tables, draft.path / TABLES_FILE)
        items = pa.table({"item_id": data.items, "popularity": popularity})
        pq.write_table(items, draft.path / ITEMS_FILE)
        pq.write_table(
            pa.table({"user_id": data.users.filter(pa.array(left_out))}), draft.path / LEFT_OUT_FILE
        )
        (draft.path / CONFIG_FILE).write_text(json.dumps(tower.config.as_json(), indent=2), "utf-8")
        (draft.path / METRICS_FILE).write_text(json.dumps(metrics, indent=2), "utf-8")
        if head is not None:
            save_head(head, draft.path)
        _check_parity(Model(draft.path, model_id, draft.facts), tower, data)
    return models / model_id


def left_out_users(users: int, options: TrainOptions) -> npt.NDArray[np.bool_]:
    """Return which of the users, sorted by id, training never sees, (users,) bool."""
    if not options.left_out_share:
        return np.zeros(users, dtype=bool)
    return np.random.default_rng(options.seed).random(users) < options.left_out_share


def _check_parity(model: Model, tower: Tower, data: Dataset, users: int = 512) -> None:
    sample = tower.views(data, np.arange(min(users, len(data.users))))
    difference = float(np.abs(model.encode_users(sample).parts - tower.parts(sample)).max(initial=0.0))
    if difference > PARITY:
        raise ParityError(difference)
