"""Synthetic vectors and an index over them, without a model behind it."""

import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from indexer.building import Choice, assemble_index, fit, write_rows
from indexer.files import VECTORS_FILE, FloatArray, write_vectors
from indexer.filters import AttributeIndexBuilder, terms_of
from indexer.index import Index
from indexer.search import EXACT
from scripts.terminal import set_up_logging

Attributes = Callable[[int], dict[str, Any]]
_CHUNK = 65_536
_CLUSTER = 100  # items around one centre
_SPREAD = 0.5  # of a cluster, over that of the centres
_INTERESTS = 3  # clusters behind a user


@dataclass(frozen=True)
class Synthetic:
    """Items in clusters, and users with several interests; the same draws give the same vectors.

    Coordinate i is scaled by 1/√i, as the spectrum of learned vectors falls; without that every index finds
    everything with next to no effort.

    Attributes:
        items: how many.
        dim: of a vector.
        seed: of everything.
    """

    items: int
    dim: int
    seed: int = 0

    def chunks(self) -> Iterator[FloatArray]:
        """Yield the unit vectors (n, D) float32 of all items, some at a time."""
        for number, start in enumerate(range(0, self.items, _CHUNK)):
            yield self._drawn(np.random.default_rng([self.seed, 1, number]), min(_CHUNK, self.items - start))

    def more(self, count: int) -> FloatArray:
        """Return unit vectors (count, D) float32 of further items."""
        return self._drawn(np.random.default_rng([self.seed, 4]), count)

    def users(self, count: int, draw: int = 0) -> FloatArray:
        """Return unit vectors (count, D) float32 of users; another draw gives other users."""
        drawn = self._drawn(np.random.default_rng([self.seed, 2, draw]), _INTERESTS * count)
        return _unit(drawn.reshape(count, _INTERESTS, self.dim).sum(axis=1))

    @cached_property
    def _centres(self) -> FloatArray:
        generator = np.random.default_rng([self.seed, 0])
        return generator.standard_normal((max(1, self.items // _CLUSTER), self.dim), dtype=np.float32)

    def _drawn(self, generator: np.random.Generator, count: int) -> FloatArray:
        spread = generator.standard_normal((count, self.dim), dtype=np.float32)
        vectors: FloatArray = (
            self._centres[generator.integers(len(self._centres), size=count)] + _SPREAD * spread
        )
        vectors /= np.sqrt(np.arange(1, self.dim + 1, dtype=np.float32))
        return _unit(vectors)


def write_index(
    parent: Path,
    vectors: FloatArray,
    factory: str,
    queries: FloatArray,
    *,
    ann_recall: float = 0.99,
    attributes: Attributes | None = None,
) -> Index:
    """Return a new index over vectors (N, D), tuned with queries (Q, D); its files lie below `parent`.

    Item n is named item-000000n; `attributes` gives what filters may ask of it.

    Raises:
        FactoryError: FAISS does not understand the factory.
    """
    chunks = (vectors[start : start + _CHUNK] for start in range(0, len(vectors), _CHUNK))
    directory = write_chunks(
        parent, chunks, vectors.shape[1], factory, queries, ann_recall=ann_recall, attributes=attributes
    )
    return Index.load(directory, check=False)


def write_chunks(
    parent: Path,
    chunks: Iterable[FloatArray],
    dim: int,
    factory: str,
    queries: FloatArray,
    *,
    ann_recall: float = 0.99,
    attributes: Attributes | None = None,
) -> Path:
    """Return the directory of what `write_index` returns, of vectors that come in chunks (n, D).

    `attributes` is first called when all vectors have come.

    Raises:
        FactoryError: FAISS does not understand the factory.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".draft-") as name:
        folder = Path(name)
        count = write_vectors(folder / VECTORS_FILE, chunks, dim)
        facts = AttributeIndexBuilder()
        if attributes is not None:
            for row in range(count):
                facts.add(row, terms_of(None, attributes(row)))
        hashes = pa.table(
            {
                "item_id": [f"item-{row:09d}" for row in range(count)],
                **{name: pa.array([bytes(16)] * count, pa.binary(16)) for name in ("content", "facts")},
            }
        )
        write_rows(folder, hashes, np.zeros(count, dtype=np.float32), facts)
        fitted = fit(folder, queries, Choice(factory, "it is measured", (EXACT,)), ann_recall)
        return assemble_index(parent, folder, fitted, {"model_id": "bench", "dim": dim})


def _unit(vectors: FloatArray) -> FloatArray:
    unit: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


log = logging.getLogger(__name__)

TUNING_USERS = 512
RANDOM, NEAR, HALF = "random", "near", "half"  # attributes of every item


@dataclass(frozen=True)
class Built:
    """A finished index.

    Attributes:
        directory: where it is.
        seconds: from the first vector to the published directory.
        peak_mib: most memory that the process had resident, pages of mapped files included.
        faiss_mib: of the FAISS files; an exact index has none.
    """

    directory: Path
    seconds: float
    peak_mib: float
    faiss_mib: float


def build_index_apart(folder: Path, world: Synthetic, factory: str, ann_recall: float) -> Built:
    """Build as `build_index` does, in a fresh process, so that its peak memory can be read."""
    with ProcessPoolExecutor(1, get_context("spawn"), set_up_logging_quietly) as pool:
        return pool.submit(build_index, folder, world, factory, ann_recall).result()


def build_index(folder: Path, world: Synthetic, factory: str, ann_recall: float) -> Built:
    """Build an index below a folder over the items of a world, tuned with users of it.

    Each item has three attributes: `random`, evenly in 0..1; `near`, the score with one user; `half`, true or
    false.

    Raises:
        FactoryError: FAISS does not understand the factory.
    """
    began = time.perf_counter()
    random = random_of(world)
    centre = centre_of(world)
    near: list[FloatArray] = []

    def attributes(row: int) -> dict[str, Any]:
        score = float(near[row // len(near[0])][row % len(near[0])])
        return {RANDOM: float(random[row]), NEAR: score, HALF: row % 2 == 0}

    def chunks() -> Any:
        for chunk in world.chunks():
            near.append(chunk @ centre)
            yield chunk

    directory = write_chunks(
        folder,
        chunks(),
        world.dim,
        factory,
        world.users(TUNING_USERS),
        ann_recall=ann_recall,
        attributes=attributes,
    )
    size = sum(path.stat().st_size for path in directory.glob("*.faiss")) / 2**20
    built = Built(directory, time.perf_counter() - began, peak_mib(), size)
    log.info("bench index: %s built in %.0f s, %.0f MiB at most", factory, built.seconds, built.peak_mib)
    return built


def random_of(world: Synthetic) -> npt.NDArray[np.float64]:
    """Return the attribute `random` (N,) of the items of a world."""
    return np.random.default_rng([world.seed, 3]).random(world.items)


def centre_of(world: Synthetic) -> FloatArray:
    """Return the vector (D,) that the attribute `near` is measured from."""
    vector: FloatArray = world.users(1, draw=2)[0]
    return vector


def peak_mib() -> float:
    """Return the most memory that this process ever had resident (Linux's VmHWM; 0 elsewhere)."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text("utf-8")) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0


def set_up_logging_quietly() -> None:
    """Log as the process that started this one does."""
    set_up_logging(verbose=False)
