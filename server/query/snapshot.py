"""What answers queries: a checked index, its model and its language model, swapped as one."""

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from encoder.runtime import Model
from encoder.text.cache import (
    ErasureSafeWriter,
    ImportedVectorsError,
    TextCache,
    cache_imported_vectors,
    encode_with_cache,
)
from encoder.text.encoder import TextEncoder
from encoder.views import FloatArray
from indexer.index import Index
from indexer.publish import LoadedIndex
from server.cancellation import check_wanted
from store.home import Home
from store.state.state import UserState
from store.state.vocabulary import ValuesByCode
from store.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """One immutable set of everything that a query needs but the state of users."""

    index: Index
    model: Model
    encoder: TextEncoder
    cache: TextCache
    state: UserState
    users: Index | None = None

    @cached_property
    def model_row_of(self) -> dict[str, int]:
        """Row of each item id in the model's table."""
        return {item_id: row for row, item_id in enumerate(self.model.item_ids.to_pylist())}

    @cached_property
    def model_rows(self) -> ValuesByCode:
        """Row in the model's table of item codes of the state, int64, −1 where it has none."""
        row_of = self.model_row_of
        return ValuesByCode(
            self.state.items, lambda names: np.array([row_of.get(x, -1) for x in names], dtype=np.int64)
        )

    def stored_text_vectors(self, digests: tuple[bytes, ...]) -> FloatArray:
        """Return unit vectors (m, D_T) of the texts that are encoded by now; the others are on their way."""
        vectors, found = self.cache.get(self.encoder.text_model_id, digests, self.encoder.dim)
        return vectors[found]

    def text_vectors(self, texts: tuple[str, ...], *, keep: bool) -> FloatArray:
        """Return unit vectors (n, D_T); what the cache lacks is encoded, and kept there where `keep`.

        Raises:
            AbandonedError: nobody waits for the answer any more; looked at before each run of the model.
        """
        model_id, dim = self.encoder.text_model_id, self.encoder.dim
        vectors, found = self.cache.get(model_id, texts, dim, self.encoder.one_piece_bytes)
        missing = sorted(np.flatnonzero(~found).tolist(), key=lambda row: len(texts[row]), reverse=True)
        for start in range(0, len(missing), self.encoder.batch):
            rows = missing[start : start + self.encoder.batch]
            lacking = [texts[row] for row in rows]
            vectors[rows] = self.encoder.encode(lacking, before_each_run=check_wanted)
            if keep:
                self.cache.put_later(model_id, lacking, vectors[rows])
        return vectors


def prepare(
    home: Home, loaded: LoadedIndex, store: Store, state: UserState, cache: TextCache, threads: int
) -> Snapshot:
    """Return a pair ready to serve: language model loaded, every stored text encoded ahead.

    Raises:
        DamagedArtifactError: the language model is missing or damaged.
        AbandonedError: the call that asked for it ended.
    """
    encoder = TextEncoder.load(home.text_models / loaded.model.text_model_id, threads=threads)
    written = ErasureSafeWriter(cache, store.texts_among)
    cache_what_came(store, encoder, written)
    for batch in store.distinct_texts():
        check_wanted()
        encode_with_cache(encoder, cache, batch, "user texts", written)
    snapshot = Snapshot(loaded.index, loaded.model, encoder, cache, state, loaded.users)
    # Built before the first query, not by it.
    _ = snapshot.model_rows(np.zeros(0, dtype=np.int64))
    log.info(
        "ready: index %s, model %s, %d items", loaded.index.index_id, loaded.model.model_id, len(loaded.index)
    )
    return snapshot


def cache_what_came(store: Store, encoder: TextEncoder, written: ErasureSafeWriter) -> None:
    """Cache the vectors that came with stored texts; where they do not fit, texts are encoded like others."""
    try:
        cache_imported_vectors(written, encoder, store.imported_vectors(encoder.text_model_id))
    except ImportedVectorsError as error:
        log.warning("%s; until then they are encoded here", error)
