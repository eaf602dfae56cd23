"""The reindex flow: items of an export → item tower → FAISS → tuned and checked → one immutable directory.

The user index, of the users of the export by the user tower, lies in the same directory. Where few items
changed, the files of the serving index are copied and the changes are written beside them.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from encoder.jobs import IN_PROCESS, Jobs
from encoder.runtime import Model
from encoder.text import TEXT_RULE, TextCache, TextEncoder
from indexer.building import (
    AUTO,
    QUERIES,
    Choice,
    ExportedUsers,
    ItemTower,
    assemble_index,
    build_main,
    build_users,
    changes_of,
    choose,
    copy_changed,
    difference,
    empty_faiss,
    fit,
    hashes_array,
    items_in_parts,
    lay_out,
    open_checkpoint,
    put_users,
    remove_parts,
    sample_users,
    too_many,
    tuning_queries,
    unchanged_files,
    without_bad,
)
from indexer.files import VECTORS_FILE, map_vectors, read_without_vector
from indexer.filters import FACTS_LAYOUT
from indexer.index import Index
from indexer.search import EXACT, gpus
from indexer.users import FOLDER, open_users
from store.artifact import DamagedArtifactError, build, new_id, read_pointer
from store.attributes import left_out_message
from store.export import Export
from store.home import Home

log = logging.getLogger(__name__)


class ModelMismatchError(ValueError):
    """A model and a text encoder do not belong together."""

    def __init__(self, wanted: str, got: str) -> None:
        super().__init__(f"the model needs text model {wanted!r}, not {got!r}")


@dataclass(frozen=True)
class IndexSpec:
    """The specification of an index.

    Attributes:
        factory: FAISS factory string, or "auto" to choose one by the number of items.
        ann_recall: at k = 100, against brute force; where a kind misses it, finer ones follow, at last exact.
        memory_bytes: budget of the FAISS index, for "auto"; None is half of the free memory.
        full: rebuild everything, even where few items changed.
        card_float16: hold full item vectors as halves where they are searched on a graphics card.
        fresh_users: build the user index anew, so that its files hold nobody who is not in it any more.

    Raises:
        ValueError: the ANN recall is not in (0, 1].
    """

    factory: str = AUTO
    ann_recall: float = 0.99
    memory_bytes: int | None = None
    full: bool = False
    card_float16: bool = False
    fresh_users: bool = False

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
    jobs: Jobs = IN_PROCESS,
    base: Path | None = None,
) -> Path:
    """Build a new index over the available items of an export; return its directory. CURRENT stays as it is.

    Where `base`, or without one the index that serves, is of this model and few items changed since, its
    files are copied and the changes are written beside them; the same for the users. Items without an id
    vector and without text have no vector: filters and the popularity fallback find them. Users without any
    view, and items whose attributes cannot be used, are left out. The manifest counts each kind. Whoever
    does the work, the files are the same but for graphs (HNSW, CAGRA), which no two builds of several
    threads make alike.

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
        empty_faiss(model.dim, spec.factory)  # a bad factory fails before the work
    users = ExportedUsers.of(export, ItemTower(model, encoder, cache))
    hashes = export.item_hashes()
    made_from = {"model_id": model.model_id, "text_model_id": model.text_model_id, "dim": model.dim,
                 "asked": {"factory": spec.factory, "ann_recall": spec.ann_recall},
                 "card_float16": spec.card_float16, "facts_layout": FACTS_LAYOUT,
                 "text_rule": TEXT_RULE}  # fmt: skip
    with open_checkpoint(home.indexes, _key(made_from, hashes, users.hashes)) as folder:
        directory = (
            None if spec.full else _incremental(home, folder, users, hashes, spec, made_from, jobs, base)
        )
        if directory is None:
            directory = _full(home, folder, users, hashes, spec, made_from, jobs)
    # The one time that every byte is read back: files were hashed as they were written, and not since.
    index = Index.load(directory)
    user_index = open_users(directory, index.manifest)
    log.info("index %s: %d items, %s; %d users", index.index_id, len(index), index.manifest["factory"],
             len(user_index or ()))  # fmt: skip
    return directory


