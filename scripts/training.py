"""The parts of `triptych train`: settings, the text model, the task head, and Weights & Biases."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from store.artifact import DamagedArtifactError, artifacts, read_pointer
from store.attributes import left_out_message, usable_attributes
from store.export import Export
from store.home import Home
from store.ledger import read_ledger
from store.tables import MAX_WEIGHT

if TYPE_CHECKING:
    from encoder.dataset import Dataset
    from encoder.fit import TrainOptions
    from encoder.heads import Head, HeadOptions, Task
    from encoder.heads.model import FrozenVectors, HeadRows
    from encoder.jobs import Jobs
    from encoder.learned.trainer import ReportEpoch
    from encoder.left_out import LeftOut
    from encoder.text import TextCache, TextEncoder
    from encoder.train import HeadTrainer
    from encoder.warm_start import WarmStart

log = logging.getLogger(__name__)


class FusionName(StrEnum):
    """What `--fusion` takes."""

    LEARNED = "learned"
    RIDGE = "ridge"
    MAXVAR = "maxvar"


class WandbMissingError(LookupError):
    """--wandb is given, and Weights & Biases is not installed."""

    def __init__(self) -> None:
        super().__init__("--wandb needs the package wandb: pip install wandb, or leave --wandb out")


def parse_actions(named: list[str]) -> dict[str, float]:
    """Return action weights from texts like "share=2".

    Raises:
        ValueError: a text is not NAME=NUMBER with a number from 0 to MAX_WEIGHT.
    """
    actions = {}
    for text in named:
        name, _, weight = text.partition("=")
        try:
            actions[name] = float(weight)
        except ValueError:
            raise ValueError(f"--action {text!r} is not NAME=NUMBER, such as share=2") from None
        if not name or not 0 <= actions[name] <= MAX_WEIGHT:
            raise ValueError(f"--action {text!r}: the weight must be a number from 0 to {MAX_WEIGHT:g}")
    return actions


def train_options(
    fusion: str,
    actions: dict[str, float],
    config: Path | None,
    epochs: int | None,
    members: int | None,
    seed: int,
) -> "TrainOptions":
    """Return the options of training from those of the command line, or from a file of `triptych tune`.

    Raises:
        SettingsError: the file is not JSON, or has a setting that is unknown or not of its kind.
    """
    from encoder.config import Fusion, SettingsError, TowerConfig
    from encoder.fit import TrainOptions
    from encoder.learned import LearnConfig

    if config is not None:
        try:
            values = json.loads(config.read_text("utf-8"))
        except ValueError as error:
            raise SettingsError(f"{config} is not JSON: {error}") from error
        learned = values.pop("learned", None) if isinstance(values, dict) else None
        learn = LearnConfig.from_json(learned) if learned else None
        return TrainOptions(base=TowerConfig.from_json(values), search=False, learn=learn, seed=seed)
    learn = None
    if fusion == "learned":
        given = {"epochs": epochs, "members": members}
        learn = replace(LearnConfig(seed=seed), **{k: v for k, v in given.items() if v is not None})
    closed = cast("Fusion", "ridge" if fusion == "learned" else fusion)
    return TrainOptions(base=TowerConfig(fusion=closed, actions=actions), learn=learn, seed=seed)


def model_directory(home: Home, named: str, option: str) -> Path:
    """Return the directory of the model that an option names: LATEST, or an id.

    Raises:
        typer.BadParameter: this home has no such model.
        NotPublishedError: LATEST is asked for, and there is no model yet.
    """
    if named == "LATEST":
        return read_pointer(home.latest_model, home.models)
    if named not in artifacts(home.models):
        raise typer.BadParameter(
            f"{home.models} has no such model as {named!r}: {option} takes LATEST, or the id of a model "
            "of this home; one of another home knows other items"
        )
    return home.models / named


def warm_start(home: Home, start_from: str | None) -> "WarmStart | None":
    """Return the model that --from names as the start of a training; None without --from.

    Raises:
        typer.BadParameter: this home has no such model.
        NotPublishedError: LATEST is asked for, and there is no model yet.
        NoWarmStartError: an earlier version made the model, which holds nothing to start from.
        DamagedArtifactError: the model, or the text model that it needs, is damaged or missing.
    """
    if start_from is None:
        return None
    from encoder.warm_start import WarmStart

    directory = model_directory(home, start_from, "--from")
    start = WarmStart.load(directory)
    text_model = home.text_models / start.text_model_id
    if not text_model.is_dir():
        raise DamagedArtifactError(text_model, f"is missing, and model {start.model_id} needs it")
    models = {one.model_id for one in start.chain}
    known = read_ledger(home.erasures) if home.erasures.exists() else []
    if erased := sum(not models.isdisjoint(one.models) for one in known):
        log.warning(
            "people were erased (%d) whose rows taught the weights to start from: to forget them there, too, "
            "run `triptych train` without --from", erased,
        )  # fmt: skip
    return start


def tuned_text_model(
    source: str,
    export: Export,
    home: Home,
    options: "TrainOptions",
    *,
    adapt: bool,
    method: str | None,
    pooling: str | None = None,
) -> str:
    """Return the text model to export: `source`, or the folder of one adapted or tuned on this data."""
    if not (adapt or method):
        return source
    from encoder.text import Pooling
    from encoder.text.tuning.options import AdaptOptions, Method, TuneOptions
    from encoder.text.tuning.pretrain import adapt_text_model
    from encoder.text.tuning.tune import tune_text_model

    pooled = cast("Pooling | None", pooling)
    users = export.users()
    unseen = options.left_out.user_rows(len(users)).nonzero()[0]
    left_out = frozenset(str(users[int(row)]) for row in unseen)
    if adapt:
        adapted = AdaptOptions(seed=options.seed, left_out_users=left_out, pooling=pooled)
        source = str(adapt_text_model(source, export, home.text_models, adapted))
    if method:
        ignored = frozenset(name for name, weight in options.base.actions.items() if not weight)
        tuned = TuneOptions(
            method=cast("Method", method),
            seed=options.seed,
            left_out_users=left_out,
            ignored_actions=ignored,
            pooling=pooled,
        )
        source = str(tune_text_model(source, export, home.text_models, tuned))
    return source


def encode_texts(
    home: Home, export: Export, encoder: "TextEncoder", cache: "TextCache", jobs: "Jobs"
) -> None:
    """Have workers encode the texts of an export that the cache lacks; without any, nothing is done."""
    from encoder.dataset import cache_texts
    from encoder.jobs import shared_folder

    if not jobs.in_this_process:
        with shared_folder(home) as folder:
            cache_texts(export, encoder, cache, jobs, folder)


def heads_to_fit(
    tasks: Sequence[str], label: str | None, seed: int, home: Home, start: "WarmStart | None"
) -> "dict[Task, HeadOptions]":
    """Return the options of the heads to fit by task: those asked for, and those that the start has."""
    from encoder.heads import HeadOptions, load_heads

    kept: dict[Task, HeadOptions] = {}
    if start is not None:
        kept = {task: head.options for task, head in load_heads(home.models / start.model_id).items()}
    of_task = {"category": label}
    asked = {cast("Task", task): HeadOptions(label=of_task.get(task), seed=seed) for task in tasks}
    return kept | asked


def head_trainer(
    export: Export, options: "TrainOptions", to_fit: "Mapping[Task, HeadOptions]"
) -> "HeadTrainer | None":
    """Check that the data can teach the tasks, and return the function that fits their heads, None for none.

    Without it the errors would come only after all texts are encoded and the tower is fitted.

    Raises:
        typer.BadParameter: an action is weighted that no behaviour has.
        NothingToLearnError: no behaviour is there, visible and of a weight above 0.
        LeftOutShareError: a share of users or items to leave out is of no use for this data.
        LabelError: the items do not have the label, or too few or too many classes of it.
        NoExamplesError: the rows cannot teach a task.
    """
    from encoder.dataset import load_without_texts
    from encoder.preflight import UnknownActionError, check_actions

    try:
        check_actions(export, options.base)
    except UnknownActionError as error:
        raise typer.BadParameter(str(error)) from error
    if not to_fit and not options.left_out:
        return None
    data = load_without_texts(export)
    left_out = options.left_out.draw(data)
    options.left_out.check(data, left_out, options.base)
    if not to_fit:
        return None
    return _trainer_of_heads(export, data, left_out, to_fit)


def fit_more_heads(home: Home, model_name: str, tasks: Sequence[str], label: str | None) -> Path:
    """Fit heads to a model as it is, on the export that it was trained on; return the new model's directory.

    Raises:
        typer.BadParameter: this home has no such model.
        NotPublishedError: LATEST is asked for, and there is no model yet.
        DamagedArtifactError: the model, its export or its text model is damaged or missing.
        LabelError, NoExamplesError: as `head_trainer`.
    """
    from contextlib import closing

    from encoder.dataset import load_without_texts
    from encoder.left_out import LeftOutIds
    from encoder.runtime import Model
    from encoder.text import TextCache, TextEncoder
    from encoder.train import add_heads

    directory = model_directory(home, model_name, "--heads-of")
    model = Model.load(directory)
    encoder = TextEncoder.load(home.text_models / model.text_model_id)
    with (
        Export.open(home.exports / model.export_id) as export,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        data = load_without_texts(export)
        left_out = LeftOutIds.load(directory).rows(data)
        trainer = _trainer_of_heads(export, data, left_out, heads_to_fit(tasks, label, 0, home, None))
        return add_heads(home, model, export, encoder, cache, trainer)


def _trainer_of_heads(
    export: Export,
    data: "Dataset",
    left_out: "LeftOut",
    to_fit: "Mapping[Task, HeadOptions]",
) -> "HeadTrainer":
    """Check that rows without their texts can teach the tasks; return what fits the heads."""
    from encoder.heads.model import check_head, train_head

    known = head_rows(export, data).without(left_out)
    for task, options in to_fit.items():
        check_head(task, known, options)

    def fit(whole: "Dataset", vectors: "FrozenVectors") -> "list[Head]":
        rows = replace(known, data=whole)
        return [train_head(task, rows, vectors, options)[0] for task, options in to_fit.items()]

    return fit


def head_rows(export: Export, data: "Dataset") -> "HeadRows":
    """Return what heads are taught and measured on, from an export that was read into arrays."""
    from encoder.heads.impressions import read_impressions
    from encoder.heads.model import HeadRows

    return HeadRows(data, *attributes_and_kinds(export), read_impressions(export, data))


def attributes_and_kinds(export: Export) -> tuple[list[dict[str, Any] | None], list[str | None]]:
    """Return the attributes and the kind of every item of an export, in the order of their ids.

    Attributes that cannot be used are None, and the log names their items.
    """
    items = export.items()
    ids, texts = (items.column(name).to_pylist() for name in ("item_id", "attributes"))
    usable, reasons = usable_attributes((i, text) for i, text in zip(ids, texts, strict=True) if text)
    if reasons:
        log.warning("train: %s", left_out_message(reasons))
    return [usable.get(item_id) for item_id in ids], items.column("kind").to_pylist()


@contextmanager
def wandb_report(options: "TrainOptions", *, wandb: bool) -> "Iterator[ReportEpoch | None]":
    """Yield a function that logs the figures of an epoch to Weights & Biases, or None without --wandb.

    Raises:
        WandbMissingError: it is not installed.
    """
    if not wandb:
        yield None
        return
    if find_spec("wandb") is None:
        raise WandbMissingError
    import wandb as client  # type: ignore[import-not-found,unused-ignore]

    settings = options.learn.as_json() if options.learn else {}
    run = client.init(project="triptych", config=options.base.as_json() | settings)
    try:
        # Several members each begin at epoch 1, and a step must not go back.
        yield lambda figures, epoch: run.log(figures | {"epoch": epoch})
    finally:
        run.finish()
