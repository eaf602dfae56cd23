"""triptych train: an export to a model."""

import json
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from scripts.session import HomeOption, existing, fresh_export


class FusionName(StrEnum):
    """What `--fusion` takes."""

    RIDGE = "ridge"
    MAXVAR = "maxvar"


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
    home: HomeOption,
    text_model: Annotated[
        str, typer.Option(help="A sentence-transformers id or folder.")
    ] = "all-MiniLM-L6-v2",
    precision: Annotated[
        Precision, typer.Option(help="int8 is faster and loses some recall.")
    ] = Precision.FP32,
    pooling: Annotated[Pooling | None, typer.Option(help="Default: what the text model itself says.")] = None,
    fusion: Annotated[FusionName, typer.Option(help="How views are aligned.")] = FusionName.RIDGE,
    dim: Annotated[
        int | None, typer.Option(min=2, max=4096, help="Embedding dim; default: chosen on valid.")
    ] = None,
    action: Annotated[
        list[str] | None, typer.Option(help="Weight of an action, e.g. share=2 or author=0.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings from `triptych tune`; nothing is searched then.")
    ] = None,
    holdout_users: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of users kept out of training.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of every random draw.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Not used: the closed form takes one pass.")
    ] = None,
) -> None:
    """Learn the user tower from a fresh export.

    Settings are chosen on held-out rows (valid, or a tenth of train), never on test.

    Example: triptych train --home demo
    """
    from encoder.config import TowerConfig
    from encoder.text import TextEncoder
    from encoder.text_cache import TextCache
    from encoder.text_export import export_text_model
    from encoder.train import METRICS_FILE, TrainOptions, train

    place, console = existing(home), Console()
    if epochs is not None:
        console.print("--epochs has no effect: the closed form takes one pass")
    base = TowerConfig(fusion=fusion.value, actions=parse_actions(action or []))
    if config is not None:
        if dim or action or fusion is not FusionName.RIDGE:
            raise typer.BadParameter("--config names every setting: leave --dim, --fusion and --action out")
        base = TowerConfig.from_json(json.loads(config.read_text("utf-8")))
    options = TrainOptions(
        base=base,
        search=config is None,
        dims=(dim,) if dim else TrainOptions.dims,
        left_out_share=holdout_users,
        seed=seed,
    )
    text_directory = export_text_model(
        text_model, place.text_models, precision=precision.value, pooling=pooling.value if pooling else None
    )
    encoder = TextEncoder.load(text_directory)
    with closing(TextCache.open(place.text_cache)) as cache, fresh_export(place) as export:
        directory = train(place, export, encoder, cache, options)
    metrics = json.loads((directory / METRICS_FILE).read_text("utf-8"))
    views = ", ".join(
        f"{view} {'present' if there else 'absent'}" for view, there in metrics["views"].items()
    )
    chosen = f", NDCG@20 {metrics['ndcg@20']:.4f} on {metrics['chosen_on']}" if metrics["chosen_on"] else ""
    console.print(f"model {directory.name}: {views}{chosen}")


def parse_actions(named: list[str]) -> dict[str, float]:
    """Return action weights from texts like "share=2".

    Raises:
        ValueError: a text is not NAME=NUMBER with a number that is not negative.
    """
    actions = {}
    for text in named:
        name, _, weight = text.partition("=")
        try:
            actions[name] = float(weight)
        except ValueError:
            raise ValueError(f"--action {text!r} is not NAME=NUMBER, such as share=2") from None
        if not name or not 0 <= actions[name] < float("inf"):
            raise ValueError(f"--action {text!r}: the weight must be a number that is not negative")
    return actions
