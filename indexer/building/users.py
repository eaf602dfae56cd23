"""The user index inside an index directory: built from an export or updated, and whose vectors are in it."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from encoder.jobs import IN_PROCESS, Jobs
from indexer.building.autotune import FittedIndex, fit
from indexer.building.build_checkpoint import checkpointed
from indexer.building.factory import choose
from indexer.building.incremental import difference, too_many
from indexer.building.items import MAIN_FILES, ItemTower, write_rows
from indexer.building.parts import remove_parts, users_in_parts
from indexer.building.sample import QUERIES, USER_BATCH, batches_of, user_vectors
from indexer.files import VECTORS_FILE, FloatArray, MainPart, map_vectors, read_delta, write_vectors
from indexer.filters import AttributeIndexBuilder
from indexer.index import Index
from indexer.search import gpus
from indexer.users import EMBEDDING_DIM, FOLDER, NO_FACTS, row_width, user_change, user_rows
from store.artifact import artifacts
from store.export import Export

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportedUsers:
    """The users of an export, and the tower that encodes them.

    Attributes:
        hashes: item_id (the user id), content, facts, events of the users who may have a vector, by id.
    """

    export: Export
    tower: ItemTower
    hashes: pa.Table

    @classmethod
    def of(cls, export: Export, tower: ItemTower) -> "ExportedUsers":
        """Read the users of an export."""
        return cls(export, tower, row_hashes(export.user_hashes()))

    def vectors(self, batches: Sequence[pa.StringArray]) -> Iterator[FloatArray]:
        """Yield the vectors (n, D) float32 of each batch of the users."""
        return user_vectors(self.export, self.tower, batches)


def row_hashes(table: pa.Table) -> pa.Table:
    """Select the users who may have a vector from `user_hashes`, in the columns that `difference` reads."""
    table = table.filter(pc.invert(table.column("blank"))).combine_chunks()
    facts = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), len(table), [None, pa.py_buffer(NO_FACTS * len(table))]
    )
    columns = {name: table.column(name) for name in ("content", "events")}
    return pa.table({"item_id": table.column("user_id"), **columns, "facts": facts})


@dataclass(frozen=True)
class BuiltUsers:
    """A user index whose files are written.

    Attributes:
        fitted: its kind and FAISS files.
        facts: further entries of its manifest.
        digests: sha256 of its files, by their path below the index directory.
    """

    fitted: FittedIndex
    facts: dict[str, Any]
    digests: dict[str, str]


def build_users(
    folder: Path,
    exported: ExportedUsers,
    base: Index | None,
    ann_recall: float,
    memory_bytes: int | None,
    jobs: Jobs = IN_PROCESS,
) -> BuiltUsers:
    """Write the files of a user index below the folder of a build, where a killed run goes on.

    Args:
        folder: of the build; the files go into a folder in it.
        exported: the users; those whose vector is zero are counted and left out.
        base: a user index of the same model, whose vectors are reused for users who did not change.
        ann_recall: to be reached at k = 100 where not every user is compared.
        memory_bytes: budget of the FAISS index; None is half of the free memory.
        jobs: who does the work.
    """
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    digests = checkpointed(place, "rows", MAIN_FILES, partial(_write_users, place, exported, base, jobs))
    remove_parts(place)
    rows = map_vectors(place / VECTORS_FILE)
    choice = choose(len(rows), rows.shape[1], memory_bytes, card=gpus().count > 0)
    log.info("reindex: users: %s: %s", choice.factory, choice.reason)
    model = exported.tower.model
    facts = {
        "model_id": model.model_id,
        "dim": rows.shape[1],
        EMBEDDING_DIM: model.dim,
        "without_vector": len(exported.hashes) - len(rows),
    }
    fitted = fit(place, _queries(rows), choice, ann_recall, jobs=jobs)
    digests = {f"{FOLDER}/{name}": digest for name, digest in {**digests, **fitted.files}.items()}
    return BuiltUsers(fitted, facts, digests)


def put_users(users: Index, exported: ExportedUsers) -> bool:
    """Put the users who changed on top of a user index; return False, nothing put, if it must be rebuilt.

    It must be where too many changed, and where a user was removed: the vector under a tombstone could be
    read.

    Args:
        users: of the same model.
        exported: the users of the new export.
    """
    found = difference(users, exported.hashes)
    some = exported.hashes.take(pa.array(found.changed))
    ids = some.column("item_id").to_pylist()
    changed = set(ids)
    rows = sum(change.item_id not in changed for change in users.delta.changes()) + len(ids)
    # Users whose vector is zero are in no index, so they count as changed each time, but take no row.
    rows -= users.manifest["without_vector"]
    replaced = users.delta.state.main_removed + int((users.rows(ids) >= 0).sum())
    if found.removed or too_many(rows, replaced, len(users.main)):
        log.info("reindex: %d of %d users changed and %d went: building the user index anew",
                 len(ids), len(users), len(found.removed))  # fmt: skip
        return False
    batches = exported.vectors(batches_of(some.column("item_id").combine_chunks()))
    vectors = (vector for batch in batches for vector in batch)
    columns = (some.column(name).to_pylist() for name in ("events", "content"))
    described = zip(ids, vectors, *columns, strict=True)
    users.put([user_change(*one) for one in described])
    log.info("reindex: %d users changed", len(ids))
    return True


def _write_users(place: Path, exported: ExportedUsers, base: Index | None, jobs: Jobs) -> None:
    """Write the main part of a user index."""
    hashes = exported.hashes
    to_encode = np.ones(len(hashes), dtype=bool)
    if base is not None:
        to_encode[:] = False
        to_encode[difference(base, hashes).changed] = True
    log.info("reindex: encoding %d of %d users", int(to_encode.sum()), len(hashes))
    starts = range(0, len(hashes), USER_BATCH)
    ids = hashes.column("item_id").combine_chunks()
    batches = [
        ids.slice(start, USER_BATCH).filter(pa.array(to_encode[start : start + USER_BATCH]))
        for start in starts
    ]
    with_vector: list[npt.NDArray[np.bool_]] = []
    if jobs.in_this_process or not to_encode.any():
        vectors = exported.vectors(batches)
    else:
        vectors = users_in_parts(place, exported.export, ids, to_encode, exported.tower, jobs)

    def chunks() -> Iterator[FloatArray]:
        for start, encoded in zip(starts, vectors, strict=True):
            fresh = to_encode[start : start + USER_BATCH]
            rows = np.zeros((len(fresh), width), dtype=np.float32)
            rows[fresh] = user_rows(encoded)
            if base is not None:
                unchanged = ids.slice(start, USER_BATCH).filter(pa.array(~fresh))
                rows[~fresh] = base.vectors_of(base.rows(unchanged.to_pylist()))
            with_vector.append(np.asarray(rows.any(axis=1)))
            yield rows[with_vector[-1]]

    width = row_width(exported.tower.model.dim)
    count = write_vectors(place / VECTORS_FILE, chunks(), width)
    some = hashes.filter(pa.array(np.concatenate([np.zeros(0, dtype=bool), *with_vector])))
    write_rows(place, some, some.column("events").to_numpy().astype(np.float32), AttributeIndexBuilder())
    log.info("reindex: %d users have a vector", count)


def _queries(rows: FloatArray) -> FloatArray:
    """Take some of the users (Q, W) as queries: similar users are searched for with user vectors."""
    chosen = rows[np.unique(np.linspace(0, max(0, len(rows) - 1), min(QUERIES, len(rows))).astype(np.int64))]
    queries = np.array(chosen)
    queries[:, -1] = 0.0  # a query has no stored length
    return queries


def stored_users(directory: Path) -> list[str]:
    """Return the ids of the users whose vectors lie in an index directory, findable or not.

    Raises:
        OSError, ValueError: a file is missing or damaged.
    """
    if not (directory / FOLDER).is_dir():
        return []
    appended = [change.item_id for change in read_delta(directory / FOLDER)[0]]
    ids: list[str] = MainPart.open(directory / FOLDER).ids.column.to_pylist()
    return ids + appended


def indexes_with(parent: Path, user_id: str) -> tuple[str, ...]:
    """Return the indexes below a folder that hold a vector of a user; an unreadable index counts as one."""
    return tuple(index_id for index_id in artifacts(parent) if _holds(parent / index_id / FOLDER, user_id))


def _holds(users: Path, user_id: str) -> bool:
    if not users.is_dir():
        return False
    try:
        if MainPart.open(users).ids.rows([user_id])[0] >= 0:
            return True
        return any(change.item_id == user_id for change in read_delta(users)[0])
    except (OSError, ValueError, KeyError, pa.ArrowInvalid):
        return True
