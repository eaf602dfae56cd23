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
from indexer.building.assemble import assemble, files_taken_over, lay_out, take_over
from indexer.building.autotune import fit
from indexer.building.build_checkpoint import build_checkpoint
from indexer.building.factory import AUTO, Choice, choose, empty_faiss
from indexer.building.incremental import changes_of, difference, hashes_array, too_many, without_bad
from indexer.building.items import ItemTower, build_main
from indexer.building.sample import QUERIES, sample_users, tuning_queries
from indexer.building.users import ExportedUsers, build_users, put_users
from indexer.files import VECTORS_FILE, map_vectors, read_without_vector
from indexer.filters.attribute_index import FACTS_LAYOUT
from indexer.index import Index
from indexer.search.ann import EXACT
from indexer.search.gpu import gpus
from indexer.users import FOLDER, open_users
from store.artifact import DamagedArtifactError, build, new_id, pointed
from store.attributes import left_out
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


def incremental_reindex(
    home: Home, folder: Path, people: ExportedUsers, hashes: pa.Table, asked: dict[str, Any], room: int | None
) -> Path | None:
    """Return the directory of an index made from the one that serves, or None where all is to be built.

    Args:
        home: where it serves, and where the new one goes.
        folder: for what is built on the way, such as a user index that too much changed for.
        people: the users, and the export and the tower that the items are of, too.
        hashes: `export.item_hashes()`.
        asked: what the manifest must say for its files to be taken over.
        room: memory budget of a user index that is built.

    Raises:
        DamagedArtifactError: CURRENT names nothing that is there.
    """
    base = _base(home, asked)
    if base is None or not _put_items(base, people.export, hashes, people.tower):
        return None
    source = home.indexes / base.index_id
    users = open_users(source, base.manifest)
    index_id = new_id()
    with build(home.indexes, index_id) as draft:
        draft.facts = base.manifest | {
            "export_id": people.export.export_id,
            "base": base.index_id,
            "items_without_vector": base.without_vector,
            "items_left_out": len(hashes) - len(base) - base.without_vector,
            **take_over(source, draft.path, base),
        }
        digests: dict[str, str] = draft.facts.pop("files")
        # Whether the copies are whole is seen when the new index is read back.
        draft.digests |= {name: digests[name] for name in files_taken_over(base)}
        if users is not None and put_users(users, people):
            kept = users.manifest | {"without_vector": len(people.hashes) - len(users)}
            draft.facts[FOLDER] = kept | take_over(source / FOLDER, draft.path / FOLDER, users)
            names = [f"{FOLDER}/{name}" for name in files_taken_over(users)]
            draft.digests |= {name: digests[name] for name in names}
        else:
            built = build_users(folder, people, users, asked["asked"]["ann_recall"], room)
            draft.facts[FOLDER] = lay_out(folder / FOLDER, draft.path / FOLDER, built.fitted, built.facts)
    return home.indexes / index_id


def _put_items(base: Index, export: Export, hashes: pa.Table, tower: ItemTower) -> bool:
    """Put what changed of the items on top of an index; return False where that is too much, undone."""
    found = difference(base, hashes)
    some = hashes.take(pa.array(found.changed))
    touched = set(found.removed) | set(some.column("item_id").to_pylist())
    kept = sum(change.has_vector and change.item_id not in touched for change in base.delta.changes())
    rows = kept + int(tower.encodable(some).sum())
    if too_many(rows, base.delta.now.main_gone + len(touched), len(base.main)):
        log.info("reindex: %d of %d items changed since %s: building anew",
                 rows, len(base.main), base.index_id)  # fmt: skip
        return False
    items = export.some_items(some.column("item_id").to_pylist())
    items, some, encoded, reasons = without_bad(items, some, found.encoded)
    if reasons:
        log.warning("reindex: %s", left_out(reasons))
    base.put(changes_of(base, items, some, encoded, tower), [*found.removed, *reasons])
    log.info("reindex: %d items changed and %d went since %s", len(found.changed), len(found.removed),
             base.index_id)  # fmt: skip
    return True


def _base(home: Home, asked: dict[str, Any]) -> Index | None:
    """Return the serving index where its files can be taken over."""
    if not home.current_index.exists():
        return None
    directory = pointed(home.current_index, home.indexes)
    try:
        index = Index.load(directory)
    except DamagedArtifactError as error:
        log.warning("reindex: %s; building anew", error)
        return None
    return index if all(index.manifest.get(name) == value for name, value in asked.items()) else None
