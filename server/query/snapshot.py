"""The snapshot that answers queries: an index, its model and its language model, replaced as one."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.runtime import Model
from encoder.text import (
    ErasureSafeWriter,
    ImportedVectorsError,
    TextCache,
    TextEncoder,
    cache_imported_vectors,
    encode_with_cache,
)
from encoder.views import FloatArray
from indexer.delta import IndexState
from indexer.files import IntArray
from indexer.index import Index
from indexer.publish import LoadedIndex
from server.cancellation import check_wanted
from store.artifact import verify
from store.home import Home
from store.state import StateReader, UserRecord, Vocabulary
from store.store import Store

log = logging.getLogger(__name__)


class ValuesByCode:
    """One value for each code, looked up by arrays of codes; threads may share it."""

    def __init__(
        self, vocabulary: Vocabulary, values_of: Callable[[Sequence[str]], npt.NDArray[Any]]
    ) -> None:
        """Take the function that maps n strings to values (n,); it is called once for each string."""
        self._vocabulary = vocabulary
        self._values_of = values_of
        self._known = (vocabulary.rollbacks, values_of([]))

    def __call__(self, codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Look up the value of each code (n,); the result has the shape of `codes`."""
        rollbacks, values = self._known
        if rollbacks != self._vocabulary.rollbacks:  # a code may mean another string now
            rollbacks, values = self._vocabulary.rollbacks, self._values_of([])
        names = self._vocabulary.names
        known = len(names)
        if known > len(values):
            values = np.concatenate([values, self._values_of(names[len(values) : known])])
            self._known = rollbacks, values  # one assignment: other threads see the old pair or the new one
        looked_up: npt.NDArray[Any] = values[codes]
        return looked_up


