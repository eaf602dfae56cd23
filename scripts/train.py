"""triptych train: an export to a model."""

import json
from contextlib import closing
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from scripts.artifacts import CacheOption, PlaceOption, WorkingHome, working_home
from scripts.home_access import shared_text_models
from scripts.terminal import JobsOption, RayOption, workers
from scripts.training import (
    FusionName,
    encode_texts,
    fit_more_heads,
    head_trainer,
    heads_to_fit,
    parse_actions,
    train_options,
    tuned_text_model,
    wandb_report,
    warm_start,
)
from store.artifact import read_manifest
from store.objects import LATEST

_TEXT_MODEL = "all-MiniLM-L6-v2"
_MAX_DIM = 512
_Named = TypeVar("_Named", str, str | None)  # LATEST, or the id of a model


class TuneMethod(StrEnum):
    """What `--tune-text` takes."""

    LORA = "lora"
    ADALORA = "adalora"


class TaskName(StrEnum):
    """What `--task` takes."""

    RETRIEVAL = "retrieval"
    CLICK = "click"
    RATING = "rating"
    CATEGORY = "category"


class Precision(StrEnum):
    """What `--precision` takes."""

    FP32 = "fp32"
    INT8 = "int8"


class Pooling(StrEnum):
    """What `--pooling` takes."""

    MEAN = "mean"
    CLS = "cls"
    LAST = "lasttoken"


