"""Vectors of items and users, in parts that workers encode: a part is a number, what it needs lies in files.

A worker sees the export, the model and the folder of the build, where each part is a file of its own with a
build checkpoint. So a lost worker costs the parts that it had, and a killed build goes on from the others.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from encoder.dataset import rows_of
from encoder.jobs import Jobs, check_shared
from encoder.progress import LongStage
from encoder.runtime import Model
from encoder.text import ErasureSafeWriter, cache_imported_vectors, cache_in_parts
from indexer.building.build_checkpoint import checkpointed
from indexer.building.items import ITEM_BATCH, ItemTower, item_vectors, texts_of
from indexer.building.sample import USER_BATCH, encode_users
from indexer.building.text_vectors import TextVectors, write_text_vectors
from indexer.files import FloatArray, map_table, map_vectors, write_table, write_vectors
from store.export import Export

_IDS_FILE = "ids.arrow"
_TEXTS = "texts"  # name of a folder
_ON_THE_WAY = "texts-on-the-way"
_ITEMS, _USERS = "item-parts", "user-parts"

Batches = Callable[[], Iterator[Sequence[str]]]


@dataclass(frozen=True)
class PartSources:
    """What the parts of a stage are made from, as workers find it.

    Attributes:
        export, model: their directories.
        folder: of the stage: ids, vectors of texts, and the parts.
    """

    export: Path
    model: Path
    folder: Path


@dataclass(frozen=True)
class Rows:
    """One part: its number, and which rows of the ids it has."""

    number: int
    start: int
    stop: int


class OtherRowsError(RuntimeError):
    """A worker reads other rows from the export than the process that gives out the parts."""

    def __init__(self, export: Path, wanted: int, found: int) -> None:
        super().__init__(f"{export} has {found} items where {wanted} are looked for")


def items_in_parts(
    folder: Path, export: Export, hashes: pa.Table, tower: ItemTower, jobs: Jobs
) -> Iterator[FloatArray]:
    """Yield the vectors (n, D) float32 of all available items, part by part, encoded by workers.

    Args:
        folder: of the build, on storage that workers see.
        export: whose items.
        hashes: `export.item_hashes()`.
        tower: encodes them.
        jobs: the workers.
    """
    sources = _sources(folder / _ITEMS, export, tower)
    write_table(sources.folder / _IDS_FILE, hashes.select(["item_id"]))

    def batches() -> Iterator[list[str]]:
        return (texts_of(batch) for batch in export.item_batches(ITEM_BATCH))

    _texts_in_parts(sources, batches, len(hashes), "item texts", tower, jobs, None)
    size = export.items_at_once(ITEM_BATCH)
    yield from _vectors(sources, encode_item_part, len(hashes), size, "item vectors", jobs)


def users_in_parts(
    folder: Path,
    export: Export,
    user_ids: pa.StringArray,
    to_encode: npt.NDArray[np.bool_],
    tower: ItemTower,
    jobs: Jobs,
) -> Iterator[FloatArray]:
    """Yield the vectors (n, D) float32 of some users, USER_BATCH of all after the other, encoded by workers.

    Args:
        folder: of the build, on storage that workers see.
        export: their behaviours, texts and friends.
        user_ids: (N,) all users, in the order of their ids.
        to_encode: (N,) bool, those who are to be encoded.
        tower: encodes them.
        jobs: the workers.
    """
    sources = _sources(folder / _USERS, export, tower)
    write_table(sources.folder / _IDS_FILE, pa.table({"user_id": user_ids, "to_encode": pa.array(to_encode)}))
    writer = ErasureSafeWriter(tower.cache, export.texts_among)
    with Export(export.path, export.manifest) as source:  # DuckDB keeps what it has read until it is closed
        imported = source.imported_vectors(tower.encoder.text_model_id)
        cache_imported_vectors(writer, tower.encoder, imported)
        counts = source.shared_text_counts()
        at = rows_of(counts.column("user_id"), user_ids)
        counted = int(counts.column("texts").to_numpy()[(at >= 0) & to_encode[at]].sum())
        _texts_in_parts(
            sources,
            partial(_written, source, user_ids, to_encode),
            counted,
            "user texts",
            tower,
            jobs,
            writer,
        )
    yield from _vectors(sources, encode_user_part, len(user_ids), USER_BATCH, "user vectors", jobs)


def remove_parts(folder: Path) -> None:
    """Remove the parts in the folder of a build, once they are written together."""
    for name in (_ITEMS, _USERS):
        shutil.rmtree(folder / name, ignore_errors=True)


def encode_item_part(sources: PartSources, rows: Rows) -> str:
    """Write the vectors of some items to a file, unless an earlier run did; return its name."""
    return _write_part(sources, rows, _item_part)


def encode_user_part(sources: PartSources, rows: Rows) -> str:
    """Write the vectors of some users to a file, unless an earlier run did; return its name."""
    return _write_part(sources, rows, _user_part)


def _sources(folder: Path, export: Export, tower: ItemTower) -> PartSources:
    folder.mkdir(exist_ok=True)
    return PartSources(export.path.resolve(), tower.model.directory.resolve(), folder.resolve())


def _texts_in_parts(
    sources: PartSources,
    batches: Batches,
    total: int,
    label: str,
    tower: ItemTower,
    jobs: Jobs,
    writer: ErasureSafeWriter | None,
) -> None:
    """Encode the texts that the cache lacks, then write the vectors of all where workers find them."""
    on_the_way = sources.folder / _ON_THE_WAY
    on_the_way.mkdir(exist_ok=True)
    cache_in_parts(tower.encoder, tower.cache, batches(), total, label, jobs, on_the_way, writer)
    shutil.rmtree(on_the_way)  # with what a killed run left there
    write_text_vectors(sources.folder / _TEXTS, batches(), tower.encoder, tower.cache)


def _vectors(
    sources: PartSources,
    encode: Callable[[PartSources, Rows], str],
    count: int,
    size: int,
    label: str,
    jobs: Jobs,
) -> Iterator[FloatArray]:
    """Yield the vectors of each part as workers have written them."""
    starts = enumerate(range(0, count, size))
    parts = [Rows(number, start, min(count, start + size)) for number, start in starts]
    with LongStage(label, len(parts), "part") as stage:
        for name in jobs.map(partial(encode, sources), parts, label):
            yield map_vectors(sources.folder / name)
            stage.advance()


def _written(
    export: Export, user_ids: pa.StringArray, to_encode: npt.NDArray[np.bool_]
) -> Iterator[list[str]]:
    """Yield the texts of the users who are to be encoded, USER_BATCH of all after the other."""

    def rows() -> Iterator[tuple[int, str]]:
        for batch in export.shared_texts_batches():
            at = rows_of(batch.column("user_id"), user_ids)
            wanted = np.flatnonzero((at >= 0) & to_encode[at])
            texts = batch.column("text").take(pa.array(wanted)).to_pylist()
            yield from zip((at[wanted] // USER_BATCH).tolist(), texts, strict=True)

    for _, some in groupby(rows(), key=lambda row: row[0]):
        yield [text for _, text in some]


def _write_part(sources: PartSources, rows: Rows, encode: Callable[[PartSources, Rows], FloatArray]) -> str:
    check_shared(sources.folder)
    name = f"{rows.number:06d}.safetensors"

    def write() -> None:
        vectors = encode(sources, rows)
        write_vectors(sources.folder / name, [vectors], vectors.shape[1])

    checkpointed(sources.folder, f"{rows.number:06d}", [name], write)
    return name


def _item_part(sources: PartSources, rows: Rows) -> FloatArray:
    export, model, texts_known = _opened(sources)
    ids = map_table(sources.folder / _IDS_FILE).column("item_id").slice(rows.start, rows.stop - rows.start)
    items = export.items_between(ids[0].as_py(), ids[-1].as_py())
    if len(items) != len(ids):
        raise OtherRowsError(sources.export, len(ids), len(items))
    texts = texts_of(items)
    return item_vectors(model, items, rows_of(ids, model.item_ids), texts, texts_known.get(texts))


def _user_part(sources: PartSources, rows: Rows) -> FloatArray:
    export, model, texts_known = _opened(sources)
    table = map_table(sources.folder / _IDS_FILE).slice(rows.start, rows.stop - rows.start)
    ids = table.filter(table.column("to_encode")).column("user_id").combine_chunks()
    return encode_users(export, model, ids, texts_known.get)


@lru_cache(1)
def _opened(sources: PartSources) -> tuple[Export, Model, TextVectors]:
    """Open the sources once for all parts of a worker."""
    return (
        Export.open(sources.export, verify=False, threads=1),
        Model.load(sources.model, threads=1, check=False),
        TextVectors.open(sources.folder / _TEXTS),
    )
