"""The main part of an index, built from the items of an export by the item tower."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from encoder.content import RawContent
from encoder.dataset import brought_vectors, described_items, rows_of
from encoder.runtime import Model
from encoder.text import TextCache, TextEncoder, encode_with_cache, item_text
from indexer.building.build_checkpoint import checkpointed
from indexer.files import (
    FACTS_FILE,
    ITEMS_FILE,
    LOOKUP_FILE,
    MAIN_SCHEMA,
    VECTORS_FILE,
    WITHOUT_VECTOR_FILE,
    FloatArray,
    IntArray,
    ItemChange,
    write_lookup,
    write_table,
    write_vectors,
    write_without_vector,
)
from indexer.filters import AttributeIndexBuilder, terms_of
from store.attributes import left_out_message, usable_attributes
from store.export import Export
from store.records import ItemRecord

log = logging.getLogger(__name__)
MAIN_FILES = (VECTORS_FILE, ITEMS_FILE, LOOKUP_FILE, FACTS_FILE)
ITEM_BATCH = 16_384  # items at a time

EncodedItems = Callable[[], Iterator[FloatArray]]  # vectors (n, D) of the items, one part after the other


@dataclass(frozen=True)
class ItemTower:
    """The item tower: it encodes items from their id vectors in the model, or from what is known of them."""

    model: Model
    encoder: TextEncoder
    cache: TextCache

    def vectors(self, items: pa.Table | pa.RecordBatch, rows: IntArray) -> FloatArray:
        """Encode items to vectors (n, D) float32; zero for an item without id vector and content.

        Args:
            items: n of them, with title, text, kind, attributes (JSON) and vector.
            rows: (n,) among the model's items, −1 for an item that it does not know.
        """
        texts = texts_of(items)
        text_vectors = encode_with_cache(self.encoder, self.cache, texts, "item texts")
        return item_vectors(self.model, items, rows, texts, text_vectors)

    def vectors_of(self, items: Sequence[ItemRecord], rows: IntArray) -> FloatArray:
        """Encode items of the store as `vectors` does."""
        columns = {
            "title": pa.array([item.title for item in items], pa.string()),
            "text": pa.array([item.text for item in items], pa.string()),
            "kind": pa.array([item.kind for item in items], pa.string()),
            "attributes": pa.array([json.dumps(item.attributes) for item in items], pa.string()),
            "vector": pa.array([item.vector for item in items], pa.list_(pa.float32())),
        }
        return self.vectors(pa.table(columns), rows)

    def encodable(self, hashes: pa.Table) -> npt.NDArray[np.bool_]:
        """Tell which items (n,) of `item_hashes` may have a vector, by id or by what is known of them."""
        if self.model.content_parts != ("text",):
            return np.ones(len(hashes), dtype=bool)
        rows = rows_of(hashes.column("item_id"), self.model.item_ids)
        named = np.where(rows >= 0, np.any(self.model.id_vectors, axis=1)[rows], False)
        written = ~np.asarray(hashes.column("blank"))
        return np.asarray(named | written)

    def popularity(self, rows: IntArray) -> FloatArray:
        """Return the number of users behind items (n,) float32, by their rows in the model."""
        return np.where(rows >= 0, self.model.popularity[rows], 0.0).astype(np.float32)


def texts_of(items: pa.Table | pa.RecordBatch) -> list[str]:
    """Return title and text of each item as one text."""
    columns = (items.column(name).to_pylist() for name in ("title", "text"))
    return [item_text(title, text) for title, text in zip(*columns, strict=True)]


def item_vectors(
    model: Model,
    items: pa.Table | pa.RecordBatch,
    rows: IntArray,
    texts: list[str],
    text_vectors: FloatArray,
) -> FloatArray:
    """Encode items to vectors (n, D) float32, as `ItemTower.vectors` does, whose texts are encoded already.

    Args:
        model: with the item tower.
        items: n of them, with kind, attributes (JSON) and vector.
        rows: (n,) among the model's items, −1 for an item that it does not know.
        texts: of the items.
        text_vectors: (n, D_T) float32.
    """
    raw = RawContent(
        texts,
        text_vectors,
        described_items(*(items.column(name).to_pylist() for name in ("kind", "attributes"))),
        brought_vectors(items, model.content_encoder.vector_length),
    )
    known = (rows >= 0)[:, None]
    id_vectors = np.where(known, model.id_vectors[rows], np.float32(0.0))  # (n, D)
    unneeded = np.asarray(id_vectors.any(axis=1))  # nor need their words be counted
    return model.encode_items(id_vectors, model.content_encoder.encode(raw.without(unneeded)))


def build_main(
    folder: Path, export: Export, hashes: pa.Table, tower: ItemTower, vectors: EncodedItems | None = None
) -> dict[str, str]:
    """Write the main part of an index into a folder: vectors, ids, lookup and attributes; return the sha256.

    Vectors and texts are in memory some items at a time; ids, hashes and attribute terms of all items are.
    Items without an id vector and without content have no vector and go to a file of their own; those whose
    attributes cannot be used are left out, and the log names them.

    Args:
        folder: of the build.
        export: whose available items are taken.
        hashes: `export.item_hashes()`.
        tower: encodes the items.
        vectors: begins to yield the vectors of all items, in their order; None encodes them here.
    """
    write = partial(_write_main, folder, export, hashes, tower, vectors)
    return checkpointed(folder, "items", [*MAIN_FILES, WITHOUT_VECTOR_FILE], write)


def _write_main(
    folder: Path, export: Export, hashes: pa.Table, tower: ItemTower, encoded_items: EncodedItems | None
) -> None:
    with_vector: list[npt.NDArray[np.bool_]] = []
    unknown_vectors = list[int]()  # numbers of items whose vector the model knows nothing of
    attributes, without_vector, reasons = AttributeIndexBuilder(), list[ItemChange](), dict[str, str]()
    rows = rows_of(hashes.column("item_id"), tower.model.item_ids)  # (N,)
    known_length = tower.model.content_encoder.vector_length
    encoded_parts = None if encoded_items is None else Regrouped(encoded_items())

    def chunks() -> Iterator[FloatArray]:
        start = count = 0
        for batch in export.item_batches(ITEM_BATCH):
            part = slice(start, start + len(batch))
            if encoded_parts is None:
                vectors = tower.vectors(batch, rows[part])
            else:
                vectors = encoded_parts.take(len(batch))
            lengths = np.asarray(pc.fill_null(pc.list_value_length(batch.column("vector")), 0))
            unknown_vectors.append(int(((lengths > 0) & (lengths != known_length)).sum()))
            ids, kinds, texts = (batch.column(name).to_pylist() for name in ("item_id", "kind", "attributes"))
            parsed, bad = usable_attributes(zip(ids, texts, strict=True))
            reasons.update(bad)
            usable = np.array([item_id in parsed for item_id in ids], dtype=bool)
            encoded = np.any(vectors, axis=1)
            with_vector.append(usable & encoded)
            for at in np.flatnonzero(usable & encoded).tolist():
                attributes.add(count, terms_of(kinds[at], parsed[ids[at]]))
                count += 1
            others = np.flatnonzero(usable & ~encoded)
            without_vector.extend(
                as_changes(
                    batch.take(pa.array(others)),
                    vectors[others],
                    tower.popularity(rows[part][others]),
                    hashes.slice(start, len(batch)).take(pa.array(others)),
                )
            )
            start += len(batch)
            yield vectors[usable & encoded]

    write_vectors(folder / VECTORS_FILE, chunks(), tower.model.dim)
    listed = np.concatenate([np.zeros(0, dtype=bool), *with_vector])
    write_rows(folder, hashes.filter(pa.array(listed)), tower.popularity(rows[listed]), attributes)
    write_without_vector(folder, without_vector)
    if reasons:
        log.warning("reindex: %s", left_out_message(reasons))
    if unknown := sum(unknown_vectors):
        log.warning(
            "reindex: %d items bring vectors of a length that the model knows nothing of, and they count for "
            "nothing: run `triptych train`", unknown,
        )  # fmt: skip


class Regrouped:
    """Rows that come in parts of one size and are taken in groups of another."""

    def __init__(self, parts: Iterator[FloatArray]) -> None:
        self._parts = parts
        self._left: list[FloatArray] = []

    def take(self, count: int) -> FloatArray:
        """Return the next rows (count, D); fewer where there are no more."""
        while sum(map(len, self._left)) < count and (more := next(self._parts, None)) is not None:
            self._left.append(more)
        rows = self._left[0] if len(self._left) == 1 else np.concatenate(self._left)
        self._left = [rows[count:]]
        return rows[:count]


def as_changes(
    items: pa.Table | pa.RecordBatch, vectors: FloatArray, popularity: FloatArray, hashes: pa.Table
) -> list[ItemChange]:
    """Make changes to an index from n items.

    Args:
        items: with item_id, kind, attributes.
        vectors: (n, D) float32.
        popularity: (n,) float32.
        hashes: content and facts of the same items in the same order.
    """
    ids, kinds, attributes = (items.column(name).to_pylist() for name in ("item_id", "kind", "attributes"))
    content, facts = (hashes.column(name).to_pylist() for name in ("content", "facts"))
    described = zip(ids, vectors, popularity.tolist(), content, facts, kinds, attributes, strict=True)
    return [ItemChange(*one) for one in described]


def write_rows(
    folder: Path, hashes: pa.Table, popularity: FloatArray, attributes: AttributeIndexBuilder
) -> None:
    """Write the files of a main part beside its vectors: items, lookup and attribute index.

    Args:
        folder: of the build.
        hashes: item_id, content, facts of the rows.
        popularity: (M,) float32.
        attributes: of the same rows.
    """
    ids = hashes.column("item_id").cast(pa.large_string()).combine_chunks()
    columns = {
        "item_id": ids,
        "popularity": popularity,
        "content": hashes.column("content").cast(pa.binary(16)),
        "facts": hashes.column("facts").cast(pa.binary(16)),
    }
    write_table(folder / ITEMS_FILE, pa.table(columns, schema=MAIN_SCHEMA))
    write_lookup(folder, ids)
    attributes.write(folder / FACTS_FILE)
