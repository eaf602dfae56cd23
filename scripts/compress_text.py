"""triptych compress-text: a smaller language model that was taught by the one in use."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from scripts.artifacts import CacheOption, PlaceOption, WorkingHome, working_home
from scripts.home_access import shared_text_models
from scripts.terminal import JsonOption, console
from store.artifact import read_manifest
from store.home import Home

if TYPE_CHECKING:
    from encoder.text import Pooling, Precision
    from encoder.text.tuning.options import CompressOptions


class ChangedTextModelError(ValueError):
    """The files that the latest model's text model was made from have changed."""

    def __init__(self, source: str, text_model_id: str) -> None:
        super().__init__(
            f"text model {source!r} is not what {text_model_id} was made from any more: "
            "name the one to compress by --text-model"
        )
        self.source = source
        self.text_model_id = text_model_id


def compress_text_command(
    home: PlaceOption,
    text_model: Annotated[
        str | None, typer.Option(help="A sentence-transformers id or folder; default: the latest model's.")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="How many to keep; default: half.")] = None,
    epochs: Annotated[
        int, typer.Option(min=1, help="At most; it stops when held-out texts no longer improve.")
    ] = 4,
    texts: Annotated[int, typer.Option(min=2, help="Most texts in one epoch.")] = 2048,
    max_tokens: Annotated[int, typer.Option(min=4, help="Of a text, while training.")] = 64,
    learning_rate: Annotated[float | None, typer.Option(help="At its highest.")] = None,
    int8: Annotated[
        bool, typer.Option("--int8/--no-int8", help="Quantise its weights, too: faster still.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of every random draw.")] = 0,
    cache: CacheOption = None,
    json_path: JsonOption = None,
) -> None:
    """Make a smaller text model: fewer layers, taught on the newest export's texts.

    It learns to give the vectors of the whole model. The same request finds the earlier result. The last
    line names what to train with; what is lost in recall only `evaluate` can say.

    Example: triptych compress-text --home demo --layers 3
    """
    from encoder.text.tuning.options import CompressOptions
    from scripts.terminal import write_json

    with working_home(home, cache) as work:
        source, pooling = (
            (text_model, None) if text_model else text_model_source(work.home, work.latest_model())
        )
        options = CompressOptions(
            layers=layers,
            epochs=epochs,
            texts=texts,
            max_tokens=max_tokens,
            learning_rate=learning_rate,
            seed=seed,
            pooling=pooling,
        )
        report = compress(work, source, options, int8=int8)
    if json_path is not None:
        write_json(json_path, report)
    kept = report["agreement"]
    console().print(
        f"text model {report['text_model_id']}: layers {report['training']['layers']} of "
        f"{report['teacher']}, cosine {kept['cosine']:.4f} to it, "
        f"{kept['overlap']:.0%} of its {kept['k']} nearest texts, "
        f"{kept['speedup']:.2f} × its texts per second"
    )
    precision = " --precision int8" if int8 else ""
    print(f"triptych train --home {home} --text-model {report['folder']}{precision}")


def text_model_source(home: Home, model: Path | None) -> "tuple[str, Pooling | None]":
    """Return source and pooling of a model's text model; the default one where there is no model.

    Raises:
        ChangedTextModelError: the source is no longer what the model was trained with.
        TextModelUnavailableError: the source is gone.
    """
    from encoder.text import DEFAULT_SOURCE, fetch, source_digest

    if model is None:
        return DEFAULT_SOURCE, None
    text_model_id = str(read_manifest(model)["text_model_id"])
    facts = read_manifest(home.text_models / text_model_id)
    source = str(facts["source"])
    if source_digest(fetch(source)) != facts["source_digest"]:
        raise ChangedTextModelError(source, text_model_id)
    own = facts["pooling"] == facts["own_pooling"]
    return source, None if own else cast("Pooling", facts["pooling"])


def compress(work: WorkingHome, source: str, options: "CompressOptions", *, int8: bool) -> dict[str, Any]:
    """Compress a text model; return the student's folder and how it agrees with its teacher."""
    from encoder.text import TextEncoder
    from encoder.text.agreement import agreement
    from encoder.text.export import export_text_model
    from encoder.text.tuning.distill import compress_text_model
    from encoder.text.tuning.pairs import draw_texts
    from encoder.text.tuning.registry import METRICS_FILE

    home = work.home
    with work.newest_export() as export:
        folder = compress_text_model(source, export, home.text_models, options)
        held_out = draw_texts(export, options)[1]
        export_id = export.export_id
        precision: Precision = "int8" if int8 else "fp32"
        small = export_text_model(str(folder), home.text_models, precision=precision, export=export)
    whole = export_text_model(source, home.text_models, pooling=options.pooling, shared=shared_text_models())
    kept = agreement(TextEncoder.load(whole), TextEncoder.load(small), held_out)
    return {
        "text_model_id": small.name,
        "folder": str(folder),
        "teacher": whole.name,
        "export_id": export_id,
        "agreement": asdict(kept) | {"speedup": kept.speedup},
        "training": json.loads((folder.parent / METRICS_FILE).read_text("utf-8")),
    }
