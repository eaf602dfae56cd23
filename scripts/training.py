"""What `triptych train` puts together: settings, the text model, the task head and who hears of figures."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from store.attributes import left_out, sorted_out
from store.export import Export
from store.home import Home

if TYPE_CHECKING:
    from encoder.fit import TrainOptions
    from encoder.learn import Report
    from encoder.train import HeadOf

log = logging.getLogger(__name__)


class WandbMissingError(LookupError):
    """Weights & Biases was asked for and is not installed."""

    def __init__(self) -> None:
        super().__init__("--wandb needs the package wandb: pip install wandb, or leave --wandb out")


def train_options(
    fusion: str,
    actions: dict[str, float],
    config: Path | None,
    epochs: int | None,
    members: int | None,
    seed: int,
) -> "TrainOptions":
    """Return the options of training from what the command line said, or from a file of `triptych tune`.

    Raises:
        SettingsError: the file has a setting that is missing, unknown or not of its kind.
    """
    from encoder.config import Fusion, TowerConfig
    from encoder.fit import TrainOptions
    from encoder.learn_config import LearnConfig

    if config is not None:
        values = json.loads(config.read_text("utf-8"))
        learned = values.pop("learned", None)
        learn = LearnConfig.from_json(learned) if learned else None
        return TrainOptions(base=TowerConfig.from_json(values), search=False, learn=learn, seed=seed)
    learn = None
    if fusion == "learned":
        asked = {"epochs": epochs, "members": members}
        learn = replace(LearnConfig(seed=seed), **{k: v for k, v in asked.items() if v is not None})
    closed = cast("Fusion", "ridge" if fusion == "learned" else fusion)
    return TrainOptions(base=TowerConfig(fusion=closed, actions=actions), learn=learn, seed=seed)


def tuned_source(
    source: str,
    export: Export,
    home: Home,
    options: "TrainOptions",
    *,
    adapt: bool,
    method: str | None,
    pooling: str | None = None,
) -> str:
    """Return the text model to export: `source` itself, or a folder with what it became on this data."""
    if not (adapt or method):
        return source
    from encoder.text_adapt import adapt_text_model
    from encoder.text_options import AdaptOptions, Method, TuneOptions
    from encoder.text_source import Pooling
    from encoder.text_tune import tune_text_model
    from encoder.train import left_out_users

    pooled = cast("Pooling | None", pooling)
    users = export.users()
    unseen = left_out_users(len(users), options).nonzero()[0]
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


def head_of(task: str, label: str | None, seed: int) -> "Callable[[Export], HeadOf] | None":
    """Return what fits the task head to an export's data, or None for plain retrieval.

    Raises:
        HeadOptionsError: an option makes no sense for the task.
    """
    if task == "retrieval":
        return None
    from encoder.heads import train_head
    from encoder.heads_options import HeadOptions, Task

    options = HeadOptions(label=label, seed=seed)

    def of_export(export: Export) -> "HeadOf":
        attributes, kinds = item_facts(export)
        return lambda data, users, items: train_head(
            cast("Task", task), data, attributes, kinds, users, items, options
        )

    return of_export


def item_facts(export: Export) -> tuple[list[dict[str, Any] | None], list[str | None]]:
    """Return the attributes and the kind of every item of an export, in the order of their ids.

    Attributes that cannot be used are None, and the log names their items.
    """
    items = export.items()
    ids, texts = (items.column(name).to_pylist() for name in ("item_id", "attributes"))
    usable, reasons = sorted_out((i, text) for i, text in zip(ids, texts, strict=True) if text)
    if reasons:
        log.warning("train: %s", left_out(reasons))
    return [usable.get(item_id) for item_id in ids], items.column("kind").to_pylist()


@contextmanager
def reporting(options: "TrainOptions", *, wandb: bool) -> "Iterator[Report | None]":
    """Yield what takes the figures of an epoch to Weights & Biases, or None where that is not asked for.

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
