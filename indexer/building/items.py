"""The main part of an index, built from an export in bounded memory; a build that is killed goes on."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from encoder.dataset import rows_of
from encoder.runtime import Model
from encoder.text.cache import TextCache, encode_all
from encoder.text.encoder import TextEncoder, item_text
from indexer.building.build_checkpoint import finish, finished
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
from indexer.filters.attribute_index import AttributeIndexBuilder
from store.attributes import left_out, sorted_out
from store.export import Export

log = logging.getLogger(__name__)
MAIN_FILES = (VECTORS_FILE, ITEMS_FILE, LOOKUP_FILE, FACTS_FILE)
_BATCH = 16_384  # items at a time


@dataclass(frozen=True)
class ItemTower:
    """What turns items into vectors."""

    model: Model
    encoder: TextEncoder
    cache: TextCache

    def vectors(self, items: pa.Table | pa.RecordBatch, rows: IntArray) -> FloatArray:
        """Return item vectors (n, D) float32 of a table with title and text; zero without any of them.

        Args:
            items: n of them.
            rows: (n,) of the model's items, −1 for one that it does not know.
        """
        columns = (items.column(name).to_pylist() for name in ("title", "text"))
        texts = [item_text(title, text) for title, text in zip(*columns, strict=True)]
        text_vectors = encode_all(self.encoder, self.cache, texts, "item texts")  # (n, D_T)
        known = (rows >= 0)[:, None]
        id_vectors = np.where(known, self.model.id_vectors[rows], np.float32(0.0))  # (n, D)
        return self.model.encode_items(id_vectors, text_vectors)

    def encodable(self, hashes: pa.Table) -> npt.NDArray[np.bool_]:
        """Return which items (n,) bool of `item_hashes` have text, or an id vector in the model."""
        rows = rows_of(hashes.column("item_id"), self.model.item_ids)
        named = np.where(rows >= 0, np.any(self.model.id_vectors, axis=1)[rows], False)
        written = ~np.asarray(hashes.column("blank"))
        return np.asarray(named | written)

    def popularity(self, rows: IntArray) -> FloatArray:
        """Return the number of users behind items (n,) float32, by their rows in the model."""
        return np.where(rows >= 0, self.model.popularity[rows], 0.0).astype(np.float32)


def build_main(folder: Path, export: Export, hashes: pa.Table, tower: ItemTower) -> None:
    """Write vectors, ids, lookup and facts of the available items of an export into a folder.

    Items without an id vector and without text have no vector and are written apart; those whose attributes
    cannot be used are left out, and the log names them.

    `hashes` are `export.item_hashes()`.
    """
    if finished(folder, "items"):
        return
    kept: list[npt.NDArray[np.bool_]] = []
    facts, apart, reasons = AttributeIndexBuilder(), list[ItemChange](), dict[str, str]()
    rows = rows_of(hashes.column("item_id"), tower.model.item_ids)  # (N,)

    def chunks() -> Iterator[FloatArray]:
        start = count = 0
        for batch in export.item_batches(_BATCH):
            part = slice(start, start + len(batch))
            vectors = tower.vectors(batch, rows[part])
            ids, kinds, texts = (batch.column(name).to_pylist() for name in ("item_id", "kind", "attributes"))
            usable, bad = sorted_out(zip(ids, texts, strict=True))
            reasons.update(bad)
            can_be_used = np.array([item_id in usable for item_id in ids], dtype=bool)
            found = np.any(vectors, axis=1)
            there = found & can_be_used
            kept.append(there)
            for at in np.flatnonzero(there).tolist():
                facts.add(count, kinds[at], usable[ids[at]])
                count += 1
            without = np.flatnonzero(can_be_used & ~found)
            apart.extend(
                as_changes(
                    batch.take(pa.array(without)),
                    vectors[without],
                    tower.popularity(rows[part][without]),
                    hashes.slice(start, len(batch)).take(pa.array(without)),
                )
            )
            start += len(batch)
            yield vectors[there]

    write_vectors(folder / VECTORS_FILE, chunks(), tower.model.dim)
    there = np.concatenate(kept) if kept else np.zeros(0, dtype=bool)
    some = hashes.filter(pa.array(there))
    write_rows(folder, some, tower.popularity(rows[there]), facts)
    write_without_vector(folder, apart)
    finish(folder, "items", [*MAIN_FILES, WITHOUT_VECTOR_FILE])
    if reasons:
        log.warning("reindex: %s", left_out(reasons))


def as_changes(
    items: pa.Table | pa.RecordBatch, vectors: FloatArray, popularity: FloatArray, hashes: pa.Table
) -> list[ItemChange]:
    """Return n items as changes to an index.

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


def write_rows(folder: Path, hashes: pa.Table, popularity: FloatArray, facts: AttributeIndexBuilder) -> None:
    """Write what there is of the rows of a main part beside their vectors.

    Args:
        folder: where to.
        hashes: item_id, content, facts of the rows.
        popularity: (M,) float32.
        facts: of the same rows.
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
    facts.write(folder / FACTS_FILE)
