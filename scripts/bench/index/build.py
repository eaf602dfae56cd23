"""An index over synthetic items, built in a process of its own, so that its memory can be told."""

import logging
import re
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from indexer.files import FloatArray
from scripts.bench.index.vectors import Synthetic, write_chunks
from scripts.session import set_up_logging

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


def build_apart(folder: Path, world: Synthetic, factory: str, ann_recall: float) -> Built:
    """Return `build` of the same arguments, done in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn"), set_up_logging_quietly) as pool:
        return pool.submit(build, folder, world, factory, ann_recall).result()


def build(folder: Path, world: Synthetic, factory: str, ann_recall: float) -> Built:
    """Build an index below a folder over the items of a world, tuned with users of it.

    Each item has three attributes: `random`, evenly in 0..1; `near`, the score with one user; `half`, true or
    false.

    Raises:
        FactoryError: FAISS does not understand the factory.
    """
    began = time.perf_counter()
    random = np.random.default_rng([world.seed, 3]).random(world.items)
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