def _full(
    home: Home,
    folder: Path,
    users: ExportedUsers,
    hashes: pa.Table,
    spec: IndexSpec,
    made_from: dict[str, Any],
    jobs: Jobs,
) -> Path:
    """Build an index from nothing, or from the checkpoint of a killed run; return its directory.

    Args:
        home: where the index goes.
        folder: of the build checkpoint.
        users: the users, with the export and the item tower.
        hashes: `export.item_hashes()`.
        spec: of the index.
        made_from: entries of the manifest that name the model and the specification.
        jobs: who does the work.
    """
    export, tower = users.export, users.tower
    encoded = None if jobs.in_this_process else partial(items_in_parts, folder, export, hashes, tower, jobs)
    digests = build_main(folder, export, hashes, tower, encoded)
    remove_parts(folder)
    vectors = map_vectors(folder / VECTORS_FILE)
    if spec.factory == AUTO:
        choice = choose(len(vectors), tower.model.dim, spec.memory_bytes, card=gpus().count > 0)
    else:
        choice = Choice(spec.factory, "it was asked for", (EXACT,))
    log.info("reindex: %s: %s", choice.factory, choice.reason)
    queries = tuning_queries(vectors, sample_users(export, tower, 0 if choice.factory == EXACT else QUERIES))
    fitted = fit(folder, queries, choice, spec.ann_recall, float16=spec.card_float16, jobs=jobs)
    built = build_users(folder, users, None, spec.ann_recall, spec.memory_bytes, jobs)
    without_vector = len(read_without_vector(folder, tower.model.dim))
    facts = {**made_from, "export_id": export.export_id, "items_without_vector": without_vector,
             "items_left_out": len(hashes) - len(vectors) - without_vector}  # fmt: skip
    return assemble_index(home.indexes, folder, fitted, facts, built, digests)


def _incremental(
    home: Home,
    folder: Path,
    users: ExportedUsers,
    hashes: pa.Table,
    spec: IndexSpec,
    made_from: dict[str, Any],
    jobs: Jobs,
    base_directory: Path | None,
) -> Path | None:
    """Make an index from an earlier one and the changes; None where all must be rebuilt.

    Args: as `_full`, and the directory of the earlier one; None for the one that serves.

    Raises:
        DamagedArtifactError: CURRENT names an index that does not exist.
    """
    base = _base(home, made_from, base_directory)
    if base is None or not _put_items(base, users.export, hashes, users.tower):
        return None
    source = base_directory or home.indexes / base.index_id
    user_index = open_users(source, base.manifest)
    index_id = new_id()
    with build(home.indexes, index_id) as draft:
        draft.facts = base.manifest | {
            "export_id": users.export.export_id,
            "base": base.index_id,
            "items_without_vector": base.without_vector,
            "items_left_out": len(hashes) - len(base) - base.without_vector,
            **copy_changed(source, draft.path, base),
        }
        digests: dict[str, str] = draft.facts.pop("files")
        draft.digests |= {name: digests[name] for name in unchanged_files(base)}
        if user_index is not None and not spec.fresh_users and put_users(user_index, users):
            manifest = user_index.manifest | {"without_vector": len(users.hashes) - len(user_index)}
            draft.facts[FOLDER] = manifest | copy_changed(source / FOLDER, draft.path / FOLDER, user_index)
            names = [f"{FOLDER}/{name}" for name in unchanged_files(user_index)]
            draft.digests |= {name: digests[name] for name in names}
        else:
            built = build_users(folder, users, user_index, spec.ann_recall, spec.memory_bytes, jobs)
            draft.facts[FOLDER] = lay_out(folder / FOLDER, draft.path / FOLDER, built.fitted, built.facts)
            draft.digests |= built.digests
    return home.indexes / index_id


def _put_items(base: Index, export: Export, hashes: pa.Table, tower: ItemTower) -> bool:
    """Put the items that changed on top of an index; return False, nothing put, where they are too many."""
    found = difference(base, hashes)
    some = hashes.take(pa.array(found.changed))
    replaced = set(found.removed) | set(some.column("item_id").to_pylist())
    others = sum(change.has_vector and change.item_id not in replaced for change in base.delta.changes())
    rows = others + int(tower.encodable(some).sum())
    if too_many(rows, base.delta.state.main_removed + len(replaced), len(base.main)):
        log.info("reindex: %d of %d items changed since %s: building anew",
                 rows, len(base.main), base.index_id)  # fmt: skip
        return False
    items = export.some_items(some.column("item_id").to_pylist())
    items, some, reasons = without_bad(items, some)
    if reasons:
        log.warning("reindex: %s", left_out_message(reasons))
    base.put(changes_of(items, some, tower), [*found.removed, *reasons])
    log.info("reindex: %d items changed and %d went since %s", len(found.changed), len(found.removed),
             base.index_id)  # fmt: skip
    return True


def _base(home: Home, made_from: dict[str, Any], directory: Path | None) -> Index | None:
    """Load an index, or the serving one, if its manifest has the entries wanted, to copy its files."""
    if directory is None:
        if not home.current_index.exists():
            return None
        directory = read_pointer(home.current_index, home.indexes)
    try:
        index = Index.load(directory)
    except DamagedArtifactError as error:
        log.warning("reindex: %s; building anew", error)
        return None
    return index if all(index.manifest.get(name) == value for name, value in made_from.items()) else None


def _key(made_from: dict[str, Any], *tables: pa.Table) -> str:
    """Hash what a build is made from: a later run with the same key goes on from its checkpoint."""
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode())
    for hashes in tables:
        for item_id in hashes.column("item_id").to_pylist():
            digest.update(item_id.encode() + b"\0")
        for name in ("content", "facts"):
            digest.update(hashes_array(hashes, name).tobytes())
    return digest.hexdigest()
