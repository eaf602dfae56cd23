"""Training, from an export to a published model directory."""

import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from encoder.choose import Trial, choose_config
from encoder.config import TowerConfig
from encoder.dataset import Dataset, hold_out, load_dataset
from encoder.export import export_towers
from encoder.runtime import CONFIG_FILE, ITEMS_FILE, LEFT_OUT_FILE, TABLES_FILE, Model
from encoder.text import TextEncoder
from encoder.text_cache import TextCache
from encoder.tower import Tower, dataset_views, fit_tower
from evaluation.split import VALID, mark
from store.artifact import build, new_id, point
from store.export import Export
from store.home import Home

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
PARITY = 1e-5
_INNER_SHARE = 0.1


class NothingToLearnError(ValueError):
    """The export has no visible behaviour to learn item vectors from."""


class ParityError(RuntimeError):
    """An exported graph disagrees with the float64 reference."""

    def __init__(self, difference: float) -> None:
        super().__init__(
            f"the exported user tower differs from its float64 reference by {difference:.2e} > {PARITY}"
        )
        self.difference = difference


@dataclass(frozen=True)
class TrainOptions:
    """What a person may ask of training; the rest is chosen on held-out rows.

    Attributes:
        base: settings that are not searched (fusion, actions) and, with `search` off, all of them.
        search: whether to choose the settings on held-out rows.
        dims: embedding dims to choose from.
        left_out_share: share of users that training never sees, reported apart by `evaluate`.
        seed: of every random draw.
    """

    base: TowerConfig = field(default_factory=TowerConfig)
    search: bool = True
    dims: tuple[int, ...] = (64, 128, 256, 512)
    left_out_share: float = 0.0
    seed: int = 0


def train(home: Home, export: Export, encoder: TextEncoder, cache: TextCache, options: TrainOptions) -> Path:
    """Return the directory of a new model, trained on an export and named by models/LATEST.

    Raises:
        NothingToLearnError: the export has no visible behaviour.
        ParityError: the exported graph does not compute what was fitted.
    """
    start = time.perf_counter()
    data = load_dataset(export, encoder, cache)
    encoded = time.perf_counter()
    left_out = _left_out(len(data.users), options)
    data = data.without_users(left_out)
    if not len(data.history.users):
        raise NothingToLearnError(f"export {export.export_id} has no visible behaviour to learn from")
    trials, split = _choose(data, export, encoder, cache, options)
    config = trials[-1].config if trials else options.base
    tower = fit_tower(data, config)
    metrics = {
        "chosen_on": split,
        "ndcg@20": trials[-1].ndcg if trials else None,
        "trials": [{"config": t.config.as_json(), "ndcg@20": t.ndcg} for t in trials],
        "views": {"H": True, "T": bool(data.text.any()), "S": bool(data.ties.nnz)},
        "seconds": {"encode": encoded - start, "fit": time.perf_counter() - encoded},
    }
    directory = save_model(home.models, tower, data, left_out, export.export_id, encoder, metrics)
    point(home.latest_model, directory.name)
    return directory


def save_model(
    models: Path,
    tower: Tower,
    data: Dataset,
    left_out: npt.NDArray[np.bool_],
    export_id: str,
    encoder: TextEncoder,
    metrics: dict[str, Any],
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
        save_file({"table": tower.table, "id_vectors": tower.id_vectors}, draft.path / TABLES_FILE)
        items = pa.table({"item_id": data.items, "popularity": popularity})
        pq.write_table(items, draft.path / ITEMS_FILE)
        pq.write_table(
            pa.table({"user_id": data.users.filter(pa.array(left_out))}), draft.path / LEFT_OUT_FILE
        )
        (draft.path / CONFIG_FILE).write_text(json.dumps(tower.config.as_json(), indent=2), "utf-8")
        (draft.path / METRICS_FILE).write_text(json.dumps(metrics, indent=2), "utf-8")
        _check_parity(Model(draft.path, model_id, draft.facts), tower, data)
    return models / model_id


def _left_out(users: int, options: TrainOptions) -> npt.NDArray[np.bool_]:
    if not options.left_out_share:
        return np.zeros(users, dtype=bool)
    return np.random.default_rng(options.seed).random(users) < options.left_out_share


def _choose(
    data: Dataset, export: Export, encoder: TextEncoder, cache: TextCache, options: TrainOptions
) -> tuple[list[Trial], str | None]:
    """Return the trials, best last, and the split that they were chosen on."""
    if not options.search:
        return [], None
    if "valid" in data.held_out:
        return choose_config(data, "valid", options.base, options.dims), "valid"
    rows = data.history
    share = _INNER_SHARE
    inner = mark("random", rows.users, rows.items, rows.ts, valid=share, test=0.0, seed=options.seed) == VALID
    log.info("no valid split: choosing on %d train rows held out by event group, then one refit", inner.sum())
    if not inner.any():
        return [], None
    held = hold_out(data, inner, "inner", export, encoder, cache)
    return choose_config(held, "inner", options.base, options.dims), "a tenth of train"


def _check_parity(model: Model, tower: Tower, data: Dataset, users: int = 512) -> None:
    sample = dataset_views(data, data.events(tower.config), tower.table).rows(slice(users))
    difference = float(np.abs(model.encode_users(sample).parts - tower.parts(sample)).max(initial=0.0))
    if difference > PARITY:
        raise ParityError(difference)
