"""triptych bench text: the text encoder beside a bare ONNX Runtime loop."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from scripts.home_access import JsonOption, shared_text_models


def text_bench(
    data: Annotated[
        Path | None, typer.Option(help="A folder with texts.parquet; default: short texts made up here.")
    ] = None,
    text_model: Annotated[
        list[Path] | None, typer.Option(help="HOME/text_models/ID; repeatable. Default: exports MiniLM.")
    ] = None,
    texts: Annotated[int, typer.Option(min=2, help="Drawn at random from the different ones.")] = 128,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: one per core.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Medians are taken over these.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the texts drawn.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Measure our text encoder beside a bare ONNX Runtime loop on the same batches in the same run.

    `bare` tokenises, pads and runs; `ready` runs on arrays that were made before. A PNG goes beside the JSON.

    Example: triptych bench text --data DATA --text-model HOME/text_models/ID --json text.json
    """
    from encoder.text.export import DEFAULT_SOURCE, export_text_model
    from scripts.bench.output import leave
    from scripts.bench.text import TextOptions, draw, measure
    from scripts.world.world import make_world

    options = TextOptions(texts=texts, threads=threads, rounds=rounds, seed=seed)
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        if data is None:
            make_world(Path(name) / "data", users=200, items=150, seed=seed)
        drawn = draw(data or Path(name) / "data", options)
        shared = shared_text_models()
        models = text_model or [export_text_model(DEFAULT_SOURCE, Path(name) / "text_models", shared=shared)]
        report = measure(models, drawn, options)
    leave("bench text", report, json_path, "texts", ("text_model", "path"))
