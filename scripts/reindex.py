"""triptych reindex: the items of an export to a published index."""

from contextlib import closing
from typing import Annotated

import typer

from scripts.artifacts import CacheOption, PlaceOption, working_home
from scripts.terminal import JobsOption, RayOption, workers


def reindex_command(
    home: PlaceOption,
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
    cache: CacheOption = None,
    jobs: JobsOption = "1",
    ray: RayOption = None,
) -> None:
    """Build, tune, check and publish an index of the items.

    Available items only. Where few of them changed since the index that serves, its files are taken over and
    the changes are written beside them. A run that was killed goes on where it was. In s3://bucket/home it
    takes the newest export there, and loses to another index that is published meanwhile.

    With --jobs or --ray the work is divided, and the index is the same; with a graphics card it is not worth
    it, because workers leave that alone.

    Example: triptych reindex --home demo
    Example: triptych reindex --home demo --jobs auto
    """
    from encoder.runtime import Model
    from encoder.text import TextCache, TextEncoder
    from indexer.reindex import IndexSpec, reindex
    from store.objects import CURRENT, LATEST

    with working_home(home, cache) as work:
        if model is not None and model not in (known := work.place.ids("models")):
            raise LookupError(f"there is no model {model!r}; there are: {', '.join(known) or 'none'}")
        current = work.before[CURRENT].artifact_id
        full = full or (work.in_bucket and not current)
        spec = IndexSpec(factory, ann_recall, memory_mib and memory_mib << 20, full, card_float16)
        trained = Model.load(work.fetch("models", model) if model else work.named(LATEST))
        encoder = TextEncoder.load(work.home.text_models / trained.text_model_id)
        base = work.named(CURRENT) if work.in_bucket and not full else None
        with (
            workers(jobs, ray) as working,
            closing(TextCache.open(work.home.text_cache)) as texts,
            work.export() as export,
        ):
            directory = reindex(work.home, export, trained, encoder, texts, spec, working, base)
        work.publish(directory.name)
    print(f"index {directory.name} serves, made by model {trained.model_id}")
