"""Our index on a card: parity with the CPU, and build times."""

import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from indexer.building import build_shard
from indexer.files import VECTORS_FILE, FloatArray, IntArray, faiss_file, map_vectors, write_vectors
from indexer.index import Index
from indexer.search import gpus, has_cuvs, open_shards
from scripts.bench.index.synthetic import TUNING_USERS, Synthetic, write_chunks
from scripts.gpu.exact_step import DIM, K, overlap

log = logging.getLogger(__name__)

PARITY_ITEMS, BUILD_ITEMS = 200_000, 1_000_000
_QUERIES = 256


def measure_parity(items: int = PARITY_ITEMS) -> dict[str, Any]:
    """Return for each kind of index how alike card and CPU answer, k = 50.

    `same_ids` is the share of ids that both find, `recall_card` and `recall_cpu` the shares of the exact
    results, `greatest_score_difference` that of the exact scores which come with equal ids. Flat on the card
    also stands beside a product in torch where that is installed.
    """
    world = Synthetic(items, DIM)
    queries = world.users(_QUERIES, draw=1)
    kinds = ["Flat", "IVF1024,Flat", "IVF1024,SQ8", *(["CAGRA64"] if has_cuvs() else [])]
    rows = []
    for factory in kinds:
        with tempfile.TemporaryDirectory() as name:
            directory = write_chunks(Path(name), world.chunks(), DIM, factory, world.users(TUNING_USERS))
            index = Index.load(directory)
            found, scores = index.search(queries, K)[:2]
            exact, exact_scores = index.brute_force(queries, K)[:2]
            on_cpu = exact
            if factory != "Flat" and index.approximate is not None:
                params = index.approximate.search_params
                shards = range(index.manifest["shards"])
                files = [directory / faiss_file(shard) for shard in shards]
                on_cpu = open_shards(files, params, cpu=True).search(queries, K, params)
            equal = found == exact
            differences = np.abs(scores - exact_scores)[equal]
            rows.append(
                {
                    "factory": index.manifest["factory"],
                    "same_ids": overlap(found, on_cpu),
                    "recall_card": overlap(found, exact),
                    "recall_cpu": overlap(on_cpu, exact),
                    "greatest_score_difference": float(differences.max(initial=0.0)),
                }
            )
            if factory == "Flat":
                rows[-1] |= _beside_torch(index.main.vectors, queries, found)
    return {"items": items, "dim": DIM, "k": K, "results": rows}


def measure_builds(items: int = BUILD_ITEMS) -> dict[str, Any]:
    """Return how long the FAISS files of N vectors take to build, on the card where one is to be seen.

    A CAGRA graph is built on a card alone; on the CPU an HNSW graph stands in its place.
    """
    card = gpus().count > 0
    graph = ["CAGRA64"] if card and has_cuvs() else [] if card else ["HNSW32"]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_vectors(folder / VECTORS_FILE, Synthetic(items, DIM).chunks(), DIM)
        vectors = map_vectors(folder / VECTORS_FILE)
        for factory in ("IVF4096,Flat", "IVF4096,SQ8", *graph):
            began = time.perf_counter()
            build_shard(vectors, factory, folder / f"{factory}.faiss")
            rows.append({"factory": factory, "seconds": time.perf_counter() - began})
            log.info("gpu: %s in %.1f s", factory, rows[-1]["seconds"])
    return {"items": items, "dim": DIM, "on": "card" if card else "CPU", "results": rows}


def _beside_torch(vectors: FloatArray, queries: FloatArray, found: IntArray) -> dict[str, Any]:
    """Return the share of the ids that a product in torch finds on the card, in float32."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    torch.backends.cuda.matmul.allow_tf32 = False
    scores = torch.from_numpy(queries).cuda() @ torch.from_numpy(np.ascontiguousarray(vectors)).cuda().T
    return {"same_ids_torch": overlap(found, scores.topk(K, dim=1).indices.cpu().numpy())}