@dataclass(frozen=True)
class Snapshot:
    """An index, the model of its vectors and what that model reads, which serve together.

    Attributes:
        index: of items.
        model: whose vectors are in the index.
        encoder: the language model of `model`.
        cache: vectors of texts by that language model.
        state: of users, and the codes of item ids in it.
        users: the user index; None where the index has none.
    """

    index: Index
    model: Model
    encoder: TextEncoder
    cache: TextCache
    state: StateReader
    users: Index | None = None

    @cached_property
    def model_row_of(self) -> dict[str, int]:
        """The row of each item id in the model's table."""
        return {item_id: row for row, item_id in enumerate(self.model.item_ids.to_pylist())}

    @cached_property
    def model_rows(self) -> ValuesByCode:
        """The row in the model's table, int64, of each item code of the state; −1 where it has none."""
        row_of = self.model_row_of
        return ValuesByCode(
            self.state.items, lambda names: np.array([row_of.get(x, -1) for x in names], dtype=np.int64)
        )

    @cached_property
    def main_rows(self) -> ValuesByCode:
        """The row in the index's main part, int64, of each item code of the state; −1 where it has none."""
        return ValuesByCode(self.state.items, self.index.main_rows)

    def index_rows(self, codes: npt.NDArray[np.uint32], main_rows: IntArray, state: IndexState) -> IntArray:
        """Return the rows (n,) of items in a state of the index, −1 where the item is not live.

        Args:
            codes: (n,) of the items.
            main_rows: (n,) as `main_rows` gives them for these codes.
            state: of the index.
        """
        names = self.state.items.names
        return self.index.current_rows(main_rows, lambda position: names[codes[position]], state)

    def stored_text_vectors(self, records: Sequence[UserRecord]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Return unit vectors (m, D_T) of all texts of records, and which (m,) are there; others are zero.

        Those are encoded in the background. Vectors come with a record, or lie in the cache.
        """
        text_model_id, dim = self.encoder.text_model_id, self.encoder.dim
        digests = tuple(chain.from_iterable(record.texts for record in records))
        if all(record.vectors is None for record in records):
            return self.cache.get(text_model_id, digests, dim)
        vectors, found = np.zeros((len(digests), dim), np.float32), np.zeros(len(digests), np.bool_)
        row = 0
        for record in records:
            theirs = record.vectors is not None and record.vectors.text_model_id == text_model_id
            for digest in record.texts:
                raw = record.vectors.by_digest.get(digest) if theirs and record.vectors else None
                if raw is not None and len(raw) == dim * 4:
                    vectors[row], found[row] = np.frombuffer(raw, "<f4"), True
                row += 1
        return vectors, found

    def text_vectors(self, texts: tuple[str, ...], *, keep: bool) -> FloatArray:
        """Read unit vectors (n, D_T) from the cache, and encode the texts that it lacks.

        Args:
            texts: n of them.
            keep: whether the cache keeps the new vectors; only of texts that no user has written.

        Raises:
            AbandonedError: the call ended; checked before each run of the language model.
        """
        model_id, dim = self.encoder.text_model_id, self.encoder.dim
        vectors, cached = self.cache.get(model_id, texts, dim, self.encoder.one_piece_bytes)
        missing = sorted(np.flatnonzero(~cached).tolist(), key=lambda row: len(texts[row]), reverse=True)
        for start in range(0, len(missing), self.encoder.batch):
            rows = missing[start : start + self.encoder.batch]
            batch = [texts[row] for row in rows]
            vectors[rows] = self.encoder.encode(batch, before_each_run=check_wanted)
            if keep:
                self.cache.put_later(model_id, batch, vectors[rows])
        return vectors


def text_encoder(
    home: Home, text_model_id: str, threads: int, serving: Snapshot | None, *, check: bool = True
) -> TextEncoder:
    """Load a language model, or take the one that serves where it is the same: in memory it never changes.

    Args:
        home: where it is.
        text_model_id: of the model.
        threads: of one call.
        serving: the snapshot that serves, None before the first one does.
        check: compare checksums first.

    Raises:
        DamagedArtifactError: it is missing or damaged.
    """
    directory = home.text_models / text_model_id
    if serving is None or serving.encoder.text_model_id != text_model_id:
        return TextEncoder.load(directory, threads=threads, verify=check)
    if check:  # the next start would load the files
        verify(directory)
    return serving.encoder


def prepare(
    home: Home,
    loaded: LoadedIndex,
    store: Store,
    state: StateReader,
    cache: TextCache,
    threads: int,
    serving: Snapshot | None = None,
) -> Snapshot:
    """Make a snapshot that is ready to serve: load the language model, and encode every stored text.

    Args:
        home: where the language models are.
        loaded: a checked index with its model.
        store: whose texts are encoded.
        state: of users.
        cache: where vectors of texts are kept.
        threads: of the language model.
        serving: the snapshot that serves; None before the first one does.

    Raises:
        DamagedArtifactError: the language model is missing or damaged.
        AbandonedError: the call that publishes the index ended.
    """
    encoder = text_encoder(home, loaded.model.text_model_id, threads, serving)
    written = ErasureSafeWriter(cache, store.texts_among)
    cache_stored_vectors(store, encoder, written)
    for batch in store.distinct_texts():
        check_wanted()
        encode_with_cache(encoder, cache, batch, "user texts", written)
    snapshot = Snapshot(loaded.index, loaded.model, encoder, cache, state, loaded.users)
    for rows_of_codes in (snapshot.model_rows, snapshot.main_rows):
        rows_of_codes(np.zeros(0, dtype=np.int64))  # for all codes now, not by the first query
    log.info(
        "ready: index %s, model %s, %d items", loaded.index.index_id, loaded.model.model_id, len(loaded.index)
    )
    return snapshot


def cache_stored_vectors(store: Store, encoder: TextEncoder, written: ErasureSafeWriter) -> None:
    """Cache the vectors imported with texts; log a warning where they are not of the language model's dim."""
    try:
        cache_imported_vectors(written, encoder, store.imported_vectors(encoder.text_model_id))
    except ImportedVectorsError as error:
        log.warning("%s; until then they are encoded here", error)
