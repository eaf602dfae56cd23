"""triptych tune: settings chosen by Optuna on valid, for `triptych train --config`."""

import hashlib
import json
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scripts.session import HomeOption, existing, fresh_export
from scripts.train import FusionName, parse_actions
from store.artifact import NotPublishedError, pointed
from store.export import Export
from store.home import Home

if TYPE_CHECKING:
    from encoder.config import TowerConfig

TUNED_FILE = "tuned.json"
STUDIES_FILE = "tune.db"


def tune_command(
    home: HomeOption,
    trials: Annotated[int, typer.Option(min=1, help="How many in all, with those of earlier runs.")] = 50,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds after which no new trial starts.")
    ] = None,
    fusion: Annotated[FusionName, typer.Option(help="How views are aligned.")] = FusionName.RIDGE,
    text_model: Annotated[
        str | None,
        typer.Option(help="As in train; default: that of the latest model, else all-MiniLM-L6-v2."),
    ] = None,
    action: Annotated[
        list[str] | None, typer.Option(help="Weight of an action, e.g. share=2 or author=0.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of every random draw.")] = 0,
) -> None:
    """Search the settings of training by NDCG@20 on valid, never on test; killed, it goes on where it was.

    Trials on the same data, text model, fusion and actions add up. The best settings so far are in
    HOME/tuned.json.

    Example: triptych tune --home demo --trials 50
    """
    from encoder.config import TowerConfig
    from encoder.dataset import load_dataset
    from encoder.text import TextEncoder
    from encoder.text_cache import TextCache
    from scripts.tuning import Tuning

    place = existing(home)
    base = TowerConfig(fusion=fusion.value, actions=parse_actions(action or []))
    latest = _latest(place)
    encoder = TextEncoder.load(_text_directory(place, text_model, latest))
    with fresh_export(place) as export, closing(TextCache.open(place.text_cache)) as cache:
        data = load_dataset(export, encoder, cache)
        name = study_name(export, encoder.text_model_id, base)
    tuning = Tuning(place.reports / STUDIES_FILE, name, data, base)
    print(f"{tuning.done} trials are done on this data, {max(0, trials - tuning.done)} to go")
    if latest is not None:
        tuning.enqueue(_settings(latest))
    try:
        tuning.run(trials, timeout, seed)
    finally:
        if tuning.done:  # also when interrupted: what was found is kept
            config, reached = tuning.best
            write_tuned(place.path / TUNED_FILE, config)
            print(f"best of {tuning.done} trials: NDCG@20 {reached:.4f} on valid")
            print(json.dumps(config.as_json()))
    print(f"to use it: triptych train --home {home} --config {place.path / TUNED_FILE}")


def study_name(export: Export, text_model_id: str, base: "TowerConfig") -> str:
    """Return a name that differs wherever results would not compare: other rows, text model, fusion, actions.

    Two exports of the same rows are the same bytes, so they share a name.
    """
    facts = {"files": export.manifest["files"], "text_model": text_model_id, "actions": base.actions}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{base.fusion}-{digest[:16]}"


def write_tuned(path: Path, config: "TowerConfig") -> None:
    """Write settings for `triptych train --config`, whole or not at all."""
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    draft.write_text(json.dumps(config.as_json(), indent=2) + "\n", "utf-8")
    draft.replace(path)


def _latest(home: Home) -> Path | None:
    try:
        return pointed(home.latest_model, home.models)
    except NotPublishedError:
        return None


def _settings(model: Path) -> "TowerConfig":
    from encoder.config import TowerConfig
    from store.artifact import read_manifest

    return TowerConfig.from_json(read_manifest(model)["settings"])


def _text_directory(home: Home, text_model: str | None, latest: Path | None) -> Path:
    """Return the text model that was asked for, that of the latest model, or the default one."""
    from encoder.text_export import DEFAULT_SOURCE, export_text_model
    from store.artifact import read_manifest

    if text_model is None and latest is not None:
        return home.text_models / str(read_manifest(latest)["text_model_id"])
    return export_text_model(text_model or DEFAULT_SOURCE, home.text_models)
