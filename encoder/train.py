"""Training: from an export to a complete model directory that models/LATEST names."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from encoder.dataset import Dataset, load_dataset
from encoder.drift.measure import measure_reference
from encoder.fit import TrainOptions, fit
from encoder.heads import OLD_FILES, Head, save_head
from encoder.heads.model import FrozenVectors
from encoder.jobs import IN_PROCESS, Jobs, shared_folder
from encoder.learned import remove_checkpoints
from encoder.learned.parallel import TrainingWorkers
from encoder.left_out import LeftOut, LeftOutIds
from encoder.model_files import ITEM_GRAPH, METRICS_FILE, USER_GRAPH
from encoder.preflight import check_actions, known_actions, warn_of_weights
from encoder.retrain import retrain
from encoder.runtime import (
    CONFIG_FILE,
    CONTENT_FILE,
    ITEMS_FILE,
    TABLES_FILE,
    Model,
    NotFiniteModelError,
)
from encoder.text import TextCache, TextEncoder
from encoder.tower import Tower, measure_collapse
from encoder.tower.onnx import export_towers
from encoder.warm_start import CHAIN_KEY, METRICS_KEY, Kept, Origin
from store.artifact import MANIFEST, build, new_id, set_pointer
from store.export import Export
from store.home import Home

if TYPE_CHECKING:
    from encoder.learned.trainer import ReportEpoch

log = logging.getLogger(__name__)

HeadTrainer = Callable[[Dataset, FrozenVectors], list[Head]]
"""Fits heads to a data set without the users that are left out, and to frozen vectors."""

PARITY = 1e-5


class ParityError(RuntimeError):
    """An exported graph disagrees with its reference."""

    def __init__(self, tower: str, difference: float) -> None:
        super().__init__(
            f"the exported {tower} tower differs from its reference by {difference:.2e} > {PARITY}"
        )
        self.difference = difference


def train(
    home: Home,
    export: Export,
    encoder: TextEncoder,
    cache: TextCache,
    options: TrainOptions,
    report: "ReportEpoch | None" = None,
    heads: HeadTrainer | None = None,
    jobs: Jobs = IN_PROCESS,
) -> Path:
    """Train a model on an export, name it in models/LATEST, and return its directory.

    Settings are chosen on the valid split; without one, on a tenth of train, and everything is then fitted
    once more on the whole of train. With a start in the options, settings and left-out users are those of
    that model, and nothing is searched.

    Args:
        home: where models lie.
        export: the data.
        encoder: the language model.
        cache: of its vectors.
        options: of training.
        report: takes the figures of each epoch of a learned block.
        heads: fits task heads to the data and the vectors; None fits none.
        jobs: train learned blocks together with this process.

    Raises:
        NothingToLearnError: the export has no visible behaviour that counts.
        UnknownActionError: an action is weighted that no behaviour has.
        LeftOutShareError: a share of users or items to leave out is of no use for this data.
        LearningDivergedError: the loss of a learned block is infinite or no number.
        NotFiniteModelError: a number of the model is not finite; nothing is published.
        ParityError: the exported graph does not compute what was fitted.
        OtherTextModelError, UnknownItemsError, StartMismatchError: the start is of no use for this data.
        WorkersLostError, PartFailedError: workers were lost again and again, or one raised an error.
    """
    start = time.perf_counter()
    origin = options.start
    check_actions(
        export, options.base if origin is None else known_actions(export, origin.kept.settings.closed)
    )
    warn_of_weights(export)
    data = load_dataset(export, encoder, cache)
    encoded = time.perf_counter()
    if origin is None:
        left_out = options.left_out.draw(data)
        options.left_out.check(data, left_out, options.base)
        data = left_out.apart_from(data)
        with _workers(home, jobs, learns=options.learn is not None) as workers:
            fitted = fit(data, options, home.training, report, workers)
    else:
        origin.check(data, encoder.text_model_id)
        left_out = origin.left_out.rows(data)
        data = left_out.apart_from(data)
        with _workers(home, jobs, learns=origin.kept.settings.learn is not None) as workers:
            fitted = retrain(data, origin, home.training, report, workers)
    seconds = {"encode": encoded - start, "fit": time.perf_counter() - encoded}
    tower = fitted.tower
    metrics = fitted.facts | {"seconds": seconds}
    made: list[Head] = []
    if heads is not None:
        vectors = FrozenVectors(
            lambda some, users: tower.vectors(tower.views(some, users)).astype(np.float32),
            tower.item_vectors(data),
        )
        made = heads(data, vectors)
        metrics["heads"] = {head.task: head.metrics for head in made}
    chain = () if origin is None else origin.chain
    directory = save_model(
        home.models, tower, data, left_out, export.export_id, encoder, metrics, made, fitted.kept, chain
    )
    set_pointer(home.latest_model, directory.name)
    remove_checkpoints(home.training)
    return directory


@contextmanager
def _workers(home: Home, jobs: Jobs, *, learns: bool) -> Iterator[TrainingWorkers | None]:
    """Yield the workers that train learned blocks; None where there are none, or nothing to learn."""
    if jobs.in_this_process or not learns:
        yield None
        return
    with shared_folder(home) as folder:
        yield TrainingWorkers(jobs, folder)


def save_model(
    models: Path,
    tower: Tower,
    data: Dataset,
    left_out: LeftOut,
    export_id: str,
    encoder: TextEncoder,
    metrics: dict[str, Any],
    heads: Sequence[Head] = (),
    kept: Kept | None = None,
    chain: Sequence[Origin] = (),
) -> Path:
    """Write a new model, check it against its float64 reference, and only then rename it into place.

    Args:
        models: the folder of models.
        tower: what was fitted.
        data: on which.
        left_out: what training never saw.
        export_id: of the data.
        encoder: the language model.
        metrics: what metrics.json says.
        heads: the task heads that were fitted.
        kept: the parts that the next training can start from.
        chain: the models that this one was started from, the first training first.

    Returns:
        Its directory.

    Raises:
        NotFiniteModelError: a number of the model is not finite.
        ParityError: the exported graph does not compute what was fitted.
    """
    model_id = new_id()
    facts = {"kind": "model", "export_id": export_id, "text_model_id": encoder.text_model_id}
    popularity = np.asarray(data.seen.sum(axis=0), dtype=np.float32)
    with build(models, model_id) as draft:
        draft.facts = facts | {
            "dim": tower.id_vectors.shape[1],
            "users": len(data.users),
            "items": len(data.items),
            "settings": tower.config.as_json(),
            CHAIN_KEY: [one._asdict() for one in chain],
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
        left_out.save(data, draft.path)
        (draft.path / CONFIG_FILE).write_text(json.dumps(tower.config.as_json(), indent=2), "utf-8")
        if tower.content is not None:
            content = json.dumps(tower.content.encoder.as_json(), ensure_ascii=False)
            (draft.path / CONTENT_FILE).write_text(content, "utf-8")
        for head in heads:
            save_head(head, draft.path)
        if kept is not None:
            kept.save(draft.path)
            metrics = metrics | {METRICS_KEY: kept.settings.as_json()}
        check_finite(draft.path)
        with_collapse = metrics | {"people": asdict(measure_collapse(tower, data))}
        (draft.path / METRICS_FILE).write_text(json.dumps(with_collapse, indent=2), "utf-8")
        reference = measure_reference(tower, data)
        if reference is not None:
            reference.save(draft.path)
        _check_parity(Model(draft.path, model_id, draft.facts), tower, data)
    return models / model_id


def add_heads(
    home: Home, model: Model, export: Export, encoder: TextEncoder, cache: TextCache, heads: HeadTrainer
) -> Path:
    """Fit heads to the vectors of a model as it is; make it a new model with them, the new LATEST.

    The files are those of the model, with the id of the new one; heads of other tasks go along. The index of
    the old model does not serve the new one.

    Args:
        home: of the model.
        model: whose vectors the heads are fitted on.
        export: that the model was trained on.
        encoder: its language model.
        cache: of its vectors.
        heads: fits the heads.

    Raises:
        NotFiniteModelError: a number of a head is not finite; nothing is published.
    """
    old, model_id = home.models / model.model_id, new_id()
    data = load_dataset(export, encoder, cache)
    data = LeftOutIds.load(old).rows(data).apart_from(data)
    made = heads(data, FrozenVectors.of_model(model, data))
    with build(home.models, model_id) as draft:
        draft.facts = {name: value for name, value in model.manifest.items() if name != "files"}
        for path in old.iterdir():
            if path.is_file() and path.name != MANIFEST:
                shutil.copy2(path, draft.path / path.name)
        for name in (USER_GRAPH, ITEM_GRAPH):
            _rename_graph(draft.path / name, model_id)
        fitted = {head.task: head for head in made}
        for head in (model.heads | fitted).values():
            save_head(head, draft.path)
        for old_name in OLD_FILES:
            (draft.path / old_name).unlink(missing_ok=True)
        metrics = json.loads((old / METRICS_FILE).read_text("utf-8"))
        metrics["heads"] = metrics.get("heads", {}) | {head.task: head.metrics for head in made}
        (draft.path / METRICS_FILE).write_text(json.dumps(metrics, indent=2), "utf-8")
        check_finite(draft.path)
    set_pointer(home.latest_model, model_id)
    return home.models / model_id


def _rename_graph(path: Path, model_id: str) -> None:
    """Make the graph at a path one of the model `model_id`."""
    graph = onnx.load(path)
    facts = {one.key: one.value for one in graph.metadata_props} | {"model_id": model_id}
    onnx.helper.set_model_props(graph, facts)
    onnx.save(graph, path)


def check_finite(directory: Path) -> None:
    """Check that every number of a model's tables and graphs is finite.

    Raises:
        NotFiniteModelError: names the tensor.
    """
    for name, values in _tensors(directory):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise NotFiniteModelError(directory, name)


def _tensors(directory: Path) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield every tensor of a model by its name, <file>: <tensor>."""
    for path in sorted(directory.rglob("*.safetensors")):
        for name, values in load_file(path).items():
            yield f"{path.name}: {name}", values
    for path in sorted(directory.rglob("*.onnx")):
        for tensor in onnx.load(path).graph.initializer:
            yield f"{path.name}: {tensor.name}", onnx.numpy_helper.to_array(tensor)


def _check_parity(model: Model, tower: Tower, data: Dataset, users: int = 512) -> None:
    """Compare the graphs with the reference on the first users and items.  Raises: ParityError."""
    sample = tower.views(data, np.arange(min(users, len(data.users))))
    difference = float(np.abs(model.encode_users(sample).parts - tower.parts(sample)).max(initial=0.0))
    if not difference <= PARITY:
        raise ParityError("user", difference)
    if tower.content is None:
        return
    raw = data.item_content.take(np.arange(min(users, len(data.items))))
    content, none = model.content_encoder.encode(raw), np.zeros((len(raw), model.dim), np.float32)
    wanted = tower.content.maps.vectors(content)
    difference = float(np.abs(model.encode_items(none, content) - wanted).max(initial=0.0))
    if not difference <= PARITY * max(1.0, float(np.abs(wanted).max(initial=0.0))):
        raise ParityError("item", difference)
