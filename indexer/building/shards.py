"""Shards: FAISS files built from vectors on disk, some rows to each; a killed build goes on."""

import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from encoder.jobs import IN_PROCESS, Jobs, check_shared
from encoder.progress import LongStage, watched
from indexer.building.build_checkpoint import checkpointed
from indexer.building.factory import cagra_degree, empty_faiss
from indexer.files import (
    VECTORS_FILE,
    FloatArray,
    faiss_file,
    map_vectors,
)
from indexer.search import cagra_graph, inner_of, to_cpu, to_gpu

log = logging.getLogger(__name__)
SHARD_ITEMS = 4_194_304  # of one FAISS file; a multiple of 8, so that a bitmap is cut between bytes
_ADDED = 65_536  # vectors at a time
_TRAINED = 64  # vectors per list of an IVF that its k-means looks at
_TRAINED_AT_LEAST = 65_536
_SAVED_S = 60.0


def build_shard(vectors: FloatArray, factory: str, path: Path) -> None:
    """Write a FAISS index over vectors (N, D), which may be memory-mapped, to one file.

    A partial index that a killed run saved beside the file is continued.

    Raises:
        FactoryError: FAISS does not understand the factory.
    """
    degree = cagra_degree(factory)
    if degree is not None:  # in one go: nothing can be added to such a graph
        empty_faiss(vectors.shape[1], factory)
        faiss.write_index(cagra_graph(vectors, degree), str(path))
        return
    partial = path.with_suffix(".part")
    if partial.exists():
        built = faiss.read_index(str(partial))
        log.info("%s: going on after %d of %d items", path.name, built.ntotal, len(vectors))
    else:
        built = empty_faiss(vectors.shape[1], factory)
        worker = to_gpu(built)
        _train(worker, built, vectors)
        built = to_cpu(worker)
        _save(built, partial)
    worker, saved = to_gpu(built), time.monotonic()
    starts = range(built.ntotal, len(vectors), _ADDED)
    for start in watched(starts, f"index {path.stem}", "chunk"):
        worker.add(np.ascontiguousarray(vectors[start : start + _ADDED]))
        if time.monotonic() - saved > _SAVED_S:
            _save(to_cpu(worker), partial)
            saved = time.monotonic()
    faiss.write_index(to_cpu(worker), str(path))
    partial.unlink()


def _train(worker: Any, built: Any, vectors: FloatArray) -> None:
    """Train an index, which may be on a card, if its kind needs that; `built` is its CPU form."""
    if worker.is_trained:
        return
    inner = inner_of(built)
    lists = inner.nlist if isinstance(inner, faiss.IndexIVF) else 1
    wanted = min(len(vectors), max(_TRAINED * lists, _TRAINED_AT_LEAST))
    rows = np.linspace(0, len(vectors) - 1, wanted).astype(np.int64)  # evenly, in the order on disk
    for one in {id(worker): worker, id(inner): inner}.values():
        if hasattr(one, "cp"):  # of an IVF
            one.cp.max_points_per_centroid = _TRAINED
            one.cp.min_points_per_centroid = 1  # or it warns on stderr
    worker.train(np.ascontiguousarray(vectors[rows]))


def _save(built: Any, path: Path) -> None:
    draft = path.with_suffix(".tmp")
    faiss.write_index(built, str(draft))
    draft.replace(path)


def shards_of(rows: int) -> Iterator[slice]:
    """Yield the rows of each shard; at least one, which may be empty."""
    for start in range(0, max(1, rows), SHARD_ITEMS):
        yield slice(start, min(rows, start + SHARD_ITEMS))


def build_shards(folder: Path, factory: str, jobs: Jobs = IN_PROCESS) -> dict[str, str]:
    """Write the FAISS files over the vectors in a folder; return their sha256 by name.

    One file alone is written in this process, with all its threads; of several each worker writes one.

    Raises:
        FactoryError: FAISS does not understand the factory.
    """
    parts = list(enumerate(shards_of(len(map_vectors(folder / VECTORS_FILE)))))
    write, digests = partial(write_shard, folder.resolve(), factory), dict[str, str]()
    if len(parts) == 1:
        return write(parts[0])
    with LongStage("index", len(parts), "shard") as stage:
        for written in jobs.map(write, parts, "index"):
            digests |= written
            stage.advance()
    return digests


def write_shard(folder: Path, factory: str, part: tuple[int, slice]) -> dict[str, str]:
    """Write one FAISS file over some vectors of a folder, unless an earlier run did; return its sha256.

    Args:
        folder: of the build.
        factory: of the index.
        part: number of the shard, and its rows.
    """
    check_shared(folder)
    number, rows = part
    name = faiss_file(number)
    write = partial(build_shard, map_vectors(folder / VECTORS_FILE)[rows], factory, folder / name)
    return checkpointed(folder, f"{factory.replace(',', '-')}-{number}", [name], write)
