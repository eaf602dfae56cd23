"""What answers queries: a checked index, its model and its language model, swapped as one."""

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from encoder.runtime import Model
from encoder.text import TextEncoder
from encoder.text_cache import TextCache, encode_all
from encoder.views import FloatArray
from indexer.index import Index
from indexer.publish import Pair
from store.duck import Store
from store.home import Home

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Serving:
    """One immutable set of everything that a query needs but the store."""

    index: Index
    model: Model
    encoder: TextEncoder
    cache: TextCache

    @cached_property
    def model_row_of(self) -> dict[str, int]:
        """Row of each item id in the model's table."""
        return {item_id: row for row, item_id in enumerate(self.model.item_ids.to_pylist())}

    def text_vectors(self, texts: tuple[str, ...], *, keep: bool) -> FloatArray:
        """Return unit vectors (n, D_T); what the cache lacks is encoded, and kept there where `keep`."""
        model_id, dim = self.encoder.text_model_id, self.encoder.dim
        vectors, found = self.cache.get(model_id, texts, dim)
        missing = np.flatnonzero(~found)
        if len(missing):
            lacking = [texts[i] for i in missing]
            vectors[missing] = self.encoder.encode(lacking)
            if keep:
                self.cache.put(model_id, lacking, vectors[missing])
        return vectors


def prepare(home: Home, pair: Pair, store: Store, cache: TextCache, threads: int) -> Serving:
    """Return a pair ready to serve: language model loaded, every stored text encoded ahead.

    Raises:
        DamagedArtifactError: the language model is missing or damaged.
    """
    encoder = TextEncoder.load(home.text_models / pair.model.text_model_id, threads=threads)
    for texts, vectors in store.imported_vectors(encoder.text_model_id):
        cache.put(encoder.text_model_id, texts, vectors)
    for batch in store.distinct_texts():
        encode_all(encoder, cache, batch, "user texts")
    serving = Serving(pair.index, pair.model, encoder, cache)
    _ = serving.model_row_of  # built before the first query, not by it
    log.info("ready: index %s, model %s, %d items", pair.index.index_id, pair.model.model_id, len(pair.index))
    return serving
