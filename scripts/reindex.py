"""triptych reindex: the items of an export to a published index."""

from contextlib import closing
from typing import Annotated

import typer

from scripts.session import HomeOption, existing, fresh_export, publish_index


def reindex_command(
    home: HomeOption,
    model: Annotated[str | None, typer.Option(help="A model id; default: the latest one.")] = None,
    factory: Annotated[str, typer.Option(help="FAISS index factory; Flat is exact.")] = "Flat",
) -> None:
    """Build, check and publish an index of the items.

    Available items only; the index is compared with brute force before it is published.

    Example: triptych reindex --home demo
    """
    from encoder.runtime import Model
    from encoder.text import TextEncoder
    from encoder.text_cache import TextCache
    from indexer.reindex import reindex
    from store.artifact import artifacts, pointed

    place = existing(home)
    if model is not None and model not in artifacts(place.models):
        raise LookupError(
            f"there is no model {model!r}; there are: {', '.join(artifacts(place.models)) or 'none'}"
        )
    trained = Model.load(place.models / model if model else pointed(place.latest_model, place.models))
    encoder = TextEncoder.load(place.text_models / trained.text_model_id)
    with closing(TextCache.open(place.text_cache)) as cache, fresh_export(place) as export:
        directory = reindex(place, export, trained, encoder, cache, factory)
    publish_index(place, directory.name)
    print(f"index {directory.name} serves, made by model {trained.model_id}")
