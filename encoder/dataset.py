"""An export as arrays: events, ties and encoded texts by user and item row."""

import logging
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from encoder.arrays import NO_TIME, Actions, Events, IntArray, TextColumns
from encoder.config import TowerConfig
from encoder.content import Described, RawContent
from encoder.jobs import Jobs
from encoder.text import (
    MAX_PIECES,
    ErasureSafeWriter,
    TextCache,
    TextEncoder,
    cache_imported_vectors,
    cache_in_parts,
    encode_with_cache,
    item_text,
)
from encoder.views import FloatArray, Matrix, event_matrix, text_pool, text_view
from store.attributes import usable_attributes
from store.export import Export
from store.tables import MAX_WEIGHT

log = logging.getLogger(__name__)

_TEXT_ROWS = 16_384  # texts whose vectors are in memory at once while they are read


@dataclass(frozen=True)
class Dataset:
    """The visible data of one export, held-out rows apart.

    Shapes:
        users (U,) and items (N,): sorted string arrays; a row number below is a position in them.
        ties: (U, U) float64 tie strengths, row = user, column = friend.
        texts: the encoded texts, one by one.

    Attributes:
        item_content: what was written of the items, text vectors among it.
    """

    users: pa.StringArray
    items: pa.StringArray
    history: Events
    held_out: dict[str, Events]
    ties: Matrix
    texts: TextColumns
    item_content: RawContent

    def events(self, config: TowerConfig) -> Matrix:
        """Return the weighted train histories (U, N) float32."""
        return event_matrix(self.history, self.shape, config)

    @property
    def item_text_vectors(self) -> FloatArray:
        """(N, D_T) float32 unit rows, zero where an item has no text."""
        return self.item_content.text_vectors

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of users and items."""
        return len(self.users), len(self.items)

    @cached_property
    def text(self) -> FloatArray:
        """(U, D_T) float32, the T view: unit rows, zero where a user wrote nothing."""
        texts = np.arange(len(self.texts.users))
        pool = text_pool(self.texts.users, texts, (len(self.users), len(texts)))
        return text_view(pool, self.texts.vectors)

    @cached_property
    def text_counts(self) -> IntArray:
        """(U,) int64, how many texts each user wrote."""
        return np.bincount(self.texts.users, minlength=len(self.users)).astype(np.int64)

    @cached_property
    def seen(self) -> Matrix:
        """(U, N) 1 where a user has a train row with the item, whatever its action."""
        return self._pairs(self.history)

    def relevant(self, split: str) -> Matrix:
        """Return (U, N) 1 for every held-out pair of a split; empty where the split has none."""
        rows = self.held_out.get(split)
        return self._pairs(
            self.history.where(np.zeros(len(self.history.users), bool)) if rows is None else rows
        )

    def without_users(self, left_out: npt.NDArray[np.bool_]) -> "Dataset":
        """Return the data without any row of the users `left_out` (U,) bool; row numbers stay."""
        if not left_out.any():
            return self
        kept = sparse.csr_array(sparse.diags_array((~left_out).astype(np.float64)))
        return replace(
            self,
            history=self.history.where(~left_out[self.history.users]),
            held_out={name: rows.where(~left_out[rows.users]) for name, rows in self.held_out.items()},
            ties=kept @ self.ties @ kept,
            texts=self.texts.where(~left_out[self.texts.users]),
        )

    def without_items(self, left_out: npt.NDArray[np.bool_]) -> "Dataset":
        """Return the data without the items `left_out` (N,) bool: what names them, and their own texts.

        Row numbers stay.
        """
        if not left_out.any():
            return self
        named = (self.texts.items >= 0) & left_out[self.texts.items]
        held_out = {name: rows.where(~left_out[rows.items]) for name, rows in self.held_out.items()}
        return replace(
            self,
            history=self.history.where(~left_out[self.history.items]),
            held_out={name: rows for name, rows in held_out.items() if len(rows.users)},
            texts=self.texts.where(~named),
            item_content=self.item_content.without(left_out),
        )

    def _pairs(self, rows: Events) -> Matrix:
        pairs = sparse.csr_array(
            (np.ones(len(rows.users), dtype=np.float32), (rows.users, rows.items)), shape=self.shape
        )
        pairs.sum_duplicates()
        pairs.data[:] = 1.0
        return pairs


def load_dataset(export: Export, encoder: TextEncoder, cache: TextCache) -> Dataset:
    """Read an export into arrays; texts that the cache lacks are encoded, with a progress bar.

    Raises:
        ImportedVectorsError: texts came with vectors that this text model cannot have made.
    """
    writer = ErasureSafeWriter(cache, export.texts_among)
    # A connection of its own: DuckDB keeps what it has read in memory until it is closed.
    with Export(export.path, export.manifest) as source:
        cache_imported_vectors(writer, encoder, source.imported_vectors(encoder.text_model_id))
        table = source.items()
        columns = (table.column(name).to_pylist() for name in ("title", "text"))
        texts = [item_text(title, text) for title, text in zip(*columns, strict=True)]
        kinds, attributes = (table.column(name).to_pylist() for name in ("kind", "attributes"))
        log_long_texts(encoder, PieceCounts.of(encoder, texts), "item texts")
        data = _rows(source, table.column("item_id").combine_chunks())
        data = replace(
            data,
            texts=_texts(source, (data.users, data.items), encoder, cache, writer),
            item_content=RawContent(
                texts,
                encode_with_cache(encoder, cache, texts, "item texts"),
                described_items(kinds, attributes),
                brought_vectors(table),
            ),
        )
    pa.default_memory_pool().release_unused()
    return data


def cache_texts(export: Export, encoder: TextEncoder, cache: TextCache, jobs: Jobs, folder: Path) -> None:
    """Have workers encode the texts of an export that the cache lacks, so that `load_dataset` finds them.

    Args:
        export: with the texts.
        encoder: the language model.
        cache: takes the vectors, which are those of `load_dataset`.
        jobs: the workers.
        folder: that they see.

    Raises:
        ImportedVectorsError: as `load_dataset`.
    """
    writer = ErasureSafeWriter(cache, export.texts_among)
    with Export(export.path, export.manifest) as source:
        cache_imported_vectors(writer, encoder, source.imported_vectors(encoder.text_model_id))
        columns = (source.items().column(name).to_pylist() for name in ("title", "text"))
        texts = [item_text(title, text) for title, text in zip(*columns, strict=True)]
        cache_in_parts(encoder, cache, [texts], len(texts), "item texts", jobs, folder)
        batches = (batch.column("text").to_pylist() for batch in source.texts_batches(_TEXT_ROWS))
        count = sum(map(len, source.texts_batches(_TEXT_ROWS)))
        cache_in_parts(encoder, cache, batches, count, "user texts", jobs, folder, writer)


def load_without_texts(export: Export) -> Dataset:
    """Read an export into arrays without its texts, which take longest: D_T is 0."""
    with Export(export.path, export.manifest) as source:
        return _rows(source, source.items().column("item_id").combine_chunks())


def _rows(source: Export, items: pa.StringArray) -> Dataset:
    users = source.users()
    held_out = {
        split: _events(source.held_out(split).to_batches(), users, items) for split in ("valid", "test")
    }
    none = np.zeros(0, dtype=np.int64)
    return Dataset(
        users=users,
        items=items,
        history=_events(source.history_batches(), users, items),
        held_out={split: rows for split, rows in held_out.items() if len(rows.users)},
        ties=_ties(source.friends(), users),
        texts=TextColumns(none, none, none, np.zeros((0, 0), np.float32)),
        item_content=RawContent.of_texts([""] * len(items), np.zeros((len(items), 0), np.float32)),
    )


class PieceCounts(NamedTuple):
    """Numbers of texts: all, those read in pieces, and those cut after the last piece that is read."""

    texts: int = 0
    split: int = 0
    cut: int = 0

    @classmethod
    def of(cls, encoder: TextEncoder, texts: Sequence[str]) -> "PieceCounts":
        """Count the texts that a text model has to split or to cut."""
        pieces = np.array(encoder.count_pieces(texts), dtype=np.int64)
        return cls(len(texts), int((pieces > 1).sum()), int((pieces > MAX_PIECES).sum()))

    def plus(self, other: "PieceCounts") -> "PieceCounts":
        """Return the counts of both."""
        return PieceCounts(*(one + more for one, more in zip(self, other, strict=True)))


def log_long_texts(encoder: TextEncoder, counts: PieceCounts, label: str) -> None:
    """Log how many texts are longer than the model reads at once, if any."""
    if counts.split:
        beyond = f"; of {counts.cut:,} the rest behind {MAX_PIECES} pieces is not read" if counts.cut else ""
        log.info(
            "%s: %s of %s are longer than the %d tokens that the text model reads at once: read in pieces%s",
            label, f"{counts.split:,}", f"{counts.texts:,}", encoder.max_tokens, beyond,
        )  # fmt: skip


def hold_out(data: Dataset, rows: npt.NDArray[np.bool_], split: str) -> Dataset:
    """Move some train rows (n,) bool to a held-out split; texts that name such a pair are dropped."""
    moved = data.history.where(rows)
    hidden = np.unique(moved.users * len(data.items) + moved.items)
    texts = data.texts
    named = np.isin(texts.users * len(data.items) + texts.items, hidden) & (texts.items >= 0)
    held_out = data.held_out | {split: moved}
    return replace(data, history=data.history.where(~rows), held_out=held_out, texts=texts.where(~named))


def described_items(kinds: Sequence[str | None], attributes: Sequence[str | None]) -> Described:
    """Parse the attributes of items; such as cannot be used are none."""
    usable, _ = usable_attributes((row, text) for row, text in enumerate(attributes) if text)
    return Described(kinds, [usable.get(row) for row in range(len(attributes))])


def brought_vectors(items: pa.Table | pa.RecordBatch, dim: int | None = None) -> FloatArray:
    """Read the vectors that users brought with items: (n, D_X) float32, zero rows where there is none.

    Args:
        items: n of them, with a column `vector`.
        dim: D_X of a model, which knows nothing of vectors of another length; None takes the first one's.
    """
    column = items.column("vector")
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
    if dim is None:
        dim = int(lengths[np.flatnonzero(lengths)[:1]].sum())
    there = np.flatnonzero((lengths == dim) & (lengths > 0))
    vectors = np.zeros((len(lengths), dim), dtype=np.float32)
    if len(there):
        vectors[there] = np.asarray(lists.take(pa.array(there)).flatten(), np.float32).reshape(-1, dim)
    return vectors


def rows_of(ids: pa.Array | pa.ChunkedArray, known: pa.StringArray) -> IntArray:
    """Return the row of each id in `known` as (n,) int64, −1 for an unknown one."""
    return np.asarray(pc.fill_null(pc.index_in(ids, value_set=known), -1), dtype=np.int64)


def _events(batches: Iterable[pa.RecordBatch], users: pa.StringArray, items: pa.StringArray) -> Events:
    """Read behaviours into arrays; only one batch at a time has ids as strings."""
    columns: list[list[npt.NDArray[Any]]] = [[], [], [], []]
    actions = []
    for batch in batches:
        row = (
            rows_of(batch.column("user_id"), users),
            rows_of(batch.column("item_id"), items),
            np.minimum(np.asarray(batch.column("weight"), dtype=np.float64), MAX_WEIGHT),
            _microseconds(batch.column("ts")),
        )
        for column, values in zip(columns, row, strict=True):
            column.append(values)
        actions.append(batch.column("action").dictionary_encode())
    if not actions:
        none = np.zeros(0, dtype=np.int64)
        return Events(none, none, Actions.of([]), np.zeros(0), none)
    whole = pa.chunked_array(actions).combine_chunks()  # one dictionary for all batches
    coded = Actions(np.asarray(whole.indices, dtype=np.int32), tuple(whole.dictionary.to_pylist()))
    owners, named, weights, ts = (np.concatenate(column) for column in columns)
    return Events(owners, named, coded, weights, ts)


def _ties(table: pa.Table, users: pa.StringArray) -> Matrix:
    owners, friends = (rows_of(table.column(name), users) for name in ("user_id", "friend_id"))
    known = (owners >= 0) & (friends >= 0)
    weights = np.asarray(table.column("weight").to_numpy(), dtype=np.float64)
    return sparse.csr_array((weights[known], (owners[known], friends[known])), shape=(len(users), len(users)))


def _texts(
    export: Export,
    ids: tuple[pa.StringArray, pa.StringArray],
    encoder: TextEncoder,
    cache: TextCache,
    writer: ErasureSafeWriter,
) -> TextColumns:
    """Read and encode texts a bounded batch at a time; their vectors lie in an unnamed file."""
    users, items = ids
    none = np.zeros(0, dtype=np.int64)
    columns: tuple[list[IntArray], ...] = ([none], [none], [none])
    split = PieceCounts()
    with tempfile.TemporaryFile() as file:  # the mapping keeps it once it is closed
        for batch in export.texts_batches(_TEXT_ROWS):
            row = (
                rows_of(batch.column("user_id"), users),
                rows_of(batch.column("item_id"), items),
                _microseconds(batch.column("ts")),
            )
            for column, values in zip(columns, row, strict=True):
                column.append(values)
            some = batch.column("text").to_pylist()
            split = split.plus(PieceCounts.of(encoder, some))
            file.write(encode_with_cache(encoder, cache, some, "user texts", writer).data)
        log_long_texts(encoder, split, "user texts")
        owners, named, ts = (np.concatenate(column) for column in columns)
        file.flush()
        shape = (len(owners), encoder.dim)
        vectors = np.zeros(shape, np.float32)
        if len(owners):
            vectors = np.asarray(np.memmap(file, np.float32, "r", shape=shape))  # slices of a memmap are slow
    return TextColumns(owners, named, ts, vectors)


def _microseconds(ts: pa.Array | pa.ChunkedArray) -> IntArray:
    """Return times in microseconds since 1970, NO_TIME for null."""
    filled = pc.fill_null(ts.cast(pa.timestamp("us")).cast(pa.int64()), NO_TIME)
    return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.int64)
