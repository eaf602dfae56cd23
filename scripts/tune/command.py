"""triptych tune: settings chosen by Optuna on valid, for `triptych train --config`."""

import hashlib
import json
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from scripts.artifacts import CacheOption, PlaceOption, working_home
from scripts.home_access import shared_text_models
from scripts.terminal import JobsOption, RayOption, workers, write_json
from scripts.training import FusionName, encode_texts, head_trainer, parse_actions
from store.export import Export
from store.home import Home

if TYPE_CHECKING:
    from encoder.config import Fusion, TowerConfig

TUNED_FILE = "tuned.json"
STUDIES_FILE = "tune.db"


def tune_command(
    home: PlaceOption,
    trials: Annotated[int, typer.Option(min=1, help="How many in all, with those of earlier runs.")] = 50,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds after which no new trial starts.")
    ] = None,
    fusion: Annotated[
        FusionName, typer.Option(help="learned: settings of a learned block; ridge, maxvar: closed form.")
    ] = FusionName.LEARNED,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most, in a trial of a learned block.")] = None,
    text_model: Annotated[
        str | None,
        typer.Option(help="As in train; default: that of the latest model, else all-MiniLM-L6-v2."),
    ] = None,
    action: Annotated[
        list[str] | None, typer.Option(help="Weight of an action, e.g. share=2 or author=0.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of every random draw.")] = 0,
    together: Annotated[
        int | None,
        typer.Option(
            min=1, help="Trials drawn at once, without knowing of each other; default: one a worker."
        ),
    ] = None,
    cache: CacheOption = None,
    jobs: JobsOption = "1",
    ray: RayOption = None,
) -> None:
    """Search the settings of training by NDCG@20 on valid, never on test; killed, it goes on where it was.

    Trials on the same data, text model, fusion and actions add up; those of a learned block also need the
    same closed form beside it: that of the latest model, or one that is chosen first. The best settings so
    far are in HOME/tuned.json. Run one search at a time in a home. With --jobs or --ray each worker has a
    trial at a time; which settings are tried depends on --together alone.

    In s3://bucket/home it takes the newest export there. The search and tuned.json stay in the local copy, by
    which it goes on on this machine, or with --cache on storage that several see.

    Example: triptych tune --home demo --trials 50
    """
    from encoder.config import TowerConfig
    from encoder.dataset import load_dataset
    from encoder.fit import TrainOptions
    from encoder.text import TextCache, TextEncoder
    from scripts.tune.closed_form import SPLIT, NoValidSplitError
    from scripts.tune.learned import closed_settings
    from scripts.tune.study import Tuning
    from scripts.tune.trials import Search, run_trials

    learned = fusion is FusionName.LEARNED
    if epochs is not None and not learned:
        raise typer.BadParameter("--epochs is for --fusion learned")
    closed_fusion = cast("Fusion", "ridge" if learned else fusion.value)
    base = TowerConfig(fusion=closed_fusion, actions=parse_actions(action or []))
    with working_home(home, cache) as work, workers(jobs, ray) as working:
        place, latest = work.home, work.latest_model()
        with work.export() as export:
            head_trainer(export, TrainOptions(base=base), {})
            if not export.held_out(SPLIT).num_rows:
                raise NoValidSplitError
            encoder = TextEncoder.load(_text_directory(place, text_model, latest))
            with closing(TextCache.open(place.text_cache)) as texts:
                encode_texts(place, export, encoder, texts, working)
                data = load_dataset(export, encoder, texts)
            if learned:
                base = closed_settings(data, base, latest)
            name = study_name(export, encoder.text_model_id, base, learned=learned)
        tuning = Tuning(place.reports / STUDIES_FILE, name)
        print(f"{tuning.done} trials are done on this data, {max(0, trials - tuning.done)} to go")
        training = place.training.resolve() / name
        search = Search(base.as_json(), learned, str(training), epochs, seed)
        objective, first = search.begin(data, latest)
        tuning.retry_killed()
        for params in first:
            tuning.enqueue(params)
        try:
            run = partial(run_trials, tuning, objective, trials=trials, timeout=timeout, seed=seed)
            run(place, working, data, search, together=together or working.workers)
        finally:
            if tuning.done:  # also when interrupted: what was found is kept
                settings, reached = tuning.best
                write_json(place.path / TUNED_FILE, settings)
                print(f"best of {tuning.done} trials: NDCG@20 {reached:.4f} on valid")
                print(json.dumps(settings))
        print(f"to use it: triptych train --home {home} --config {place.path / TUNED_FILE}")


def study_name(export: Export, text_model_id: str, base: "TowerConfig", *, learned: bool = False) -> str:
    """Return a name that differs wherever results would not compare: other rows, text model, fusion, actions.

    Two exports of the same rows are the same bytes, so they share a name. With a learned block, the results
    compare only beside the same closed form, whose settings `base` then has; its half-life aside, which
    every trial chooses for itself.
    """
    facts = {"files": export.manifest["files"], "text_model": text_model_id, "actions": base.actions}
    if learned:
        facts["closed"] = {k: v for k, v in base.as_json().items() if k != "half_life"}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{'learned' if learned else base.fusion}-{digest[:16]}"


def _text_directory(home: Home, text_model: str | None, latest: Path | None) -> Path:
    """Return the text model that was asked for, that of the latest model, or the default one."""
    from encoder.text import DEFAULT_SOURCE
    from encoder.text.export import export_text_model
    from store.artifact import read_manifest

    if text_model is None and latest is not None:
        return home.text_models / str(read_manifest(latest)["text_model_id"])
    source = text_model or DEFAULT_SOURCE
    return export_text_model(source, home.text_models, shared=shared_text_models())
