"""The searched structure of an index, opened where it is to be searched: memory-mapped, or on the cards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from indexer.arrays import FloatArray
from indexer.building.choice import EXACT
from indexer.files import faiss_file
from indexer.search.ann import AnnIndex
from indexer.search.gpu import gpus, to_gpu
from indexer.search.search_params import SearchParams


def open_searched(directory: Path, manifest: dict[str, Any], vectors: FloatArray) -> AnnIndex | None:
    """Return what searches the main part of an index; None where the CPU compares every vector (N, D)."""
    float16 = bool(manifest.get("card_float16", False))
    if manifest["factory"] == EXACT:
        return exact_on_gpus(vectors, float16=float16) if gpus().count and len(vectors) else None
    files = [directory / faiss_file(shard) for shard in range(manifest["shards"])]
    return open_shards(files, SearchParams.from_json(manifest), float16=float16)


def open_shards(
    paths: Sequence[Path], search_params: SearchParams, *, cpu: bool = False, float16: bool = False
) -> AnnIndex:
    """Return the shards in some FAISS files, memory-mapped where FAISS can, or on the cards by turns.

    Args:
        paths: the rows of one follow those of the one before.
        search_params: of a search that names none.
        cpu: leave the cards alone.
        float16: hold full vectors on cards as halves.
    """
    flags = faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY
    read = [faiss.read_index(str(path), flags) for path in paths]
    placed = read if cpu else [to_gpu(shard, i, float16=float16) for i, shard in enumerate(read)]
    return AnnIndex(placed, search_params, float16=float16)


def exact_on_gpus(vectors: FloatArray, *, float16: bool = False) -> AnnIndex:
    """Return what compares all of vectors (N, D), as many on each card; N is at least 1.

    With `float16` the best by halves, twice as many as are asked for, are compared by exact scores.
    """
    shards = []
    size = 8 * -(-len(vectors) // (8 * max(1, gpus().count)))  # so that a bitmap splits between bytes
    for i, start in enumerate(range(0, len(vectors), size)):
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(np.ascontiguousarray(vectors[start : start + size]))
        shards.append(to_gpu(index, i, float16=float16))
    return AnnIndex(shards, SearchParams(refine=2 if float16 else 1), float16=float16)
