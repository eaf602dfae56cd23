"""Engines that filter, to measure our filtered search beside: Qdrant's engine and LanceDB, in process."""

import importlib.metadata
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from indexer.files import FloatArray, IntArray

log = logging.getLogger(__name__)

_GRAPH = (32, 200)  # m and ef_construct of Qdrant's graph
_GRAPH_OF_MANY = (16, 100)  # its defaults, from _MANY on: of a million the other takes two cores half an hour
_MANY = 1_000_000
_SCANNED_KIB = 1_000  # of vectors: fewer that a filter allows are compared one by one by Qdrant
_POINTS = 5_000  # in one call of Qdrant
_ROWS = 65_536  # in one write to LanceDB
_REFINE = 10  # times k: candidates that LanceDB compares again by full vectors
_LONG = timedelta(hours=2)

Numbers = Mapping[str, npt.NDArray[np.float64]]  # (N,) of each attribute


class Range(NamedTuple):
    """A filter by one number: those of an attribute from `least` to `greatest`."""

    name: str
    least: float
    greatest: float


class FilteringEngine(Protocol):
    """An engine over (N, D) vectors, each with some numbers; row n is the n-th of them.

    Attributes:
        name: with its version and settings.
        efforts: that a search may be given, rising.
    """

    name: str
    efforts: Sequence[int]

    def find(self, query: FloatArray, k: int, effort: int, wanted: Range | None) -> IntArray:
        """Return the best k rows (1, k) for a query (1, D) among those a filter allows; −1 follows."""


class QdrantEngine:
    """Qdrant's engine, a graph of all vectors and an index of each number, in one segment.

    Args:
        folder: empty; it writes there.
        vectors: (N, D) float32.
        numbers: of each vector.
    """

    efforts: Sequence[int] = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)

    def __init__(self, folder: Path, vectors: FloatArray, numbers: Numbers) -> None:
        import qdrant_edge as qdrant

        self._qdrant: Any = qdrant
        m, ef = _GRAPH_OF_MANY if len(vectors) >= _MANY else _GRAPH
        self.name = f"qdrant-edge-py {_version('qdrant-edge-py')} HNSW m={m} ef_construct={ef}"
        graph = qdrant.HnswIndexConfig(m=m, ef_construct=ef, full_scan_threshold=_SCANNED_KIB)
        size = vectors.shape[1]
        config = qdrant.EdgeConfig(
            vectors=qdrant.EdgeVectorParams(size=size, distance=qdrant.Distance.Dot, hnsw_config=graph),
            hnsw_config=graph,
            optimizers=qdrant.EdgeOptimizersConfig(default_segment_number=1, max_segment_size=1 << 30),
        )
        folder.mkdir(parents=True)
        self._shard = qdrant.EdgeShard.create(str(folder), config)
        for name in numbers:
            self._shard.update(
                qdrant.UpdateOperation.create_field_index(name, qdrant.PayloadSchemaType.Float)
            )
        for start in range(0, len(vectors), _POINTS):
            rows = range(start, min(start + _POINTS, len(vectors)))
            points = [
                qdrant.Point(
                    row, vectors[row].tolist(), {name: float(of[row]) for name, of in numbers.items()}
                )
                for row in rows
            ]
            self._shard.update(qdrant.UpdateOperation.upsert_points(points))
        self._shard.optimize()  # builds the graph

    def find(self, query: FloatArray, k: int, effort: int, wanted: Range | None) -> IntArray:
        """Return rows (1, k); the effort is the beam, `hnsw_ef`."""
        qdrant, condition = self._qdrant, None
        if wanted is not None:
            within = qdrant.RangeFloat(gte=wanted.least, lte=wanted.greatest)
            condition = qdrant.Filter(must=[qdrant.FieldCondition(wanted.name, range=within)])
        request = qdrant.QueryRequest(
            limit=k,
            query=qdrant.Query.Nearest(query[0].tolist()),
            filter=condition,
            params=qdrant.SearchParams(hnsw_ef=effort),
            with_payload=False,
        )
        return _row([int(point.id) for point in self._shard.query(request)], k)


class LanceEngine:
    """LanceDB, an IVF of small graphs over 8-bit codes, and a B-tree of each number.

    Args:
        folder: empty; it writes there.
        vectors: (N, D) float32.
        numbers: of each vector.
    """

    efforts: Sequence[int] = (5, 10, 20, 40, 80, 160, 320, 640, 1280)

    def __init__(self, folder: Path, vectors: FloatArray, numbers: Numbers) -> None:
        import lancedb
        import pyarrow as pa

        parts = round(len(vectors) ** 0.5)
        self.name = f"lancedb {_version('lancedb')} IVF_HNSW_SQ {parts} refine {_REFINE}"
        schema = pa.schema(
            [
                ("id", pa.int64()),
                *((name, pa.float64()) for name in numbers),
                ("vector", pa.list_(pa.float32(), vectors.shape[1])),
            ]
        )

        def batches() -> Any:
            for start in range(0, len(vectors), _ROWS):
                some = slice(start, min(start + _ROWS, len(vectors)))
                flat = pa.array(np.ascontiguousarray(vectors[some]).ravel())
                columns = [np.arange(some.start, some.stop), *(of[some] for of in numbers.values())]
                vector = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
                yield pa.record_batch([*map(pa.array, columns), vector], schema=schema)

        self._table: Any = lancedb.connect(folder).create_table(
            "items", pa.RecordBatchReader.from_batches(schema, batches())
        )
        for name in numbers:
            self._table.create_scalar_index(name, index_type="BTREE")
        self._table.create_index(
            metric="dot", num_partitions=parts, index_type="IVF_HNSW_SQ", vector_column_name="vector"
        )
        self._table.wait_for_index([index.name for index in self._table.list_indices()], timeout=_LONG)

    def find(self, query: FloatArray, k: int, effort: int, wanted: Range | None) -> IntArray:
        """Return rows (1, k); the effort is `nprobes`."""
        search = self._table.search(query[0]).distance_type("dot").nprobes(effort).refine_factor(_REFINE)
        if wanted is not None:
            name, least, greatest = wanted
            search = search.where(f"{name} >= {least!r} and {name} <= {greatest!r}", prefilter=True)
        return _row(search.limit(k).select(["id", "_distance"]).to_arrow()["id"].to_pylist(), k)


def filtering_engines(folder: Path, vectors: FloatArray, numbers: Numbers) -> Sequence[FilteringEngine]:
    """Build those of the engines that are installed over vectors (N, D); they write to a folder."""
    kinds: dict[str, type[QdrantEngine] | type[LanceEngine]] = {
        "qdrant_edge": QdrantEngine,
        "lancedb": LanceEngine,
    }
    made: list[FilteringEngine] = []
    for package, kind in kinds.items():
        if importlib.util.find_spec(package) is None:
            log.info("bench index: %s is not installed (pip install 'triptych[bench]'): left out", package)
            continue
        log.info("bench index: building %s", package)
        made.append(kind(folder / package, vectors, numbers))
    return made


def _row(ids: Sequence[int], k: int) -> IntArray:
    row = np.full((1, k), -1, dtype=np.int64)
    row[0, : len(ids)] = ids
    return row


def _version(package: str) -> str:
    return importlib.metadata.version(package)
