"""triptych reindex: the items of an export to a published index."""

from contextlib import closing
from typing import Annotated

import typer

from scripts.home_access import existing_home, fresh_export, publish_index
from scripts.terminal import HomeOption, JobsOption, RayOption, workers


def reindex_command(
    home: HomeOption,
    model: Annotated[str | None, typer.Option(help="A model id; default: the latest one.")] = None,
    factory: Annotated[
        str, typer.Option(help="FAISS index factory; Flat is exact, auto fits the number of items.")
    ] = "auto",
    ann_recall: Annotated[
        float,
        typer.Option(min=0.01, max=1, help="At k = 100 against brute force; tuned and built to reach it."),
    ] = 0.99,
    memory_mib: Annotated[
        int | None,
        typer.Option(min=1, help="For auto: memory of the index; default: half of what is free."),
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Build anew, even where few items changed."),
    ] = False,
    card_float16: Annotated[
        bool,
        typer.Option("--card-float16", help="Hold vectors as halves on graphics cards; scores stay exact."),
    ] = False,
    jobs: JobsOption = "1",
    ray: RayOption = None,
) -> None:
    """Build, tune, check and publish an index of the items.

    Available items only. Where few of them changed since the index that serves, its files are taken over and
    the changes are written beside them. A run that was killed goes on where it was.

    With --jobs or --ray the work is divided, and the index is the same; with a graphics card it is not worth
    it, because workers leave that alone.

    Example: triptych reindex --home demo
    Example: triptych reindex --home demo --jobs auto
    """
    from encoder.runtime import Model
    from encoder.text import TextCache, TextEncoder
    from indexer.reindex import IndexSpec, reindex
    from store.artifact import artifacts, read_pointer

    place = existing_home(home)
    if model is not None and model not in artifacts(place.models):
        raise LookupError(
            f"there is no model {model!r}; there are: {', '.join(artifacts(place.models)) or 'none'}"
        )
    spec = IndexSpec(factory, ann_recall, memory_mib and memory_mib << 20, full, card_float16)
    trained = Model.load(place.models / model if model else read_pointer(place.latest_model, place.models))
    encoder = TextEncoder.load(place.text_models / trained.text_model_id)
    with (
        workers(jobs, ray) as working,
        closing(TextCache.open(place.text_cache)) as cache,
        fresh_export(place) as export,
    ):
        directory = reindex(place, export, trained, encoder, cache, spec, working)
    publish_index(place, directory.name)
    print(f"index {directory.name} serves, made by model {trained.model_id}")