def train_command(
    home: PlaceOption,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="LATEST, or the id of a model of this home: start from it and keep its settings, a third of "
            "the time. What it learned of people who were erased since stays in the weights until a training "
            "without --from.",
        ),
    ] = None,
    text_model: Annotated[str, typer.Option(help="A sentence-transformers id or folder.")] = _TEXT_MODEL,
    precision: Annotated[
        Precision, typer.Option(help="int8 is faster and loses some recall.")
    ] = Precision.FP32,
    pooling: Annotated[Pooling | None, typer.Option(help="Default: what the text model itself says.")] = None,
    adapt_text: Annotated[
        bool, typer.Option("--adapt-text", help="First train the text model on all texts, without labels.")
    ] = False,
    tune_text: Annotated[
        TuneMethod | None, typer.Option(help="Fine-tune the text model: users' texts to their items' texts.")
    ] = None,
    fusion: Annotated[
        FusionName, typer.Option(help="learned: beside the closed form; ridge, maxvar: closed form alone.")
    ] = FusionName.LEARNED,
    dim: Annotated[
        int | None, typer.Option(min=2, max=4096, help="Dim of the closed form; default: chosen on valid.")
    ] = None,
    max_dim: Annotated[
        int, typer.Option(min=2, max=4096, help="Embedding dim of the whole tower, at most.")
    ] = _MAX_DIM,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="At most; it stops when valid no longer improves.")
    ] = None,
    members: Annotated[
        int | None, typer.Option(min=1, max=16, help="Learned blocks, from different seeds.")
    ] = None,
    action: Annotated[
        list[str] | None, typer.Option(help="Weight of an action, e.g. share=2 or author=0.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings from `triptych tune`; nothing is searched then.")
    ] = None,
    task: Annotated[
        list[TaskName] | None,
        typer.Option(help="Also fit a head for this on the user vector, for Predict; may be repeated."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="For --task category: an item attribute, e.g. attributes.genre.")
    ] = None,
    heads_of: Annotated[
        str | None,
        typer.Option(
            help="LATEST, or the id of a model of this home: only fit the heads of --task, to its vectors "
            "and the data it was trained on. That makes a new model of the same vectors; then reindex."
        ),
    ] = None,
    holdout_users: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of users kept out of training.")
    ] = 0.0,
    holdout_items: Annotated[
        float,
        typer.Option(min=0.0, max=0.9, help="Share of items kept out of training; evaluate reports on them."),
    ] = 0.0,
    wandb: Annotated[
        bool,
        typer.Option("--wandb", help="Log to Weights & Biases, too (TensorBoard: HOME/training)."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of every random draw.")] = 0,
    cache: CacheOption = None,
    jobs: JobsOption = "1",
    ray: RayOption = None,
) -> None:
    """Learn the user tower from a fresh export.

    Settings are chosen on held-out rows (valid, or a tenth of train), never on test; where fewer than 50
    users have any, they are safe ones: a damped closed form of low rank. A run that was killed goes on from
    its last checkpoint when it is started again on the same data.

    Every day, triptych train --home demo --from LATEST trains the last model on, with its settings, and fits
    its heads again. Now and then, and where the data has changed much, a training without --from chooses them
    anew.

    In s3://bucket/home it takes the newest export there; the model is uploaded, and becomes the latest one
    unless another was made meanwhile.

    With --jobs or --ray several workers encode the texts, and train the learned blocks together: with --jobs
    two of this machine, with --ray one on each machine. The rest of training takes place here.

    Example: triptych train --home demo
    """
    from encoder.left_out import LeftOutShares
    from encoder.text import TextCache, TextEncoder
    from encoder.text.export import export_text_model
    from encoder.train import train

    console = Console()
    tasks = [one.value for one in task or [] if one is not TaskName.RETRIEVAL]
    kept = (text_model != _TEXT_MODEL, precision is not Precision.FP32, pooling, adapt_text, tune_text,
            fusion is not FusionName.LEARNED, dim, max_dim != _MAX_DIM, epochs, members, action, config,
            holdout_users, holdout_items, seed)  # fmt: skip
    if start_from is not None and any(kept):
        raise typer.BadParameter("--from keeps the settings of that model: leave the other options out")
    if config is not None and (dim or action or epochs or members or fusion is not FusionName.LEARNED):
        raise typer.BadParameter("--config names every setting: leave the others out")
    if holdout_items and (tune_text or adapt_text):
        raise typer.BadParameter(
            "--holdout-items cannot be kept with --tune-text or --adapt-text, which read all"
        )
    if label is not None and "category" not in tasks:
        raise typer.BadParameter("--label is for --task category")
    if label is None and "category" in tasks:
        raise typer.BadParameter("--task category needs a --label, such as kind or attributes.genre")
    if heads_of is not None:
        if start_from is not None or any(kept):
            raise typer.BadParameter("--heads-of takes --task and --label only: it trains no tower")
        if not tasks:
            raise typer.BadParameter("--heads-of needs a --task: click, rating or category")
        with working_home(home, cache) as work:
            heads_of = _fetched_model(work, heads_of, with_export=True)
            directory = fit_more_heads(work.home, heads_of, tasks, label)
            work.model_made(directory)
            _print_model(console, directory)
        return
    options = train_options(fusion.value, parse_actions(action or []), config, epochs, members, seed)
    with working_home(home, cache) as work:
        place = work.home
        start_from = _fetched_model(work, start_from)
        options = replace(
            options,
            dims=(dim,) if dim else options.dims,
            max_dim=max_dim,
            left_out=LeftOutShares(holdout_users, holdout_items, seed),
            start=warm_start(place, start_from),
        )
        with work.export() as export, wandb_report(options, wandb=wandb) as report:
            to_fit = heads_to_fit(tasks, label, options.seed, place, options.start)
            heads = head_trainer(export, options, to_fit)
            if options.start is not None:
                text_directory = place.text_models / options.start.text_model_id
            else:
                source = tuned_text_model(
                    text_model, export, place, options, adapt=adapt_text,
                    method=tune_text and tune_text.value, pooling=pooling and pooling.value,
                )  # fmt: skip
                text_directory = export_text_model(
                    source,
                    place.text_models,
                    precision=precision.value,
                    pooling=pooling.value if pooling else None,
                    export=export,
                    # A tuned one is of this home.
                    shared=shared_text_models() if source == text_model else None,
                )
            encoder = TextEncoder.load(text_directory)
            with closing(TextCache.open(place.text_cache)) as texts, workers(jobs, ray) as working:
                encode_texts(place, export, encoder, texts, working)
                directory = train(place, export, encoder, texts, options, report, heads, working)
        work.model_made(directory)
        _print_model(console, directory)


def _fetched_model(work: WorkingHome, named: _Named, *, with_export: bool = False) -> _Named:
    """Return the id of the model that --from or --heads-of names, fetched where a bucket has it.

    Without one, fetch the text model of the latest one, so that it is taken again.

    Raises:
        NotPublishedError: LATEST is asked for, and there is no model yet.
    """
    if not work.in_bucket:
        return named
    latest = work.before[LATEST].artifact_id
    if named is None:
        if latest:
            work.fetch("text_models", work.place.manifest("models", latest)["text_model_id"])
        return named
    directory = work.named(LATEST) if named == "LATEST" else None
    if directory is None and named in work.place.ids("models"):
        directory = work.fetch("models", named)
    if directory is None:
        return named  # what needs it says that there is none
    if with_export:
        work.fetch("exports", read_manifest(directory)["export_id"])
    return directory.name


def _print_model(console: Console, directory: Path) -> None:
    from encoder.model_files import METRICS_FILE

    metrics = json.loads((directory / METRICS_FILE).read_text("utf-8"))
    views = ", ".join(
        f"{view} {'present' if there else 'absent'}" for view, there in metrics["views"].items()
    )
    chosen = f", NDCG@20 {metrics['ndcg@20']:.4f} on {metrics['chosen_on']}" if metrics["chosen_on"] else ""
    heads = f", heads: {', '.join(metrics['heads'])}" if metrics.get("heads") else ""
    console.print(f"model {directory.name}: {views}{chosen}{heads}")
