"""The reindex flow: items of an export → item tower → FAISS → tuned and checked → one published directory.

The users of the export lie beside the items in it, encoded by the user tower.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from encoder.runtime import Model
from encoder.text.cache import TextCache
from encoder.text.encoder import TEXT_RULE, TextEncoder
from indexer.arrays import map_vectors
from indexer.building.assemble import assemble
from indexer.building.build_checkpoint import build_checkpoint
from indexer.building.choice import AUTO, EXACT, Choice, choose
from indexer.building.difference import hashes_array
from indexer.building.factory import empty_faiss
from indexer.building.fitting import fit
from indexer.building.incremental import incremental_reindex
from indexer.building.items import ItemTower, build_main
from indexer.building.sample import QUERIES, sample_users, tuning_queries
from indexer.building.users import ExportedUsers, build_users
from indexer.files import VECTORS_FILE, read_without_vector
from indexer.filters.attribute_index import FACTS_LAYOUT
from indexer.index import Index
from indexer.search.gpu import gpus
from indexer.users import open_users
from store.export import Export
from store.home import Home

log = logging.getLogger(__name__)

_BLOCK = 65_536  # items at a time


class ModelMismatchError(ValueError):
    """A model is asked to work with another text model's vectors."""

    def __init__(self, wanted: str, got: str) -> None:
        super().__init__(f"the model needs text model {wanted!r}, not {got!r}")


@dataclass(frozen=True)
class IndexSpec:
    """What an index is to be like.

    Attributes:
        factory: FAISS factory string, or "auto" for what fits the number of items.
        ann_recall: at k = 100, against brute force; an index that misses it is built finer, at last exact.
        memory_bytes: budget of the searched structure, for "auto"; None is half of what is free.
        full: build everything anew, even where few items changed.
        card_float16: hold full item vectors as halves where they are searched on a graphics card.

    Raises:
        ValueError: the ANN recall is not in (0, 1].
    """

    factory: str = AUTO
    ann_recall: float = 0.99
    memory_bytes: int | None = None
    full: bool = False
    card_float16: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.ann_recall <= 1:
            raise ValueError(f"the ANN recall {self.ann_recall} is not in (0, 1]")


def reindex(
    home: Home,
    export: Export,
    model: Model,
    encoder: TextEncoder,
    cache: TextCache,
    spec: IndexSpec = IndexSpec(),
) -> Path:
    """Return the directory of a new index over the available items of an export; CURRENT is left as it is.

    Where an index of this model serves and few items changed since, its files are taken over and the
    changes are written beside them, and so for the users. Items without an id vector and without text have
    no vector: filters and the popularity fallback find them. Users without any view, and items whose
    attributes cannot be used, are left out. The manifest counts each kind.

    Raises:
        ModelMismatchError: the encoder is not the model's text model.
        NotFiniteModelError: the model holds a number that is not finite, as one of an earlier version may.
        FactoryError: FAISS does not understand the factory.
        IndexCheckError: an exact index misses something; nothing is published.
        ReindexRunsError: another process builds the same index.
    """
    if encoder.text_model_id != model.text_model_id:
        raise ModelMismatchError(model.text_model_id, encoder.text_model_id)
    model.check_finite()
    if spec.factory != AUTO:
        empty_faiss(model.dim, spec.factory)  # so that a bad factory fails before the work
    people = ExportedUsers.of(export, ItemTower(model, encoder, cache))
    hashes = export.item_hashes()
    asked = {"model_id": model.model_id, "text_model_id": model.text_model_id, "dim": model.dim,
             "asked": {"factory": spec.factory, "ann_recall": spec.ann_recall},
             "card_float16": spec.card_float16, "facts_layout": FACTS_LAYOUT,
             "text_rule": TEXT_RULE}  # fmt: skip
    with build_checkpoint(home.indexes, _key(asked, hashes, people.hashes)) as folder:
        directory = (
            None if spec.full else incremental_reindex(home, folder, people, hashes, asked, spec.memory_bytes)
        ) or _full(home, folder, people, hashes, spec, asked)
    # What was written is read back, byte for byte, before anyone may serve it.
    index = Index.load(directory)
    users = open_users(directory, index.manifest)
    log.info("index %s: %d items, %s; %d users", index.index_id, len(index), index.manifest["factory"],
             len(users or ()))  # fmt: skip
    return directory


def _full(
    home: Home, folder: Path, people: ExportedUsers, hashes: pa.Table, spec: IndexSpec, asked: dict[str, Any]
) -> Path:
    """Return the directory of an index that is built from nothing, or from where a killed run was."""
    export, tower = people.export, people.tower
    build_main(folder, export, hashes, tower)
    vectors = map_vectors(folder / VECTORS_FILE)
    if spec.factory == AUTO:
        choice = choose(len(vectors), tower.model.dim, spec.memory_bytes, card=gpus().count > 0)
    else:
        choice = Choice(spec.factory, "it was asked for", (EXACT,))
    log.info("reindex: %s: %s", choice.factory, choice.reason)
    queries = tuning_queries(vectors, sample_users(export, tower, 0 if choice.factory == EXACT else QUERIES))
    fitted = fit(folder, queries, choice, spec.ann_recall, float16=spec.card_float16)
    users = build_users(folder, people, None, spec.ann_recall, spec.memory_bytes)
    apart = len(read_without_vector(folder, tower.model.dim))
    facts = {**asked, "export_id": export.export_id, "items_without_vector": apart,
             "items_left_out": len(hashes) - len(vectors) - apart}  # fmt: skip
    return assemble(home.indexes, folder, fitted, facts, users)


def _key(asked: dict[str, Any], *tables: pa.Table) -> str:
    """Return what names a build: the same items, users, model and wish go on where an earlier run was."""
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    for hashes in tables:
        for item_id in hashes.column("item_id").to_pylist():
            digest.update(item_id.encode() + b"\0")
        for name in ("content", "facts"):
            digest.update(hashes_array(hashes, name).tobytes())
    return digest.hexdigest()
